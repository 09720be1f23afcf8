"""`limits`: rates in Redis; hit() says whether one may go; who may not sleeps until it can."""

from __future__ import annotations

import time
from typing import Any

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter, RateLimiter

from bench.clients.worker import Worker, serve

LEAST_SECONDS = 0.0005  # of a sleep: the window's end is told as of a moment ago


class Limits(Worker):
    def __init__(self, socket: str, strategy: type[RateLimiter]) -> None:
        self._limiter = strategy(
            RedisStorage(f"redis+unix://{socket}", key_prefix=strategy.__name__)
        )
        self._items: dict[str, RateLimitItem] = {}
        self.spend = self._spend

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        """A window of one second, the shortest that it knows."""
        self._items[name] = RateLimitItemPerSecond(max(1, round(rate)))

    def _spend(self, name: str) -> Any:
        item = self._items[name]
        while not self._limiter.hit(item, name):
            end = self._limiter.get_window_stats(item, name).reset_time
            time.sleep(max(LEAST_SECONDS, end - time.time()))


def main(address: str) -> None:
    serve(Limits(address, FixedWindowRateLimiter))
