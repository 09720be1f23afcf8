"""Who may do what: the kernel says who it is, and nobody can speak for somebody else."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import atmostd.__main__
from atmost.errors import DaemonUnavailable, PermissionDenied
from atmost.sync import Client
from tests.bad_manners import KnownClient, Mute, is_closed_with
from tests.bounded import NOBODY, needs_root
from tests.protocol_client import Failed, frame
from tests.support import RunningDaemon, wait_until
from tests.test_daemon import fork_as_nobody

ADMINS = 61234  # a group that need have no name


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """That other users can reach, as pytest's are not."""
    made = Path(tempfile.mkdtemp(prefix="atmost-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[RunningDaemon]:
    daemon = RunningDaemon(folder, "--admin-group", str(ADMINS)).start()
    with daemon.client() as client:
        client.create_limit("db", 1)
    yield daemon
    daemon.stop(signal.SIGKILL)


def in_child(do: Callable[[], bool], become: Callable[[], object] = lambda: None) -> bool:
    """Whether this is true in a child process, which becomes somebody else before."""
    child = os.fork()
    if not child:
        code = 2
        try:
            become()
            code = 0 if do() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1)
    return code == 0


def user(uid: int, gid: int, groups: Sequence[int] = ()) -> Callable[[], None]:
    def become() -> None:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)

    return become


# Changes


def may_change(running: RunningDaemon) -> bool:
    """Whether this process may do all of them, or none."""
    may, refused = 0, set()
    changes: tuple[Callable[[Client], object], ...] = (
        lambda client: client.create_limit("mine", 1),
        lambda client: client.update_limit("mine", limit=2),
        lambda client: client.delete_limit("mine"),
    )
    with running.client() as client:
        client.acquire("db", timeout_seconds=0).release()
        client.rate_limit([], 1)
        for change in changes:
            try:
                change(client)
                may += 1
            except PermissionDenied as error:
                refused.add(error.uid)
        assert refused <= {os.getuid()}
        assert not [limit for limit in client.list_limits() if limit.name == "mine"]
    assert may in (0, len(changes))
    return may > 0


@needs_root
@pytest.mark.parametrize(
    ("uid", "gid", "groups", "may"),
    [
        (0, NOBODY, (), True),
        (NOBODY, NOBODY, (), False),
        (NOBODY, 0, (0, 4), False),  # root's group is not root
        (NOBODY, ADMINS, (), True),
        (NOBODY, NOBODY, (ADMINS,), True),
        (NOBODY, NOBODY, (4, 24, ADMINS, 70000), True),
        (NOBODY, ADMINS + 1, (ADMINS - 1, ADMINS + 1), False),
        (NOBODY, NOBODY, tuple(range(100, 356)), False),
        (NOBODY, NOBODY, (ADMINS, *range(100, 355)), True),
    ],
)
def test_who_may_change_limits(
    running: RunningDaemon, uid: int, gid: int, groups: Sequence[int], may: bool
) -> None:
    assert in_child(lambda: may_change(running), user(uid, gid, groups)) is may


@needs_root
def test_without_an_admin_group_nobody_else_may(folder: Path) -> None:
    other = RunningDaemon(folder / "other")
    other.folder.mkdir()
    other.start()
    try:
        with other.client() as client:
            client.create_limit("db", 1)
        assert not in_child(lambda: may_change(other), user(NOBODY, 0, (0, ADMINS)))
    finally:
        other.stop(signal.SIGKILL)


@needs_root
def test_the_daemons_own_user_may(folder: Path) -> None:
    """A daemon that runs as somebody else than root."""
    own = folder / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    other = RunningDaemon(own)
    child = fork_as_nobody(lambda: atmostd.__main__.main(other.arguments[3:]))
    try:
        wait_until(lambda: answers(other))
        with other.client() as client:
            client.create_limit("db", 1)
        assert in_child(lambda: may_change(other), user(NOBODY, NOBODY))
        assert in_child(lambda: may_change(other))  # and so may root
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def answers(running: RunningDaemon) -> bool:
    try:
        with running.client() as client:
            return client.status().pid > 0
    except DaemonUnavailable:
        return False


@needs_root
def test_rights_are_those_of_the_time_of_connecting(running: RunningDaemon) -> None:
    """Who gives them up keeps them on its connection only, also if it comes back to its session."""

    def drops_them() -> bool:
        client = KnownClient(str(running.socket))
        client.ask("create_limit", "before", 1)
        client.ask("acquire", {"db": 1})
        user(NOBODY, NOBODY)()
        client.ask("delete_limit", "before")
        again = KnownClient(str(running.socket), client.session)
        with pytest.raises(Failed) as caught:
            again.ask("create_limit", "after", 1)
        return caught.value.code == "permission_denied" and caught.value.fields["uid"] == NOBODY

    assert in_child(drops_them)


# Sessions


def is_refused(running: RunningDaemon, session: bytes, held: int) -> bool:
    """Whether this process may not go on with that session, nor let go of what it holds."""
    thief = Mute(str(running.socket))
    hello = frame("hello", 1, session, os.getpid(), ["thief"], "ada", "")
    thief.socket.sendall(hello + frame("release", held))
    is_closed_with(thief, "a session that is another process's")
    thief.close()
    return True


@pytest.mark.parametrize(
    "become",
    [
        pytest.param(lambda: None, id="the same user"),
        pytest.param(user(NOBODY, NOBODY), id="another user", marks=needs_root),
    ],
)
def test_nobody_else_can_use_a_session(
    running: RunningDaemon, become: Callable[[], object]
) -> None:
    """Neither a child that knows its bytes from its parent, nor whoever has learnt them: the same
    bytes from another process are refused."""
    client = KnownClient(str(running.socket))
    held = client.ask("acquire", {"db": 1})[1]
    assert in_child(lambda: is_refused(running, client.session, held), become)
    (ticket,) = client.ask("list_tickets", "db")[2]
    assert (ticket[1], ticket[3]) == ("held", os.getpid())
    client.close()


def test_a_session_of_a_process_that_holds_without_a_connection(running: RunningDaemon) -> None:
    client = KnownClient(str(running.socket))
    held = client.ask("acquire", {"db": 1}, {}, None, False, [], True)[1]
    client.close()
    assert in_child(lambda: is_refused(running, client.session, held))
    again = KnownClient(str(running.socket), client.session)  # its own process may
    again.send("keep", held, {"db": 1}, 1, True)
    assert [ticket[1] for ticket in again.ask("list_tickets", "db")[2]] == ["held"]
    again.send("release", held)
    assert again.ask("list_tickets", "db")[2] == []
    again.close()


def test_nobody_can_name_the_grant_of_another_session(running: RunningDaemon) -> None:
    """Numbers are each client's own."""
    one, other = KnownClient(str(running.socket)), KnownClient(str(running.socket))
    held = one.ask("acquire", {"db": 1})[1]
    for number in range(10):
        other.send("release", number)
        other.send("acquire", 100 + number, {"unguarded": 1}, {}, None, False, [held])
        assert other.answer(100 + number)[0] == "granted"
    assert [ticket[1] for ticket in one.ask("list_tickets", "db")[2]] == ["held"]
    one.close()
    other.close()
