"""fork in a process with threads: the child waits for no lock of theirs, and they go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atmost.sync import Client
from tests.callers import daemon_of_a_module, wait_for_line, wait_until_free
from tests.scripts import script
from tests.support import RunningDaemon


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


def test_fork_while_a_thread_waits(daemon: RunningDaemon, client: Client, db: str) -> None:
    code = """
        def wait():
            with sync.concurrency(sys.argv[1]):
                say("thread is in")

        thread = threading.Thread(target=wait)
        thread.start()
        hear()
        if not os.fork():
            sync.acquire(sys.argv[1] + " other").release()

            def work():
                with sync.concurrency(sys.argv[1] + " other"):
                    pass

            threads = [threading.Thread(target=work) for _ in range(4)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
            say("child did its own")
            os._exit(0)
        os.wait()
        say("parent goes on")
        thread.join()
    """
    with script(daemon, code, db) as parent:
        with client.concurrency(db):
            wait_for_line(client, db, 1)
            parent.tell()
            parent.expect("child did its own")
            parent.expect("parent goes on")
            assert [ticket.pid for ticket in client.list_tickets(db)][1:] == [parent.pid]
        parent.expect("thread is in")
        parent.end()


@pytest.mark.parametrize(
    "lock",
    ["sync._default._connecting", "sync._default._connection._lock"],
    ids=["connecting", "sending"],
)
def test_fork_while_a_thread_holds_a_lock(
    daemon: RunningDaemon, client: Client, db: str, lock: str
) -> None:
    code = f"""
        def hold():
            with {lock}:
                held.set()
                done.wait()

        held, done = threading.Event(), threading.Event()
        grant = sync.acquire(sys.argv[1] + " other")
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        if not os.fork():
            grant.release()
            with sync.concurrency(sys.argv[1]):
                say("child is in")
            os._exit(0)
        os.wait()
        done.set()
        thread.join()
    """
    with script(daemon, code, db) as parent:
        parent.expect("child is in")
        parent.end()


def test_fork_at_any_moment_of_busy_threads(daemon: RunningDaemon, client: Client, db: str) -> None:
    """Whatever lock a thread holds as the process forks, the child does not wait for it."""
    client.update_limit(db, limit=3)
    code = """
        block = sync.concurrency(sys.argv[1])  # one object, shared by all, also by the children

        def work():
            while not stopped:
                with block:
                    pass

        stopped = []
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        grant = sync.acquire(sys.argv[1])
        for _ in range(25):
            if not (child := os.fork()):
                grant.release()
                with block, sync.concurrency(sys.argv[1] + " other"):
                    os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        stopped.append(True)
        for thread in threads:
            thread.join()
    """
    with script(daemon, code, db) as parent:
        parent.end()
    wait_until_free(client, db)
