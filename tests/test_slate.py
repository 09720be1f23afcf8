"""A release that a daemon never read is known to the next one, though the program says no more."""

from __future__ import annotations

import array
import os
import shutil
import signal
import socket
import tempfile
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from atmost import wire
from atmost.slate import SLATE_BYTES, Slate, lent
from atmost.sync import Client
from atmostd import slates
from atmostd.slates import Slates
from tests.bounded import NOBODY, needs_root
from tests.returning_client import Returning
from tests.scripts import Script, script
from tests.support import RunningDaemon, wait_until

RING = SLATE_BYTES // 8
SESSION = bytes(range(16))

# Holds, leaves when it is told to, and never calls again.
HOLDER = """
    held = [sync.acquire("db") for _ in range(int(sys.argv[1]))]
    say("held")
    hear()
    for grant in held:
        grant.release()
    say("left")
    hear()
    sync.read_limit("db")  # so it comes back
    say("looked")
    hear()
"""

ends = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill"])


def folder_of(daemon: RunningDaemon) -> Path:
    return daemon.folder / "run" / slates.NAME


def files_of(daemon: RunningDaemon) -> list[Path]:
    folder = folder_of(daemon)
    return sorted(folder.iterdir()) if folder.is_dir() else []


def held(daemon: RunningDaemon) -> int:
    """As somebody finds it who comes anew."""
    with daemon.client() as client:
        return client.read_limit("db").held


def create(daemon: RunningDaemon, limit: int) -> None:
    with daemon.client() as client:
        client.create_limit("db", limit)


def leave(holder: Script) -> None:
    holder.tell("leave")
    holder.expect("left")


def look(holder: Script) -> None:
    holder.tell("look")
    holder.expect("looked")


def not_heard(
    daemon: RunningDaemon, let_go: Callable[[], object], number: int = signal.SIGKILL
) -> None:
    """The daemon hangs while a program lets go, and then there is another one."""
    os.kill(daemon.pid, signal.SIGSTOP)
    let_go()
    if number == signal.SIGKILL:
        os.kill(daemon.pid, signal.SIGKILL)  # before stop() could wake it
    daemon.stop(number)
    daemon.start()


@ends
@pytest.mark.parametrize("count", [1, 200])
def test_the_very_last_release(daemon: RunningDaemon, number: int, count: int) -> None:
    create(daemon, count)
    with script(daemon, HOLDER, str(count)) as holder:
        holder.expect("held")
        not_heard(daemon, lambda: leave(holder), number)
        assert held(daemon) == 0
        assert holder.process.poll() is None


def test_who_waits_for_it_goes_at_once(daemon: RunningDaemon) -> None:
    create(daemon, 1)
    with script(daemon, HOLDER, "1") as holder:
        holder.expect("held")
        with script(daemon, HOLDER, "1") as waiter:
            with daemon.client() as client:
                wait_until(lambda: client.read_limit("db").waiting)
            not_heard(daemon, lambda: leave(holder))
            waiter.expect("held")
            assert held(daemon) == 1


def test_more_than_a_slate_has_room_for(daemon: RunningDaemon) -> None:
    """The socket takes fewer, then the program waits for the daemon, and so notices its end."""
    create(daemon, 600)
    assert RING < 600
    with script(daemon, HOLDER, "600") as holder:
        holder.expect("held")
        not_heard(daemon, lambda: holder.tell("leave"))
        holder.expect("left")
        wait_until(lambda: held(daemon) == 0)


def test_a_call_that_gave_up(daemon: RunningDaemon) -> None:
    """It stands in the line no more, though nobody was told."""
    create(daemon, 1)
    code = """
        def give_up(*_):
            raise KeyError
        signal.signal(signal.SIGUSR1, give_up)
        sync.read_limit("db")
        say("here")
        try:
            sync.acquire("db")
        except KeyError:
            say("gave up")
        hear()
    """
    with script(daemon, HOLDER, "1") as holder:
        holder.expect("held")
        with script(daemon, code) as waiter:
            waiter.expect("here")
            with daemon.client() as client:
                wait_until(lambda: client.read_limit("db").waiting)

            def give_up() -> None:
                waiter.signal(signal.SIGUSR1)
                waiter.expect("gave up")

            not_heard(daemon, give_up)
            with daemon.client() as client:
                found = client.read_limit("db")
                assert (found.held, found.waiting) == (1, 0)


def test_a_client_that_was_closed(daemon: RunningDaemon) -> None:
    """What it held is free, but what it holds by its process."""
    create(daemon, 3)
    code = """
        client = sync.Client()
        client.acquire("db"), client.acquire("db"), client.acquire_until_exit("db")
        say("held")
        hear()
        client.close()
        say("left")
        hear()
    """
    with script(daemon, code) as holder:
        holder.expect("held")
        not_heard(daemon, lambda: leave(holder))
        assert held(daemon) == 1


def test_after_it_came_back(daemon: RunningDaemon) -> None:
    """The same slate serves the session with each daemon; a session that was forgotten gets another."""
    create(daemon, 1)
    code = """
        say("here")
        while word := hear():
            if word == "go":
                grant = sync.acquire("db")
                say("held")
            elif word == "look":
                sync.read_limit("db")
                say("looked")
            else:
                grant.release()
                say("left")
    """
    with script(daemon, code) as holder:
        holder.expect("here")
        for _ in range(3):
            holder.tell("go")
            holder.expect("held")
            for number in (signal.SIGKILL, signal.SIGTERM):
                daemon.stop(number)
                daemon.start()
                assert held(daemon) == 1
                look(holder)
                before = files_of(daemon)
            not_heard(daemon, lambda: leave(holder))
            assert held(daemon) == 0
            wait_until(lambda: not files_of(daemon))  # it has nothing, so it is forgotten
            assert before


@ends
def test_nothing_else_is_let_go_of(daemon: RunningDaemon, number: int) -> None:
    create(daemon, 10)
    code = """
        kept = [sync.acquire("db") for _ in range(3)]
        gone = [sync.acquire("db") for _ in range(3)]
        say("held")
        hear()
        for grant in gone:
            grant.release()
        say("left")
        hear()
        assert [grant.lost for grant in kept] == [None] * 3
        say(sync.read_limit("db").held)
    """
    with script(daemon, code) as holder:
        holder.expect("held")
        not_heard(daemon, lambda: leave(holder), number)
        assert held(daemon) == 3
        holder.tell()
        holder.expect(3)


def test_a_forked_child_writes_to_no_slate(daemon: RunningDaemon) -> None:
    create(daemon, 2)
    code = """
        grants = [sync.acquire("db"), sync.acquire("db")]
        say("held")
        hear()
        if not os.fork():
            for grant in grants:
                grant.release()
            sync._default.close()
            os._exit(0)
        os.wait()
        say("left")
        hear()
    """
    with script(daemon, code) as parent:
        parent.expect("held")
        not_heard(daemon, lambda: leave(parent))
        assert held(daemon) == 2


@pytest.mark.parametrize("what", ["gone", "cut", "longer", "garbage", "link", "folder gone"])
def test_slates_that_somebody_touched(daemon: RunningDaemon, what: str) -> None:
    """As if there were none: nothing is let go of but what was, and the program lives."""
    create(daemon, 2)
    with script(daemon, HOLDER, "1") as holder:
        holder.expect("held")
        (file,) = files_of(daemon)

        def touch() -> None:
            if what == "garbage":
                file.write_bytes(os.urandom(SLATE_BYTES))
                return
            leave(holder)
            match what:
                case "cut":
                    os.truncate(file, SLATE_BYTES - 1)
                case "longer":
                    os.truncate(file, 10 * SLATE_BYTES)
                case "link":
                    file.rename(file.with_name("other"))
                    file.symlink_to("other")
                case _:
                    file.unlink()
            if what == "folder gone":
                folder_of(daemon).rmdir()

        not_heard(daemon, touch)
        assert held(daemon) == (0 if what == "longer" else 1)
        if what == "garbage":
            leave(holder)  # it notices that daemon's end
        else:
            look(holder)
        wait_until(lambda: held(daemon) == 0)
        with script(daemon, HOLDER, "1") as other:  # and it works again
            other.expect("held")
            not_heard(daemon, lambda: leave(other))
            assert held(daemon) == 0


def test_no_room_for_slates(daemon: RunningDaemon) -> None:
    """Everything else works."""
    daemon.stop()  # it leaves no empty folder behind
    folder_of(daemon).touch()
    daemon.start()
    create(daemon, 1)
    with script(daemon, HOLDER, "1") as holder:
        holder.expect("held")
        not_heard(daemon, lambda: leave(holder))
        assert held(daemon) == 1
        look(holder)
        wait_until(lambda: held(daemon) == 0)


def test_files_are_narrow_and_go_with_their_sessions(daemon: RunningDaemon) -> None:
    with daemon.client() as client, script(daemon, HOLDER, "1") as holder:
        client.create_limit("db", 1)
        holder.expect("held")
        assert len(files_of(daemon)) == 2
        assert folder_of(daemon).stat().st_mode & 0o777 == 0o700
        for file in files_of(daemon):
            found = file.stat()
            assert (found.st_mode & 0o777, found.st_size) == (0o600, SLATE_BYTES)
            assert found.st_blocks * 512 >= SLATE_BYTES  # no page is missing: SIGBUS
        foreign = [folder_of(daemon) / "00", folder_of(daemon) / SESSION.hex()]
        for file in foreign:
            file.write_bytes(bytes(SLATE_BYTES))
        daemon.stop(signal.SIGKILL)
        holder.signal(signal.SIGKILL)
        holder.process.wait()
        daemon.start()
        assert client.read_limit("db").held == 0
        wait_until(lambda: len(files_of(daemon)) == 1)
    wait_until(lambda: not files_of(daemon))


def descriptors(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_no_descriptor_is_left_in_the_daemon(daemon: RunningDaemon) -> None:
    with daemon.client() as first:
        first.list_limits()
        before = descriptors(daemon.pid)
        for _ in range(20):
            with daemon.client() as client:
                client.list_limits()
        wait_until(lambda: descriptors(daemon.pid) == before)


# Those who don't ask, or get none


def hello(slate: bool | None, session: bytes = SESSION) -> bytes:
    fields = ["hello", 1, session, os.getpid(), ["x"], "ada", "x/1", 2]
    body: bytes = msgpack.packb(fields + ([] if slate is None else [slate]))
    return len(body).to_bytes(4, "big") + body


def greeted(daemon: RunningDaemon, slate: bool | None) -> list[int]:
    """The descriptors that come with the welcome."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(str(daemon.socket))
        connected.sendall(hello(slate))
        data, found, _, _ = socket.recv_fds(connected, 1000, 10)
        assert isinstance(wire.decode_daemon_message(data[4:]), wire.Welcome)
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        return found


@pytest.mark.parametrize("slate", [None, False, True])
def test_only_who_asks_gets_one(daemon: RunningDaemon, slate: bool | None) -> None:
    found = greeted(daemon, slate)
    assert len(found) == bool(slate)
    for descriptor in found:
        assert os.fstat(descriptor).st_size == SLATE_BYTES
        os.close(descriptor)


def test_a_client_that_does_not_ask_has_to_come_back(daemon: RunningDaemon) -> None:
    create(daemon, 1)
    client = Returning(str(daemon.socket))
    number = client.ask("acquire", {"db": 1})[1]
    not_heard(daemon, lambda: client.send("release", number))
    assert held(daemon) == 1
    client.come_back()
    client.resume()
    assert held(daemon) == 0
    client.close()


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that everybody may fill."""
    folder = tmp_path / "shm"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(slates, "SHARED", folder)
    return folder


def test_those_of_other_users_lie_where_they_may_write_anyway(tmp_path: Path, shared: Path) -> None:
    """Whoever has one can make it grow."""
    made = Slates(tmp_path)
    assert lent(made.lend(SESSION, os.geteuid())) is not None
    assert not list(shared.iterdir())
    other = SESSION[::-1]
    assert lent(made.lend(other, os.geteuid() + 1)) is not None
    (folder,) = shared.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in folder.iterdir()] == [other.hex()]
    after = Slates(tmp_path)
    after.keep_only([SESSION, other])
    assert after.read(other, os.geteuid() + 1) == {0}
    after.keep_only([SESSION])
    after.clear_up()
    after.close()
    assert not list(shared.iterdir())


@pytest.mark.parametrize("what", ["narrow", "none", "taken", "link"])
def test_other_users_get_none_where_that_is_not_so(tmp_path: Path, shared: Path, what: str) -> None:
    made = Slates(tmp_path)
    ours = made._shared
    match what:
        case "narrow":
            shared.chmod(0o755)
        case "none":
            shared.rmdir()
        case "taken":
            ours.touch()
        case _:
            ours.symlink_to(tmp_path / "nowhere")
    assert made.lend(SESSION, os.geteuid() + 1) is None
    descriptor = made.lend(SESSION, 0)
    assert descriptor is not None
    os.close(descriptor)


@needs_root
@ends
def test_the_very_last_release_of_another_user(number: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="atmost-"))  # that it can reach
    daemon = RunningDaemon(folder)
    try:
        folder.chmod(0o755)
        daemon.start()
        create(daemon, 1)
        become = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        with script(daemon, become + textwrap.dedent(HOLDER), "1") as holder:
            holder.expect("held")
            wait_until(lambda: files_of(daemon) == [])
            not_heard(daemon, lambda: leave(holder), number)
            assert held(daemon) == 0
        assert daemon.stop() == 0
        assert not Slates(folder / "run")._shared.exists()
    finally:
        daemon.stop(signal.SIGKILL)
        shutil.rmtree(folder)


def test_a_new_session_of_the_same_name_begins_with_a_clean_one(tmp_path: Path) -> None:
    (tmp_path / slates.NAME).mkdir(mode=0o700)
    (tmp_path / slates.NAME / SESSION.hex()).write_bytes(b"\1" * SLATE_BYTES)
    made = Slates(tmp_path)
    slate = lent(made.lend(SESSION, os.geteuid()))
    assert slate is not None
    assert made.read(SESSION, os.geteuid()) == {0}
    for number in (7, 2**64 - 1):
        slate.ring[next(slate.places)] = number
    assert made.read(SESSION, os.geteuid()) == {0, 7, 2**64 - 1}
    again = lent(made.lend(SESSION, os.geteuid()))
    assert again is not None
    assert again.ring[:3].tolist() == [7, 2**64 - 1, 0]
    made.forget(SESSION, os.geteuid())
    assert made.read(SESSION, os.geteuid()) == {0, 7, 2**64 - 1}, "the journal may not know it yet"
    made.clear_up()
    assert made.read(SESSION, os.geteuid()) == set()


def test_one_that_is_lent_again_before_the_journal_was_written_stays(tmp_path: Path) -> None:
    made = Slates(tmp_path)
    assert lent(made.lend(SESSION, os.geteuid())) is not None
    made.forget(SESSION, os.geteuid())
    assert lent(made.lend(SESSION, os.geteuid())) is not None
    made.clear_up()
    assert made.read(SESSION, os.geteuid()) == {0}


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    made = Slates(tmp_path)
    before = descriptors("self")
    assert made.lend(SESSION, os.geteuid()) is None
    assert not list((tmp_path / slates.NAME).iterdir())
    assert descriptors("self") == before


def test_the_oldest_makes_room() -> None:
    slate = Slate.of(memoryview(bytearray(24)).cast("Q"))
    for number in range(1, 6):
        slate.ring[next(slate.places)] = number
    assert slate.ring.tolist() == [4, 5, 3]


@pytest.mark.parametrize("size", [0, SLATE_BYTES - 1])
def test_what_is_no_slate_is_not_used(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").write_bytes(bytes(size))
    before = descriptors("self")
    assert lent(os.open(tmp_path / "x", os.O_RDWR)) is None
    assert lent(os.open(tmp_path / "x", os.O_RDONLY)) is None
    assert descriptors("self") == before


def test_a_daemon_that_hands_out_other_things(tmp_path: Path) -> None:
    """Too many descriptors, at any time: none of them is kept."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            other, _ = listening.accept()
            with other:
                other.recv(1000)
                null = array.array("i", [0, 1, 2])
                beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, null)]
                other.sendmsg([wire.encode(wire.Welcome(2, "x", 1))], beside)
                other.recv(1000)
                other.sendmsg([wire.encode(wire.Limits(1, [], False))], beside)
                other.recv(1000)

        serving = threading.Thread(target=serve)
        serving.start()
        with Client(path) as client:
            before = descriptors("self")
            assert client.list_limits() == []
            assert descriptors("self") <= before + 2
            first = descriptors("self")
        serving.join()
        assert descriptors("self") < first
