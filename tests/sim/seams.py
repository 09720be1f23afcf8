"""Where the real code of the daemon and the clients touches the host, and what it finds there instead.

Rule: only descriptors, clocks, chance and names of this host are replaced, as attributes of the modules
that use them; everything is put back afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import atmost.asyncio
from atmost import asyncio_connection, exchange, reconnecting
from atmostd import __main__ as daemon_main
from atmostd import (
    clock,
    closed,
    config,
    configuration,
    connection,
    journal,
    keeping,
    recovery,
    reloading,
    slates,
    store,
)
from atmostd.records import AnyRecord
from atmostd.registry import Registry
from atmostd.session import Sessions
from atmostd.settings import Settings
from tests.sim.host import Admins, SimClosed, SimDaemon, Timer, credentials
from tests.sim.network import Socket
from tests.sim.planted import ALL
from tests.sim.planted_faults import Patch
from tests.sim.spy import SpyRegistry
from tests.sim.world import SECOND, World

JOURNAL_BYTES_MAX = 3000  # so that it is replaced again and again
PID = 4242  # as the messages tell it: the bytes are the same in every run


class Shim:
    """A module with some names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _seams(world: World) -> Iterator[Patch]:
    def new_socket(family: object = None, kind: object = None, *, fileno: Any = None) -> Socket:
        return Socket() if fileno is None else fileno

    def monotonic() -> float:
        return world.now / SECOND

    def replay(recorded: Iterable[AnyRecord], registry: Registry, sessions: Sessions) -> None:
        world.host.replaying = True
        try:
            _replay(recorded, registry, sessions)
        finally:
            world.host.replaying = False

    async def at_once(do: Callable[[], Any]) -> Any:
        return do()

    def clear_up(self: slates.Slates) -> None:
        if world.host.process.alive:  # and has not died in the write before
            _clear_up(self)

    def settle(held: exchange.Exchange, at: object) -> None:
        world.host.settle(held)

    yield daemon_main, "boot_time", lambda: world.now
    yield daemon_main, "Processes", lambda: world.host
    yield daemon_main, "Admins", Admins
    for module in (connection, closed):
        yield module, "credentials", credentials
    yield daemon_main, "serve", world.host.serve
    yield daemon_main, "Daemon", SimDaemon
    yield daemon_main, "Closed", SimClosed
    yield closed, "serve", world.host.serve
    yield closed, "Admins", Admins
    yield closed, "boot_time", lambda: world.now
    yield closed, "os", Shim(os, getpid=lambda: PID)
    yield journal, "os", Shim(os, write=world.host.runtime_disk.write)
    yield daemon_main, "_boot_id", lambda: world.host.boot_id
    yield daemon_main, "Registry", type("Spy", (SpyRegistry,), {"world": world})
    yield daemon_main, "os", Shim(os, _exit=world.host.crash)
    yield recovery, "replay", replay
    yield clock, "_Timer", Timer
    yield reloading, "asyncio", Shim(asyncio, to_thread=at_once)
    yield Settings, "read_again", lambda self: self  # there is no configuration file
    yield config, "JOURNAL_BYTES_MAX", JOURNAL_BYTES_MAX
    for module in (configuration, daemon_main):
        # A dead daemon turns nothing on again; and what is frozen keeps its slates, which are mapped.
        yield module, "collected_later", contextlib.nullcontext
    yield keeping, "time", Shim(time, time_ns=lambda: world.wall)
    yield slates, "SHARED", world.host.shared_folder
    yield slates.Slates, "clear_up", clear_up
    yield store, "wall_microseconds", lambda: world.wall // 1000
    yield (
        connection,
        "os",
        Shim(os, dup=lambda f: f, geteuid=lambda: 0, getpid=lambda: PID),
    )
    yield connection, "socket", Shim(socket, socket=new_socket)
    yield exchange, "os", Shim(os, urandom=world.chance.randbytes, getpid=lambda: PID)
    yield exchange, "_user", lambda: "user"
    yield reconnecting, "_chance", world.chance.random
    yield asyncio_connection, "_connections", weakref.WeakSet()
    yield asyncio_connection, "socket", Shim(socket, socket=new_socket)
    yield asyncio_connection, "time", Shim(time, monotonic=monotonic)
    yield asyncio_connection, "sync_connection", Shim(None, settle=settle)
    yield atmost.asyncio, "time", Shim(time, monotonic=monotonic)


_clear_up = slates.Slates.clear_up
_replay: Callable[[Iterable[AnyRecord], Registry, Sessions], None] = recovery.replay


@contextlib.contextmanager
def replaced(world: World, more: Iterable[Patch], planted: str) -> Iterator[None]:
    """While this world runs; with a planted bug, if one is named."""
    bug = ALL[planted](world) if planted else ()
    before = []
    logger = logging.getLogger("atmostd")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        for module, name, value in itertools.chain(_seams(world), more, bug):
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
        yield
    finally:
        logger.setLevel(level)
        for module, name, value in reversed(before):
            setattr(module, name, value)
