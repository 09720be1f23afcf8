"""pyrate-limiter: a token bucket in Redis; try_acquire waits until one may go."""

from __future__ import annotations

import redis
from pyrate_limiter import Duration, Limiter, Rate, RedisStateStore, StateBucket, TokenBucket

from bench.clients.worker import Worker, serve


def rate_of(slots: int, rate: float) -> Rate:
    """The shortest interval that is a whole number of slots."""
    if rate >= 1:
        return Rate(round(rate), Duration.SECOND, burst=slots)
    return Rate(1, round(1000 / rate), burst=slots)


class PyrateRedis(Worker):
    def __init__(self, socket: str) -> None:
        self._redis = redis.Redis(unix_socket_path=socket)
        self._limiters: dict[str, Limiter] = {}
        self.spend = lambda name: self._limiters[name].try_acquire(name)

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        store = RedisStateStore(self._redis, f"pyrate:{name}")
        bucket = StateBucket([rate_of(slots, rate)], store=store, algorithm=TokenBucket())
        self._limiters[name] = Limiter(bucket, buffer_ms=0)


def main(address: str) -> None:
    serve(PyrateRedis(address))
