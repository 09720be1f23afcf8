"""redis-py's own Lock: one slot, with a time-out for holders that die; who waits polls."""

from __future__ import annotations

import redis

from bench.clients.redis_lua import LEASE_SECONDS, POLL_SECONDS
from bench.clients.worker import Worker, serve


class RedisLock(Worker):
    poll_seconds = POLL_SECONDS

    def __init__(self, socket: str) -> None:
        self._redis = redis.Redis(unix_socket_path=socket)
        self.hold = lambda name: self._redis.lock(name, LEASE_SECONDS, sleep=POLL_SECONDS)


def main(address: str) -> None:
    serve(RedisLock(address))
