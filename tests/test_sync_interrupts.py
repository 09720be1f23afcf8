"""atmost.sync when an exception comes into a thread that waits: Ctrl-C, an alarm, an async exception.

The request is let go of, the other threads go on, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from atmost import wire
from atmost.sync import Client, Grant
from tests.callers import daemon_of_a_module, listening, wait_for_line, wait_until_free
from tests.places import AtPlace, places
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon_of_a_module(tmp_path_factory) as running:
        yield running


@pytest.fixture
def tested(daemon: RunningDaemon) -> Iterator[Client]:
    """The client under test; `client` is the one that looks at it."""
    with daemon.client() as one:
        yield one


@pytest.fixture
def db(request: pytest.FixtureRequest, client: Client) -> str:
    """A limit of one slot, named after the test."""
    name: str = request.node.name
    client.create_limit(name, 1)
    return name


@pytest.fixture
def when(client: Client) -> Iterator[Callable[[str, int, int], Future[None]]]:
    """Send this process a signal once so many wait for a limit."""

    def send(name: str, waiting: int, number: int) -> None:
        wait_for_line(client, name, waiting)
        os.kill(os.getpid(), number)

    with ThreadPoolExecutor(1) as pool:
        yield lambda *args: pool.submit(send, *args)


class Alarm(TimeoutError):
    """What a program raises from its signal handler; the usual recipe takes a TimeoutError."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Alarm("the program's own")

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


When = Callable[[str, int, int], Future[None]]


# ---- Signals


@pytest.mark.parametrize("timeout", [None, PATIENCE_SECONDS])
def test_ctrl_c_leaves_the_line(
    tested: Client, client: Client, db: str, when: When, timeout: float | None
) -> None:
    with client.concurrency(db):
        for _ in range(10):
            told = when(db, 1, signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                tested.acquire(db, timeout_seconds=timeout)
            told.result(PATIENCE_SECONDS)
            wait_for_line(client, db, 0)
    with tested.concurrency(db):
        pass


def test_alarm_that_raises_a_time_out_of_its_own(
    tested: Client, client: Client, db: str, when: When, alarm: None
) -> None:
    """It is not taken for ours, nor for the socket's: what the connection holds is still held."""
    client.create_limit(held := db + " held", 1)
    with client.concurrency(db), tested.concurrency(held):
        for timeout in (None, PATIENCE_SECONDS):
            told = when(db, 1, signal.SIGALRM)
            with pytest.raises(Alarm):
                tested.acquire(db, timeout_seconds=timeout)
            told.result(PATIENCE_SECONDS)
            wait_for_line(client, db, 0)
            assert client.read_limit(held).held == 1


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
def test_other_threads_go_on(
    tested: Client, client: Client, db: str, when: When, alarm: None, leads: bool
) -> None:
    """This thread reads for all, or waits for one that does."""
    with ThreadPoolExecutor(3) as pool:

        def start_others() -> list[Future[Any]]:
            wait_for_line(client, db, 1 if leads else 0)
            return [pool.submit(tested.acquire, db) for _ in range(2)]

        for _ in range(5):
            with client.concurrency(db):
                starting = pool.submit(start_others)
                if not leads:
                    wait_for_line(client, db, 2)
                told = when(db, 3, signal.SIGALRM)
                with pytest.raises(Alarm):
                    tested.acquire(db)
                told.result(PATIENCE_SECONDS)
                others = starting.result(PATIENCE_SECONDS)
                wait_for_line(client, db, 2)
                assert not any(ask.done() for ask in others)
            for ask in others:  # in whichever order they had asked
                ask.add_done_callback(lambda done: done.result().release())
            for ask in others:
                ask.result(PATIENCE_SECONDS)
            wait_until_free(client, db)


# ---- Async exceptions


def test_exception_that_comes_with_the_grant(tested: Client, client: Client, db: str) -> None:
    """The thread is asked to stop while it waits; it notices when its grant has come."""
    for _ in range(20):
        idents: Future[int] = Future()

        def work(idents: Future[int] = idents) -> None:
            idents.set_result(threading.get_ident())
            tested.acquire(db)

        with ThreadPoolExecutor(1) as pool, client.concurrency(db):
            working = pool.submit(work)
            wait_for_line(client, db, 1)
            _raise_in(idents.result(PATIENCE_SECONDS), KeyboardInterrupt)
            # Leaving the block hands the slot over.
        with pytest.raises(KeyboardInterrupt):
            working.result(PATIENCE_SECONDS)
        wait_until_free(client, db)


def _raise_in(ident: int, error: type[BaseException]) -> None:
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(error)
    )
    assert raised == 1


# ---- At every place where the interpreter looks for signals


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["acquire", "block"])
def test_an_interruption_at_any_place_leaves_nothing_behind(
    daemon: RunningDaemon, client: Client, db: str, way: str
) -> None:
    """One after another, until the call comes through uninterrupted."""
    reached = []
    for place in places():
        with daemon.client() as tested:
            tested.status()
            block = tested.concurrency(db, timeout_seconds=PATIENCE_SECONDS)
            interruption = AtPlace(place, interrupt)
            try:
                with interruption:
                    block.__enter__() if way == "block" else tested.acquire(db)
                break
            except KeyboardInterrupt:
                assert interruption.at is not None
                reached.append(interruption.at)
            # Another thread gets its answers: nothing is locked, and nobody is thought to read.
            with ThreadPoolExecutor(1) as pool:
                answered = pool.submit(tested.read_limit, db)
                wait_until(answered.done, f"an answer after {interruption.at}")
                record = answered.result()
            assert (record.held, record.waiting) == (0, 0), interruption.at
            assert tested._connection is not None
            assert not tested._connection._exchange._inside, interruption.at
            assert not block._entered, interruption.at
    assert len(set(reached)) > 20
    wait_until_free(client, db)


def test_an_interruption_at_any_place_between_the_halves_of_an_answer(tmp_path: Path) -> None:
    """What was received of it is not lost for the thread that reads on."""
    with in_halves(tmp_path / "s"):
        for place in places():
            interruption = AtPlace(place, interrupt)
            with Client(tmp_path / "s") as tested, ThreadPoolExecutor(1) as pool:
                tested.delete_limit("first")
                with contextlib.suppress(KeyboardInterrupt), interruption:
                    tested.delete_limit("second")
                connection = tested._connection
                pool.submit(tested.delete_limit, "third").result(PATIENCE_SECONDS)
                assert tested._connection is connection, interruption.at
            if interruption.at is None:
                break


@contextlib.contextmanager
def in_halves(path: Path) -> Iterator[None]:
    """A daemon at `path` that says Done to everything, each time in two pieces."""

    def send(connected: socket.socket, message: wire.Message) -> None:
        frame = wire.encode(message)
        for half in (frame[:7], frame[7:]):
            connected.sendall(half)
            wait_until(lambda: not unread(connected))

    def serve(connected: socket.socket) -> None:
        frames = wire.FrameReader()
        while data := connected.recv(4096):
            for body in frames.feed(data):
                message = wire.decode_client_message(body)
                if isinstance(message, wire.Hello):
                    send(connected, wire.Welcome(wire.PROTOCOL_VERSION, "0", 1))
                elif isinstance(message, wire.DeleteLimit):
                    send(connected, wire.Done(message.request))

    with listening(path, serve):
        yield


def unread(connected: socket.socket) -> int:
    """How many bytes the other end has not read yet."""
    (count,) = struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, b"\0" * 4))
    return int(count)


@pytest.mark.parametrize("first", ["own", "other"])
def test_an_interruption_at_any_place_lets_the_other_threads_go_on(
    daemon: RunningDaemon, client: Client, db: str, first: str
) -> None:
    """This thread reads for one that waits for something else, when it is interrupted: as its own
    answer comes, or as it passes on that of the other."""
    client.create_limit(other := db + " other", 1)
    done = threading.Event()

    def assist(tested: Client, held: dict[str, Grant], pool: ThreadPoolExecutor) -> Future[Grant]:
        wait_until(lambda: done.is_set() or client.read_limit(db).waiting)
        follower = pool.submit(tested.acquire, other)
        wait_for_line(client, other, 1)
        if first == "other":
            held[other].release()
            wait_until(lambda: done.is_set() or follower.done())
        held[db].release()
        wait_until(done.is_set)
        held[other].release()
        return follower

    for place in places():
        done.clear()
        interruption = AtPlace(place, interrupt)
        with daemon.client() as tested, ThreadPoolExecutor(2) as pool:
            tested.status()
            held = {
                name: client.acquire(name, timeout_seconds=PATIENCE_SECONDS) for name in (db, other)
            }
            assisting = pool.submit(assist, tested, held, pool)
            with contextlib.suppress(KeyboardInterrupt), interruption:
                tested.acquire(db)
            done.set()
            follower = assisting.result(PATIENCE_SECONDS)
            wait_until(follower.done, f"an answer after {interruption.at}")
        if interruption.at is None:
            break
