"""A client that asks faster than it is answered is read from again when there is room for more."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from atmostd.__main__ import Daemon
from atmostd.connection import Connection
from atmostd.journal import Journal
from atmostd.settings import Settings
from atmostd.store import Store
from tests.bounded import bounded
from tests.protocol_client import frame
from tests.support import PATIENCE_SECONDS

IN_FLIGHT = 8
ASKED = 1000
LINE = 3000  # so long that a status is a piece of work
HELLO = frame("hello", 1, bytes(16), os.getpid(), ["job"], "ada", "")


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[Daemon, socket.socket]]:
    """The parts of a daemon that answers no changes yet, and the client's end of a connection."""
    settings = Settings.from_arguments(["--state-dir", str(folder), "--runtime-dir", str(folder)])
    settings = replace(
        settings, bounds=replace(settings.bounds, requests_in_flight=IN_FLIGHT), socket_mode=0o600
    )
    store, journal = Store(folder), Journal(folder, "")
    store.open()
    journal.open()
    daemon = Daemon(settings, store, journal)
    daemon.own_pid = 0  # here the client is in the same process
    journal.begin(tuple, daemon.turn.end_soon)
    ours, client = socket.socketpair()
    ours.setblocking(False)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(lambda: Connection(daemon), ours)
    try:
        yield daemon, client
    finally:
        transport.abort()
        client.close()
        await asyncio.sleep(0)
        daemon.registry.stop()
        store.close()
        journal.close()
        await asyncio.sleep(0)


async def read(client: socket.socket, count: int) -> list[int]:
    """The numbers of so many answers, behind the welcome."""
    loop = asyncio.get_running_loop()
    data = b""
    found: list[int] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < count:
            data += await loop.sock_recv(client, 65536)
            while len(data) >= 4 and len(data) >= (end := 4 + int.from_bytes(data[:4], "big")):
                message = msgpack.unpackb(data[4:end])
                data = data[end:]
                if message[0] != "welcome":
                    found.append(message[1])
    return found


async def turns(count: int = 50) -> None:
    """Let the loop take what it has got."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("at_once", [True, False], ids=["one write", "many writes"])
def test_no_more_is_read_than_may_be_in_flight(tmp_path: Path, at_once: bool) -> None:
    asyncio.run(ask_for_changes(tmp_path, at_once))


async def ask_for_changes(folder: Path, at_once: bool) -> None:
    async with connected(folder) as (daemon, client):
        loop = asyncio.get_running_loop()
        changes = [frame("create_limit", n, f"l{n}", 1) for n in range(1, ASKED)]
        questions = [frame("status", ASKED)]
        writes = [HELLO, *changes, *questions]

        async def send() -> None:
            for write in [b"".join(writes)] if at_once else writes:
                await loop.sock_sendall(client, write)

        sending = loop.create_task(send())
        await turns(2 * ASKED)
        assert sending.done() is at_once  # the kernel takes no more in small pieces, either
        # The hello counts in the turn in which it comes.
        assert IN_FLIGHT - 1 <= len(daemon.configuration._inbox) <= IN_FLIGHT
        running = loop.create_task(daemon.configuration.run())
        assert sorted(await read(client, ASKED)) == list(range(1, ASKED + 1))
        assert len(daemon.registry.actors) == ASKED - 1
        await sending
        daemon.configuration.stop()
        await running


def test_a_frame_cut_between_reads_is_kept_while_others_are_held_back(tmp_path: Path) -> None:
    async def ask() -> None:
        async with connected(tmp_path) as (_, client):
            loop = asyncio.get_running_loop()
            data = HELLO + b"".join(frame("status", n) for n in range(1, ASKED + 1))
            for at in range(0, len(data), 97):
                await loop.sock_sendall(client, data[at : at + 97])
                await asyncio.sleep(0)
            assert await read(client, ASKED) == list(range(1, ASKED + 1))

    asyncio.run(ask())


def test_what_follows_bad_bytes_is_not_acted_on_though_held_back(tmp_path: Path) -> None:
    async def ask() -> None:
        async with connected(tmp_path) as (daemon, client):
            loop = asyncio.get_running_loop()
            asked = [frame("acquire", n, {"made": 1}) for n in range(1, 3 * IN_FLIGHT)]
            late = frame("acquire", ASKED, {"late": 1})
            await loop.sock_sendall(client, HELLO + b"".join(asked) + frame("what") + late)
            answers = await read(client, len(asked) + 1)
            assert answers == [*range(1, 3 * IN_FLIGHT), 0]
            await turns()
            assert list(daemon.registry.actors) == ["made"]

    asyncio.run(ask())


def test_expensive_questions_hold_up_nobody() -> None:
    """Who asks a thousand of them is answered bit by bit, and others in between."""
    with bounded() as running:
        waiter, asker, other = running.connect(), running.connect(), running.connect()
        waiter.ask("create_limit", "db", 1)
        waiter.ask("acquire", {"db": 1})
        for number in range(10_000, 10_000 + LINE):
            waiter.send("acquire", number, {"db": 1})
        running.wait_for_line("db", LINE)
        asker.ask("status")
        other.ask("status")
        os.kill(running.pid, signal.SIGSTOP)
        numbers = range(1000, 1000 + ASKED)
        asker.socket.sendall(b"".join(frame("status", number) for number in numbers))
        held = other.request("acquire", {"free": 1})
        os.kill(running.pid, signal.SIGCONT)
        assert other.answer(held)[0] == "granted"
        asker.socket.setblocking(False)
        assert asker.socket.recv(1 << 20, socket.MSG_PEEK).count(b"daemon_status") < ASKED / 2
        asker.socket.setblocking(True)
        assert all(asker.answer(number) for number in numbers)
