"""A semaphore in Redis, as it is commonly written: one atomic Lua script takes a slot with a lease.

The holders are a sorted set, by the end of their leases; the clock is the server's. Who waits asks
again. Registered scripts go by EVALSHA; the connection is a Unix socket, kept by redis-py's pool. Tasks
of redis.asyncio share a pool of as many connections as there are slots: that was the quickest.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import redis.asyncio

from bench.clients.many_tasks import run_on, time_of
from bench.clients.worker import Worker, serve

LEASE_SECONDS = 30
POLL_SECONDS = 0.005

TAKE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[1]) then
    redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
    return 1
end
return 0
"""


class RedisLua(Worker):
    poll_seconds = POLL_SECONDS

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.redis = redis.Redis(unix_socket_path=socket)
        self.slots: dict[str, int] = {}
        self._take = self.redis.register_script(TAKE)
        self._numbers = itertools.count()
        self.hold = self._hold

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        self.slots[name] = slots

    def sha(self) -> str:
        """Of the script, once it is loaded; for redis-benchmark."""
        return str(self.redis.script_load(TAKE))

    @contextmanager
    def _hold(self, name: str) -> Iterator[None]:
        member = f"{os.getpid()}-{next(self._numbers)}"
        arguments = [self.slots[name], LEASE_SECONDS, member]
        while not self._take(keys=[name], args=arguments):
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            self.redis.zrem(name, member)

    def tasks(self, name: str, count: int, tasks: int, loop: str) -> float:
        """`count` cycles in all by so many tasks of redis.asyncio; microseconds each."""
        cycle = cycle_in_tasks(self.socket, name, self.slots[name], count // tasks, tasks)
        return float(run_on(loop)(cycle))


async def cycle_in_tasks(socket: str, name: str, slots: int, each: int, tasks: int) -> float:
    """acquire + release, `each` times in each of so many tasks; microseconds each."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        f"unix://{socket}", max_connections=slots, timeout=None
    )
    async with redis.asyncio.Redis(connection_pool=pool) as client:
        take = client.register_script(TAKE)

        async def cycle(task: int, times: int) -> None:
            for number in range(times):
                member = f"{task}-{number}"
                # It polls: with 10 connections that was twice as quick as BLPOP with 100.
                while not await take(keys=[name], args=[slots, LEASE_SECONDS, member]):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_SECONDS)
                await client.zrem(name, member)

        took = await time_of(cycle, each, tasks)
    await pool.aclose()
    return took


def main(address: str) -> None:
    serve(RedisLua(address))
