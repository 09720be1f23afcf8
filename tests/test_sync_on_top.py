"""atmost.sync when it is called from on top of one of its own steps: by a signal handler, by the garbage
collector. Nothing hangs, and what is let go of there is let go of."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from atmost import wire
from atmost.errors import AcquireTimeout
from atmost.sync import Client
from tests.callers import daemon_of_a_module, wait_for_line, wait_until_free
from tests.places import AtPlace, places
from tests.scripts import script
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
def other(db: str, client: Client) -> str:
    client.create_limit(name := db + " other", 1)
    return name


@pytest.mark.parametrize("first", [True, False], ids=["connecting", "connected"])
@pytest.mark.parametrize("what", ["release", "block", "read"])
def test_on_top_of_any_place(
    daemon: RunningDaemon, client: Client, db: str, other: str, what: str, first: bool
) -> None:
    reached = set()
    for place in places():
        with daemon.client() as tested, ThreadPoolExecutor(1) as pool:
            if not first:
                tested.status()
            held = client.acquire(other) if first else tested.acquire(other)

            def act(tested: Client = tested, held: object = held) -> None:
                if what == "release":
                    held.release()  # type: ignore[attr-defined]
                elif what == "block":
                    with tested.concurrency(db + " third", timeout_seconds=PATIENCE_SECONDS):
                        pass
                else:
                    assert tested.read_limit(other).limit == 1

            reach = AtPlace(place, act)

            def work(tested: Client = tested, reach: AtPlace = reach) -> None:
                with reach, tested.concurrency(db, timeout_seconds=PATIENCE_SECONDS):
                    pass

            working = pool.submit(work)
            wait_until(working.done, f"the end of what was interrupted at {reach.at}")
            working.result()
            if what == "release" and reach.at:
                wait_until_free(client, other)
            held.release()
        if reach.at is None:
            break
        reached.add(reach.at)
    wait_until_free(client, db)
    wait_until_free(client, other)
    assert len(reached) > 30


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
@pytest.mark.parametrize("what", ["release", "block", "read"])
def test_a_signal_handler_while_its_thread_waits(
    tested: Client, client: Client, db: str, other: str, what: str, leads: bool
) -> None:
    held = tested.acquire(other)
    done = []

    def handle(number: int, frame: FrameType | None) -> None:
        if what != "read":
            held.release()
        if what == "block":
            with tested.concurrency(other):
                pass
        done.append(client.read_limit(db).waiting if what == "read" else 1)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with ThreadPoolExecutor(2) as pool:
            occupied = client.acquire(db)
            blocked = client.acquire(third := db + " third")
            client.update_limit(third, limit=1, active=True)
            blocked.release()
            blocked = client.acquire(third)
            leader = None if leads else pool.submit(tested.acquire, third)
            if leader is not None:
                wait_for_line(client, third, 1)

            def ring() -> None:
                with Client(client._socket_path) as looks:
                    wait_for_line(looks, db, 1)
                    os.kill(os.getpid(), signal.SIGALRM)
                    wait_until(lambda: done, "the end of the signal handler")
                occupied.release()

            ringing = pool.submit(ring)
            tested.acquire(db).release()
            ringing.result(PATIENCE_SECONDS)
            blocked.release()
            if leader is not None:
                leader.result(PATIENCE_SECONDS).release()
    finally:
        signal.signal(signal.SIGALRM, before)
    held.release()
    wait_until_free(client, other)


def test_a_handler_that_waits_for_its_own_thread_is_told(
    tested: Client, client: Client, db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the only slot, or is first in the line: no time-out was given, and none would help."""
    monkeypatch.setattr("atmost.sync.NESTED_SECONDS", 0.05)
    told: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        with pytest.raises(AcquireTimeout) as caught:
            tested.acquire(db)
        told.append(str(caught.value))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with ThreadPoolExecutor(1) as pool:
            occupied = client.acquire(db)

            def ring() -> None:
                with Client(client._socket_path) as looks:
                    wait_for_line(looks, db, 1)
                    os.kill(os.getpid(), signal.SIGALRM)
                    wait_until(lambda: told)
                occupied.release()

            ringing = pool.submit(ring)
            tested.acquire(db).release()
            ringing.result(PATIENCE_SECONDS)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "see who holds" in told[0]


@pytest.mark.parametrize("threshold", [700, 7])
def test_the_garbage_collector_ends_a_block(
    tested: Client, client: Client, db: str, threshold: int
) -> None:
    """Of a generator in a cycle; at any allocation, so also in our own steps."""
    client.update_limit(db, limit=1000)

    def inside(box: list[object]) -> Iterator[list[object]]:
        with tested.concurrency(db):
            yield box

    def make() -> None:
        for _ in range(500):
            box: list[object] = []
            generator = inside(box)
            next(generator)
            box.append(generator)

    before = gc.get_threshold()
    gc.set_threshold(threshold)
    try:
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(make)
            working.result(PATIENCE_SECONDS)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    wait_until_free(client, db)


# ---- Interrupted as it leaves


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("told", [False, True], ids=["quiet", "something to read"])
@pytest.mark.parametrize("way", ["block", "grant"])
def test_a_block_that_is_interrupted_as_it_ends_lets_go(
    daemon: RunningDaemon, client: Client, db: str, way: str, told: bool
) -> None:
    reached = []
    for place in places():
        with daemon.client() as tested:
            block = tested.concurrency(db, timeout_seconds=PATIENCE_SECONDS)
            if way == "grant":
                block = tested.acquire(db, timeout_seconds=PATIENCE_SECONDS)  # type: ignore[assignment]
            block.__enter__()
            connection = tested._connection
            assert connection is not None
            if told:  # an answer that nobody waits for any more
                connection._send(wire.encode(wire.ReadLimit(98, db)))
                wait_until(connection._socket.has_unread)
            interruption = AtPlace(place, interrupt)
            try:
                with interruption:
                    block.__exit__(None, None, None)
                break
            except KeyboardInterrupt:
                assert interruption.at is not None
                reached.append(interruption.at)
            if place == 1:
                del block  # as it began, when nothing of it can be protected
                if way == "grant":
                    continue
            wait_until_free(client, db)
            assert not connection._exchange._held, interruption.at
            assert not connection._exchange._inside, interruption.at
    assert len(set(reached)) > (10 if way == "block" else 5)
    wait_until_free(client, db)


def test_what_was_acquired_is_held_without_its_grant(
    tested: Client, client: Client, db: str
) -> None:
    tested.acquire(db)
    gc.collect()
    assert client.read_limit(db).held == 1


def test_a_block_that_was_never_left_is_let_go_of_with_its_object(
    tested: Client, client: Client, db: str
) -> None:
    block = tested.concurrency(db)
    grant = block.__enter__()
    del block
    gc.collect()
    assert client.read_limit(db).held == 1  # somebody has the grant
    del grant
    wait_until_free(client, db)


# ---- The end of the process


@pytest.mark.parametrize("library", ["sync", "grant", "asyncio"])
def test_nothing_is_let_go_of_while_the_process_still_ends(
    daemon: RunningDaemon, client: Client, db: str, library: str
) -> None:
    """A daemon thread is inside its block, where it may be in a call into C. All that the program, and
    the interpreter, do at their exit takes a while."""
    code = """
        class Late:
            def __del__(self, write=os.write, read=os.read):
                write(1, b"all is torn down\\n"), read(0, 1)
        sys._late = Late()  # the last module that is
        inside = threading.Event()
        def work():
            with sync.concurrency(sys.argv[1]):
                inside.set()
                threading.Event().wait()
        def work_grant():
            sync.acquire(sys.argv[1])
            inside.set()
            threading.Event().wait()
        async def work_async():
            async with aio.concurrency(sys.argv[1]):
                inside.set()
                await asyncio.Event().wait()
        run = {"sync": work, "grant": work_grant}.get(
            sys.argv[2], lambda: asyncio.run(work_async())
        )
        threading.Thread(target=run, daemon=True).start()
        inside.wait()
    """
    with script(daemon, code, db, library) as process:
        process.expect("all is torn down")
        assert client.read_limit(db).held == 1
        process.tell()
        process.end()
    wait_until_free(client, db)
