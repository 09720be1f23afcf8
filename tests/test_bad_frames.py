"""What is not our protocol costs the client that sent it its connection, and nobody else anything.

A neighbour works beside every test here, and after each it must still be served.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from atmost.values import NAME_CHARS_MAX, NAMES_MAX
from atmost.wire import COMMAND_CHARS_MAX, FRAME_BYTES_MAX
from atmostd import config
from tests.bad_manners import Mute, Neighbour, is_closed_with, raw
from tests.protocol_client import Client, Failed, frame
from tests.support import PATIENCE_SECONDS, RunningDaemon

HELLO = ["hello", 1, bytes(16), 1, ["job"], "ada", ""]
MEMORY_GROWTH_KB_MAX = 32 * 1024  # for 1 MiB of replies, and what an allocator makes of it
LIMITS = 250  # with names so long that a listing of them fills a frame


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon for all tests here: that it outlives them is the point."""
    running = RunningDaemon(tmp_path_factory.mktemp("bad")).start()
    yield running
    assert running.stop(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def neighbour(running: RunningDaemon) -> Iterator[Neighbour]:
    neighbour = Neighbour(running)
    neighbour.start()
    yield neighbour
    neighbour.end()


@pytest.fixture(autouse=True)
def _unharmed(running: RunningDaemon, neighbour: Neighbour) -> Iterator[None]:
    """The neighbour goes on, and nothing went wrong in the daemon itself."""
    before = running.log_text().count("Traceback")
    yield
    neighbour.goes_on()
    assert running.log_text().count("Traceback") == before


@pytest.fixture
def client(running: RunningDaemon) -> Iterator[Client]:
    connected = Client(str(running.socket))
    yield connected
    connected.close()


@pytest.fixture
def mute(running: RunningDaemon) -> Iterator[Mute]:
    connected = Mute(str(running.socket))
    yield connected
    connected.close()


# Not our protocol: an error of the connection, and its end

NO_MESSAGE = {
    "empty": b"",
    "an unused code": b"\xc1",
    "cut off within": msgpack.packb(["release", 1])[:-3],
    "more behind it": msgpack.packb(["release", 1]) + b"\x00",
    "a number": msgpack.packb(7),
    "a text": msgpack.packb("release"),
    "nil": msgpack.packb(None),
    "a map": msgpack.packb({"release": 1}),
    "a map like a message": msgpack.packb({0: "acquire", 1: 5}),
    "an empty array": msgpack.packb([]),
    "no type": msgpack.packb([1, 2]),
    "a type that is no text": msgpack.packb([["acquire"], 1]),
    "an unknown type": msgpack.packb(["acquire_all", 1, {"db": 1}]),
    "a type in capitals": msgpack.packb(["Acquire", 1, {"db": 1}]),
    "what only a daemon says": msgpack.packb(["granted", 1, 1, 1]),
    "no request": msgpack.packb(["acquire"]),
    "a request that is text": msgpack.packb(["acquire", "1", {"db": 1}]),
    "a request that is a float": msgpack.packb(["read_limit", 1.0, "db"]),
    "a request that is a bool": msgpack.packb(["read_limit", True, "db"]),
    "a request that is nil": msgpack.packb(["status", None]),
    "a release of nothing": msgpack.packb(["release"]),
    "a release of a text": msgpack.packb(["release", "1"]),
    "a text that is not UTF-8": b"\x93\xaaread_limit\x01\xa1\xff",
    "a type that is not UTF-8": b"\x92\xa1\xff\x01",
    **{f"{deep} deep": b"\x91" * deep + b"\x01" for deep in (500, 1_000, 1_500, 2_000, 3_000)},
    "very deep": b"\x91" * 60_000 + b"\x01",
    "very deep in a field": b"\x93\xa7acquire\x01" + b"\x91" * 60_000 + b"\x01",
    "very deep behind the fields": b"\x93\xa6status\x01" + b"\x91" * 60_000 + b"\x01",
}


@pytest.mark.parametrize("body", NO_MESSAGE.values(), ids=NO_MESSAGE)
def test_what_is_no_message_closes_the_connection(client: Client, body: bytes) -> None:
    client.socket.sendall(raw(body))
    is_closed_with(client, "no message")


@pytest.mark.parametrize("length", [FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_frame_too_long_is_refused_by_its_prefix(client: Client, length: int) -> None:
    client.socket.sendall(length.to_bytes(4, "big"))
    is_closed_with(client, f"a frame of {length} bytes; at most {FRAME_BYTES_MAX} are allowed")


def test_the_longest_frame_is_taken(client: Client) -> None:
    rest = FRAME_BYTES_MAX - len(msgpack.packb(["status", 1, b"x" * 60_000])) + 60_000
    longest = frame("status", 1, b"x" * rest)
    assert len(longest) == FRAME_BYTES_MAX + 4
    client.socket.sendall(longest)
    assert client.answer(1)[0] == "daemon_status"


@pytest.mark.parametrize("end", ["close", "shutdown"])
@pytest.mark.parametrize("keep", [1, 3, 4, 5, 20])
def test_a_frame_cut_short_is_not_acted_on(client: Client, keep: int, end: str) -> None:
    client.socket.sendall(frame("create_limit", 1, f"short {keep}", 1)[:keep])
    if end == "shutdown":
        client.socket.shutdown(1)
        with pytest.raises(EOFError):
            client.receive()
    client.close()


@pytest.mark.parametrize(
    "message",
    [
        ["acquire", 1, {"early": 1}],
        ["release", 1],
        ["create_limit", 1, "early", 1],
        ["list_limits", 1],
        ["status", 1],
    ],
    ids=lambda message: str(message[0]),
)
def test_nothing_comes_before_the_hello(mute: Mute, client: Client, message: list[Any]) -> None:
    mute.socket.sendall(frame(*message) + frame(*HELLO))
    is_closed_with(mute, "before the hello")
    assert "early" not in [record[0] for record in client.ask("list_limits")[2]]


def test_garbage_before_the_hello(mute: Mute) -> None:
    mute.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    is_closed_with(mute, r"a frame of \d+ bytes")


def test_a_second_hello(client: Client) -> None:
    client.send(*HELLO)
    is_closed_with(client, "a second hello")


@pytest.mark.parametrize("version", [0, 3, -1, 2**64 - 1])
def test_another_protocol_version(mute: Mute, version: int) -> None:
    mute.send("hello", version, *HELLO[2:])
    is_closed_with(mute, f"protocol version {version}; this daemon speaks 1 to 2")


@pytest.mark.parametrize("count", [0, 15, 17, 1000])
def test_a_session_of_another_length(mute: Mute, count: int) -> None:
    mute.send("hello", 1, bytes(count), *HELLO[3:])
    is_closed_with(mute, f"a session of {count} bytes")


@pytest.mark.parametrize("at", range(1, len(HELLO)))
@pytest.mark.parametrize("wrong", [None, 1.5, True, {}, [1]], ids=repr)
def test_a_hello_with_a_wrong_field(mute: Mute, at: int, wrong: Any) -> None:
    mute.send(*HELLO[:at], wrong, *HELLO[at + 1 :])
    is_closed_with(mute, "a hello that is no message")


@pytest.mark.parametrize("waits", [False, True])
def test_a_request_number_that_is_in_use(client: Client, waits: bool) -> None:
    limit = f"in use {waits}"
    client.ask("create_limit", limit, 1)
    if waits:
        client.ask("acquire", {limit: 1})
    number = client.request("acquire", {limit: 1})
    if not waits:
        client.answer(number)
    client.send("acquire", number, {limit: 1})
    is_closed_with(client, f"request {number} is in use")


def test_what_comes_after_bad_bytes_is_not_acted_on(client: Client, running: RunningDaemon) -> None:
    late = frame("create_limit", 2, "too late", 1) + frame("acquire", 3, {"too late too": 1})
    client.socket.sendall(frame("what") + late)
    is_closed_with(client, "no message")
    with running.client() as other:
        assert not [limit for limit in other.list_limits() if limit.name.startswith("too late")]


def test_what_the_client_held_is_free_again(client: Client, running: RunningDaemon) -> None:
    client.ask("create_limit", "held by a bad one", 1)
    client.ask("acquire", {"held by a bad one": 1})
    client.send("what")
    is_closed_with(client, "no message")
    with running.client() as other:
        other.acquire("held by a bad one", timeout_seconds=PATIENCE_SECONDS).release()


# A client that does not read


@pytest.fixture(scope="module")
def long_listing(running: RunningDaemon) -> None:
    """So many limits that each answer to list_limits is as long as a frame may be."""
    with running.client() as client:
        for number in range(LIMITS):
            client.acquire(f"{number:03}" + "x" * (NAME_CHARS_MAX - 3)).release()
        assert len(client.list_limits()) > LIMITS


def peak_kb(running: RunningDaemon) -> int:
    """The most memory that the daemon has ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{running.pid}/status").read_text())
    assert found
    return int(found[1])


def read_all(client: Client) -> None:
    while True:
        client.receive()


def times_cut_off(running: RunningDaemon) -> int:
    return running.log_text().count("cutting off")


@pytest.mark.usefixtures("long_listing")
@pytest.mark.parametrize("frames_at_once", [1, 10_000])
def test_a_client_that_does_not_read_is_cut_off(
    running: RunningDaemon, client: Client, frames_at_once: int
) -> None:
    before, cut = peak_kb(running), times_cut_off(running)
    requests = frame("list_limits", 1) * frames_at_once
    while times_cut_off(running) == cut:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.socket.sendall(requests)
    assert peak_kb(running) - before < MEMORY_GROWTH_KB_MAX
    with pytest.raises((EOFError, ConnectionResetError)):
        read_all(client)


# Values that are right and as long as they may be


def test_errors_about_the_longest_names_fit_their_frames(client: Client) -> None:
    """All limits of a request but one are made by it; that one is taken."""
    client.ask("create_limit", "taken", 1)
    client.ask("acquire", {"taken": 1})
    names = [chr(0x1F600 + n) * NAME_CHARS_MAX for n in range(NAMES_MAX - 1)]
    asked = dict.fromkeys(["taken", *names], 1)
    with pytest.raises(Failed) as caught:
        client.ask("acquire", asked, {}, 0)
    assert caught.value.code == "acquire_timeout"
    assert caught.value.fields["slots"] == asked
    with pytest.raises(Failed) as caught:
        client.ask("acquire", asked, {}, None, True)
    assert (caught.value.code, caught.value.fields["names"]) == ("limit_inactive", sorted(names))
    missing = [chr(0xF0000 + n) * NAME_CHARS_MAX for n in range(NAMES_MAX)]  # printed as \U000f0000
    with pytest.raises(Failed) as caught:
        client.ask("acquire", dict.fromkeys(missing, 1), {}, None, True)
    assert (caught.value.code, caught.value.fields["names"]) == ("limit_not_found", missing)


def test_who_says_a_lot_of_itself_is_cut_short(mute: Mute, client: Client) -> None:
    """All that others see of it: in a time-out, in the listing."""
    mute.send("hello", 1, bytes(16), 1, ["c'" * 100, "more " * 5_000], "u" * 30_000, "")
    client.ask("create_limit", "long", config.HOLDERS_TOLD_MAX)
    for _ in range(config.HOLDERS_TOLD_MAX):
        mute.ask("acquire", {"long": 1})
    with pytest.raises(Failed) as caught:
        client.ask("acquire", {"long": 1}, {}, 0)
    tickets, more = client.ask("list_tickets", "long")[2:4]
    assert len(tickets) == len(caught.value.fields["holders"]) == config.HOLDERS_TOLD_MAX
    assert not more
    for ticket, holder in zip(tickets, caught.value.fields["holders"], strict=True):
        assert (ticket[4], ticket[5]) == (holder["user"], holder["command"])
        assert len(ticket[4]) == config.USER_CHARS_MAX
        assert len(ticket[5]) == COMMAND_CHARS_MAX


def test_what_a_client_says_cannot_act_on_a_terminal_or_forge_a_log(
    tmp_path: Path,
) -> None:
    """A line end would begin a line of the log, an escape could clear the operator's screen."""
    running = RunningDaemon(tmp_path).start()  # of a storm of lines not all are written
    mute, client = Mute(str(running.socket)), Client(str(running.socket))
    evil = "\nforged \x1b[2J\x9b2J\r"
    mute.send("hello", 1, bytes(16), 1, ["job" + evil], "ada" + evil, "")
    mute.ask("create_limit", "evil", 1)
    mute.ask("acquire", {"evil": 1})
    (ticket,) = client.ask("list_tickets", "evil")[2]
    assert ticket[4].isprintable()
    assert ticket[5].isprintable()
    mute.ask("acquire", {"made by evil": 1})
    mute.send(evil, 1)
    is_closed_with(mute, "no message")
    log = running.log_text()
    assert "job" in log
    assert all(line.isprintable() and not line.startswith("forged") for line in log.splitlines())
    client.close()
    mute.close()
    assert running.stop(signal.SIGTERM) == 0
