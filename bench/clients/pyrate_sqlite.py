"""pyrate-limiter: SQLite in memory's file system, with its lock for several processes."""

from __future__ import annotations

from pathlib import Path

from pyrate_limiter import Limiter, SQLiteBucket

from bench.clients.pyrate_redis import rate_of
from bench.clients.worker import Worker, serve


class PyrateSqlite(Worker):
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._limiters: dict[str, Limiter] = {}
        self.spend = lambda name: self._limiters[name].try_acquire(name)

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        bucket = SQLiteBucket.init_from_file(
            [rate_of(max(slots, round(rate)), rate)],
            db_path=str(self._folder / f"{name}.sqlite"),
            use_file_lock=True,
        )
        self._limiters[name] = Limiter(bucket, buffer_ms=0)


def main(address: str) -> None:
    serve(PyrateSqlite(address))
