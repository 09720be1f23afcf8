"""The Lua semaphore, with who waits blocked in BLPOP instead of polling.

Letting go is a script as well: it puts one word into a list, on which those who wait are blocked; who
gets the word tries again. (So who comes in between may be first: there is no line.) Blocking, and in
tasks of redis.asyncio.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import redis
import redis.asyncio

from bench.clients.many_tasks import run_on, time_of
from bench.clients.redis_lua import LEASE_SECONDS, TAKE
from bench.clients.worker import Worker, serve

GIVE = """
redis.call('ZREM', KEYS[1], ARGV[2])
if redis.call('LLEN', KEYS[2]) < tonumber(ARGV[1]) then
    redis.call('LPUSH', KEYS[2], 1)
end
"""


class RedisWake(Worker):
    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._redis = redis.Redis(unix_socket_path=socket, socket_timeout=None)  # for BLPOP
        self._take = self._redis.register_script(TAKE)
        self._give = self._redis.register_script(GIVE)
        self._slots: dict[str, int] = {}
        self._numbers = itertools.count()
        self.hold = self._hold

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        self._slots[name] = slots

    @contextmanager
    def _hold(self, name: str) -> Iterator[None]:
        member = f"{os.getpid()}-{next(self._numbers)}"
        keys, slots = [name, f"{name}:free"], self._slots[name]
        while not self._take(keys=keys[:1], args=[slots, LEASE_SECONDS, member]):
            self._redis.blpop(keys[1:], LEASE_SECONDS)
        try:
            yield
        finally:
            self._give(keys=keys, args=[slots, member])

    def tasks(self, name: str, count: int, tasks: int, loop: str) -> float:
        """`count` cycles in all by so many tasks of redis.asyncio; microseconds each."""
        cycle = cycle_in_tasks(self._socket, name, self._slots[name], count // tasks, tasks)
        return float(run_on(loop)(cycle))


async def cycle_in_tasks(socket: str, name: str, slots: int, each: int, tasks: int) -> float:
    """acquire + release, `each` times in each of so many tasks; microseconds each."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        f"unix://{socket}", max_connections=tasks, socket_timeout=None
    )
    async with redis.asyncio.Redis(connection_pool=pool) as client:
        take, give = client.register_script(TAKE), client.register_script(GIVE)
        keys = [name, f"{name}:free"]

        @asynccontextmanager
        async def hold(member: str) -> AsyncIterator[None]:
            while not await take(keys=keys[:1], args=[slots, LEASE_SECONDS, member]):
                await client.blpop(keys[1:], LEASE_SECONDS)
            try:
                yield
            finally:
                await give(keys=keys, args=[slots, member])

        async def cycle(task: int, times: int) -> None:
            for number in range(times):
                async with hold(f"{task}-{number}"):
                    pass

        took = await time_of(cycle, each, tasks)
    await pool.aclose()
    return took


def main(address: str) -> None:
    serve(RedisWake(address))
