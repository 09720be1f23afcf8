"""fork: a child never releases, renews or reuses what its parent holds, and gets its own session on
first use. Its parent, and the parent's other threads, notice nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest

from atmost import sync
from atmost.sync import Client
from tests.callers import LOOPS, daemon_of_a_module, wait_for_line, wait_until_free
from tests.scripts import script
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

START_METHODS = ("fork", "forkserver", "spawn")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon_of_a_module(tmp_path_factory) as running:
        yield running


@pytest.fixture
def db(request: pytest.FixtureRequest, client: Client) -> str:
    """A limit of one slot, named after the test."""
    name: str = request.node.name
    client.create_limit(name, 1)
    return name


# ---- What the parent holds


@pytest.mark.parametrize(
    "leaves",
    [
        "block.__exit__(None, None, None)",
        "grant.release()",
        "sync._default.close()",
        "sys.exit()",
        "raise KeyError",
        "os.execv('/bin/true', ['true'])",
        "sync.acquire(name + ' other').release(); grant.release(); sys.exit()",
    ],
    ids=["block", "release", "close", "exit", "raise", "exec", "own"],
)
def test_child_does_not_release_what_its_parent_holds(
    daemon: RunningDaemon, client: Client, db: str, leaves: str
) -> None:
    code = f"""
        name = sys.argv[1]
        block = sync.concurrency(name)
        grant = block.__enter__()
        if not os.fork():
            os.close(2)
            {leaves}
            sys.exit()
        os.wait()
        say("child ended")
        hear()
        block.__exit__(None, None, None)
        say(sync.read_limit(name).held)
    """
    with script(daemon, code, db) as parent:
        parent.expect("child ended")
        (held,) = client.list_tickets(db)
        assert (held.state, held.pid) == ("held", parent.pid)
        parent.tell()
        parent.expect(0)
        parent.end()


def test_child_waits_for_its_parent_like_anybody(
    daemon: RunningDaemon, client: Client, db: str
) -> None:
    """It is inside a copy of the block, but holds nothing, so it is no WouldDeadlock."""
    code = """
        with sync.concurrency(sys.argv[1]):
            if not os.fork():
                with sync.concurrency(sys.argv[1]):
                    say("child is in")
                os._exit(0)
            hear()
        os.wait()
    """
    with script(daemon, code, db) as parent:
        wait_for_line(client, db, 1)
        held, waits = client.list_tickets(db)
        assert held.pid == parent.pid != waits.pid
        parent.tell()
        parent.expect("child is in")
        parent.end()
    wait_until_free(client, db)


def test_each_process_has_its_own_session_on_first_use(
    daemon: RunningDaemon, client: Client
) -> None:
    def sessions(count: int) -> None:
        wait_until(lambda: client.status().sessions == count, f"{count} sessions")

    sessions(1)  # those of other tests have ended
    code = """
        begins, begin = os.pipe()
        ends, end = os.pipe()
        sync.list_limits()
        for _ in range(2):
            if not os.fork():
                os.close(begin), os.close(end)
                say("forked")
                os.read(begins, 1)  # until the parent closes it
                sync.list_limits()
                if not os.fork():
                    sync.list_limits()
                    say("listed", os.getpid())
                    os.read(ends, 1)
                    os._exit(0)
                os.wait()
                os._exit(0)
        hear(), os.close(begin)
        hear(), os.close(end)
        os.wait(), os.wait()
        sync.list_limits()
        say("parent", os.getpid())
        hear()
    """
    with script(daemon, code) as parent:
        parent.expect("forked")
        parent.expect("forked")
        assert client.status().sessions == 2
        parent.tell()
        assert len({parent.hear(), parent.hear()}) == 2
        assert client.status().sessions == 6
        parent.tell()
        parent.expect("parent", parent.pid)
        sessions(2)
        parent.tell()
        parent.end()
    sessions(1)


# ---- Death


def test_parent_killed_while_a_child_has_its_socket(
    daemon: RunningDaemon, client: Client, db: str
) -> None:
    code = """
        grant = sync.acquire(sys.argv[1])
        kept = os.dup(sync._default._connection._socket.fileno())  # what a C library might do
        if not os.fork():
            say("child")
            hear()
            say("child lives on")
            os._exit(0)
        time.sleep(1000)
    """
    with script(daemon, code, db) as parent:
        parent.expect("child")
        assert client.read_limit(db).held == 1
        parent.signal(signal.SIGKILL)
        with client.concurrency(db, timeout_seconds=PATIENCE_SECONDS):
            parent.tell()
            parent.expect("child lives on")
        parent.end(-signal.SIGKILL)


def test_parent_that_ends_before_a_program_it_started(
    daemon: RunningDaemon, client: Client, db: str
) -> None:
    code = """
        import subprocess
        sync.acquire(sys.argv[1])
        child = subprocess.Popen(["/bin/cat"], close_fds=False)
        os._exit(0)
    """
    with script(daemon, code, db) as parent:
        wait_until(lambda: parent.process.poll() is not None)
        with client.concurrency(db, timeout_seconds=PATIENCE_SECONDS):
            parent.tell("cat lives on")
            parent.expect("cat lives on")
        parent.end()


def test_child_that_dies_frees_what_it_held_itself(
    daemon: RunningDaemon, client: Client, db: str
) -> None:
    code = """
        sync.list_limits()
        if not (child := os.fork()):
            sync.acquire(sys.argv[1])
            say("child holds")
            while True:
                signal.pause()
        hear()
        os.kill(child, signal.SIGKILL)
        os.wait()
        with sync.concurrency(sys.argv[1]):
            say("parent holds")
    """
    with script(daemon, code, db) as parent:
        parent.expect("child holds")
        assert client.list_tickets(db)[0].pid != parent.pid
        parent.tell()
        parent.expect("parent holds")
        parent.end()


# ---- asyncio


@pytest.mark.parametrize("loop", LOOPS)
def test_asyncio_parent_goes_on(daemon: RunningDaemon, client: Client, db: str, loop: str) -> None:
    code = """
        import uvloop
        name = sys.argv[1]

        async def inside():
            async with aio.concurrency(name):
                if not os.fork():
                    return  # leaves the block
                os.wait()
                assert (await aio.read_limit(name)).held == 1

        async def child():
            async with aio.concurrency(name + " other"):
                say((await aio.read_limit(name)).held)

        async def main():
            await inside()
            if os.getpid() != parent:
                asyncio.run(child())
                os._exit(0)
            async with aio.concurrency(name), aio.Client() as other:
                say((await other.read_limit(name)).held)

        parent = os.getpid()
        make = uvloop.new_event_loop if sys.argv[2] == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(main())
    """
    with script(daemon, code, db, loop) as parent:
        assert parent.end() == ["1", "1"]
    wait_until_free(client, db)


def test_asyncio_child_that_unwinds_the_copy_of_its_parents_loop(
    daemon: RunningDaemon, client: Client, db: str
) -> None:
    """By sys.exit in a coroutine. (uvloop would end the parent's polling, whoever uses it.)"""
    code = """
        async def main():
            async with aio.concurrency(sys.argv[1]):
                if not os.fork():
                    os.close(2)  # the transport, which is the parent's to close, complains
                    sys.exit(5)
                assert os.waitstatus_to_exitcode(os.wait()[1]) == 5
                assert (await aio.read_limit(sys.argv[1])).held == 1

        asyncio.run(main())
    """
    with script(daemon, code, db) as parent:
        parent.end()
    wait_until_free(client, db)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", ["close", "end of the loop"])
def test_asyncio_session_ends_although_a_child_lives(
    daemon: RunningDaemon, client: Client, db: str, loop: str, way: str
) -> None:
    code = """
        import uvloop

        async def main():
            one = aio.Client()
            await one.acquire(sys.argv[1])
            if not os.fork():
                hear()
                os._exit(0)
            if sys.argv[3] == "close":
                await one.close()

        make = uvloop.new_event_loop if sys.argv[2] == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(main())
        say("ended")
        os.wait()
    """
    with script(daemon, code, db, loop, way) as parent:
        parent.expect("ended")
        wait_until_free(client, db)
        parent.tell()
        parent.end()


# ---- multiprocessing


def _use(socket: str) -> None:
    """In a worker, first: its parent may be a fork server that an earlier test has started."""
    os.environ["ATMOST_SOCKET"] = socket


def _hold_and_count(name: str) -> tuple[int, int]:
    """In a worker: its pid, and how many hold while it does."""
    with sync.concurrency(name, timeout_seconds=PATIENCE_SECONDS):
        return os.getpid(), sync.read_limit(name).held


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("method", START_METHODS)
def test_multiprocessing(
    daemon: RunningDaemon,
    client: Client,
    db: str,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    client.update_limit(db, limit=3)
    monkeypatch.setenv("ATMOST_SOCKET", str(daemon.socket))
    workers = multiprocessing.get_context(method)
    try:
        with (
            sync.concurrency(db),
            workers.Pool(2, initializer=_use, initargs=(str(daemon.socket),)) as pool,
        ):
            done = pool.map(_hold_and_count, [db] * 20, chunksize=1)
            assert os.getpid() not in {pid for pid, _ in done}
            assert {held for _, held in done} <= {2, 3}
            pool.close()
            pool.join()
            assert client.read_limit(db).held == 1
    finally:
        sync._default.close()
    wait_until_free(client, db)
