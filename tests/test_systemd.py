"""What systemd and the daemon tell each other, without a systemd: sockets and words by their protocols."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from atmost.errors import DaemonUnavailable
from atmostd import systemd
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

WATCHDOG_SECONDS = 0.3

# What systemd does before it runs a service. A fault may be planted behind it.
STARTER = """
import os, sys
given, notify, watchdog = sys.argv[1:4]
if given != "-1":
    os.dup2(int(given), 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="atmostd.socket")
os.environ["NOTIFY_SOCKET"] = notify
if watchdog != "0":
    os.environ.update(WATCHDOG_USEC=watchdog, WATCHDOG_PID=str(os.getpid()))
from atmostd import __main__ as daemon
{fault}
sys.exit(daemon.main(sys.argv[4:]))
"""


class Service(RunningDaemon):
    """A daemon that is started as systemd does it, and what it says."""

    def __init__(self, folder: Path, fault: str = "", abstract: bool = False) -> None:
        super().__init__(folder)
        self.given: socket.socket | None = None
        self.words: list[str] = []  # all that it said
        self.watchdog = 0.0
        self.fault = fault
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._address = f"@{folder}/notify" if abstract else str(folder / "notify")
        self._notify.bind(self._address.replace("@", "\0"))

    def listen(self) -> None:
        """Make the socket that the daemon is given."""
        self.given = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.given.bind(str(self.socket))
        self.given.listen()

    def start(self) -> Service:
        descriptor = -1 if self.given is None else self.given.fileno()
        told = [str(descriptor), self._address, str(int(self.watchdog * 1_000_000))]
        options = self.arguments[3:]
        if self.given is not None:
            options = options[2:]  # not --socket
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", STARTER.format(fault=self.fault), *told, *options],
                stdin=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[] if self.given is None else [descriptor],
            )
        return self

    def says(self, word: str) -> bool:
        """Whether it has said something with this in it."""
        while True:
            try:
                self.words.append(self._notify.recv(4096).decode())
            except BlockingIOError:
                return any(word in said for said in self.words)

    def hear(self, word: str) -> None:
        """Wait until it says this."""
        wait_until(lambda: self.says(word), f"{word} among {self.words}; {self.log_text()}")

    def forget(self) -> None:
        self.says("")
        self.words.clear()

    def close(self) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)
        self._notify.close()
        if self.given is not None:
            self.given.close()  # twice is harmless


class Services(Protocol):
    """Makes a service in a folder of its own, and ends it after the test."""

    def __call__(self, name: str, fault: str = "", abstract: bool = False) -> Service: ...


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = []

    def make(name: str, fault: str = "", abstract: bool = False) -> Service:
        (tmp_path / name).mkdir()
        made.append(Service(tmp_path / name, fault, abstract))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def service(services: Services) -> Service:
    return services("a")


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_says_when_it_serves_and_when_it_stops(services: Services, abstract: bool) -> None:
    service = services("a", abstract=abstract)
    service.start().hear("READY=1\nSTATUS=0 limits, 0 held, 0 waiting")
    service.client().close()
    assert service.stop() == 0
    assert service.says("STOPPING=1")
    assert not service.says("WATCHDOG=1")  # nobody asked for it


def test_says_what_it_does_but_not_each_time(service: Service) -> None:
    service.start().hear("READY=1")
    with service.client() as client:
        client.create_limit("db", 5)
        grants = [client.acquire("db") for _ in range(5)]
        service.hear("STATUS=1 limit, 5 held, 0 waiting")
        for _ in range(100):
            grants.pop().release()
            grants.append(client.acquire("db"))
    service.hear("STATUS=1 limit, 0 held, 0 waiting")
    assert len(service.words) < 8, service.words


def test_a_given_socket_is_used_and_left(service: Service) -> None:
    service.listen()
    inode = service.socket.stat().st_ino
    for _ in range(2):
        service.start().hear("READY=1")
        service.forget()
        with service.client() as client:
            assert client.status().socket == str(service.socket)
        assert service.stop() == 0
        assert service.socket.stat().st_ino == inode
        assert not service.socket.with_name("s.lock").exists()


def test_who_comes_too_early_waits(service: Service) -> None:
    service.listen()
    command = [sys.executable, "-m", "atmost", "status"]
    with subprocess.Popen(command, env=service.environment(), stdout=subprocess.PIPE) as early:
        service.start()
        told, _ = early.communicate(timeout=PATIENCE_SECONDS)
    assert b"running" in told


def test_two_daemons_of_one_given_socket(service: Service, services: Services) -> None:
    """The lock beside the socket is not theirs; that of the folders is."""
    service.listen()
    service.start().hear("READY=1")
    other = services("b")
    other.given, other.socket = service.given, service.socket
    other.state_dir, other.folder = service.state_dir, service.folder
    other.start()
    assert other.process is not None
    assert other.process.wait(PATIENCE_SECONDS) == 1
    assert "in use by another atmostd" in other.log_text()


def test_lives_by_proofs(service: Service) -> None:
    service.watchdog = WATCHDOG_SECONDS
    service.listen()
    service.start().hear("WATCHDOG=1")
    service.forget()
    service.hear("WATCHDOG=1")
    with service.client() as client:
        assert len(client.list_tickets()) == 0


def test_its_own_proofs_are_no_clients(service: Service) -> None:
    """So one that proves again and again also leaves when nobody is there."""
    service.watchdog = WATCHDOG_SECONDS
    service.options = ("--bound", "connections=1", "--bound", "connections_kept=0")
    service.start().hear("READY=1")
    with service.client() as client:
        service.forget()
        for _ in range(5):  # also while all connections are taken
            service.hear("WATCHDOG=1")
            service.forget()
            counted = client.list_statistics().daemon
            assert (counted.connections, counted.sessions) == (1, 1)
    assert service.stop() == 0
    service.options = ("--idle-seconds", str(4 * WATCHDOG_SECONDS))
    service.start().hear("WATCHDOG=1")
    assert service.process is not None
    assert service.process.wait(PATIENCE_SECONDS) == 0
    assert "nobody was there for" in service.log_text()
    assert "too many" not in service.log_text()


FAULTS = {
    "the door does not answer": """
from atmostd.connection import Connection
Connection.data_received = lambda self, data: None
""",
    "nobody is let in": """
from atmostd.connection import Connection
Connection.connection_made = lambda self, transport: transport.abort()
""",
    "actors do not act": """
from atmostd.actor import Actor
Actor.post = lambda self, event: None
""",
    "turns do not end": """
from atmostd.turn import Turn
async def never(self):
    import asyncio
    await asyncio.get_running_loop().create_future()
right = daemon.Watch.start
def start(self):
    Turn.over = never
    right(self)
daemon.Watch.start = start
""",
    "the journal is given up": """
from atmostd.journal import Journal
def given_up(self):
    self.trouble = "it is full"
    return False
Journal.prove = given_up
""",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_says_nothing_when_a_proof_fails(services: Services, fault: str) -> None:
    service = services("a", fault)
    service.watchdog = WATCHDOG_SECONDS
    service.start().hear("READY=1")
    sound = services("b")
    sound.watchdog = WATCHDOG_SECONDS
    sound.start()
    for _ in range(3):  # in the time of which the other one proves it again and again
        sound.hear("WATCHDOG=1")
        sound.forget()
    assert not service.says("WATCHDOG=1")


def test_a_disk_in_trouble_is_no_reason_to_be_shot(service: Service) -> None:
    """What is in memory is all there is then; it is said instead."""
    service.fault = """
from atmostd import journal
def full(file, data):
    raise OSError(28, "No space left on device")
journal._write_all = full
"""
    service.watchdog = WATCHDOG_SECONDS
    service.start()
    service.hear("No space left on device")
    service.forget()
    service.hear("WATCHDOG=1")


def test_a_socket_that_is_gone_is_no_reason_to_be_shot(service: Service) -> None:
    service.watchdog = WATCHDOG_SECONDS
    service.listen()
    service.start().hear("WATCHDOG=1")
    service.socket.unlink()
    service.hear("nobody can connect to")
    service.forget()
    service.hear("WATCHDOG=1")
    assert "systemctl restart atmostd.socket" in service.log_text()


def not_listening(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(folder / "s"))
    return made


def of_datagrams(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(folder / "s"))
    return made


def of_the_network(folder: Path) -> socket.socket:
    made = socket.socket()
    made.listen()
    return made


def abstract(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(f"\0{folder}/s")
    made.listen()
    return made


WRONG = {
    "does not listen": not_listening,
    "is no stream socket": of_datagrams,
    "is no Unix socket": of_the_network,
    "has no path": abstract,
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_socket_is_refused(service: Service, said: str) -> None:
    service.given = WRONG[said](service.folder)
    service.start()
    assert service.process is not None
    assert service.process.wait(PATIENCE_SECONDS) == 1
    assert f"the socket that was handed to atmostd {said}" in service.log_text()


def test_what_is_given_is_read_once() -> None:
    """Nothing that we start must take it for its own."""
    environ = {
        "LISTEN_PID": str(os.getpid() + 1),
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "x",
        "NOTIFY_SOCKET": "/nowhere",
        "WATCHDOG_USEC": "2000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    told = systemd.manager(environ)
    assert environ == {"HOME": "/"}
    assert told.listening is None  # it is another process's
    assert told.watchdog_seconds == 2.0
    assert told.notifier.tell("READY=1")  # nobody is there; that is no trouble of ours
    told.notifier.close()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("", "", None), ("0", "", None), ("x", "", None), ("500000", "1", None), ("500000", "", 0.5)],
)
def test_whose_watchdog_it_is(usec: str, pid: str, seconds: float | None) -> None:
    told = systemd.manager({"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid})
    assert told.watchdog_seconds == seconds


def test_several_sockets_are_refused() -> None:
    with pytest.raises(systemd.NotUsable, match=r"2 sockets .* \(a:b\)"):
        systemd.manager(
            {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
        )


def test_never_waits_for_who_does_not_read() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf,
    ):
        deaf.bind(f"{folder}/n")
        notifier = systemd.Notifier(f"{folder}/n")
        wait_until(lambda: not notifier.tell("STATUS=again"))
        deaf.recv(100)
        wait_until(lambda: notifier.tell("STATUS=again"))
        notifier.close()


def test_the_boot_id_of_the_environment(service: Service) -> None:
    """Where /proc does not show it; systemd writes it without dashes."""
    service.fault = """
import pathlib
right = pathlib.Path.read_text
def hidden(self, *a, **k):
    if str(self).endswith("boot_id"):
        raise FileNotFoundError(2, "No such file or directory")
    return right(self, *a, **k)
pathlib.Path.read_text = hidden
"""
    service.start()
    assert service.process is not None
    assert service.process.wait(PATIENCE_SECONDS) == 1
    assert "Environment=ATMOST_BOOT_ID=%b" in service.log_text()
    with pytest.raises(DaemonUnavailable):
        service.client().status()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    service.fault += f'os.environ["ATMOST_BOOT_ID"] = "{boot_id.replace("-", "")}"\n'
    service.start().hear("READY=1")
    with service.client() as client:
        client.create_limit("db", 1)
        client.acquire("db")
        service.stop(signal.SIGKILL)
        service.forget()
        service.fault = ""
        service.start().hear("READY=1")
        assert client.read_limit("db").held == 1  # the same run of the host
