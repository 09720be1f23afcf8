"""What browsers are told as it happens: live, slow, too many, and across the end of a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import time
from typing import Any

import pytest

from atmost import wire
from atmost.sync import Client
from atmost.web import bounds
from atmost.web.problems import TooManyStreams
from atmost.web.streams import Stream as ServedStream
from atmost.web.streams import Streams, frame
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_cli import start
from tests.web.relay import Relay
from tests.web.support import RunningWeb, Stream

ROWS_MANY = 5_000  # about 1.5 MB: more than lies between a web process and who does not read

# One stream, without a process


async def nothing(limit: str | None) -> bytes:
    return f"snapshot of {limit}\n".encode()


def test_a_slow_browser_gets_a_fresh_snapshot_instead_of_a_backlog() -> None:
    async def story() -> None:
        stream = ServedStream("db")
        stream.put(b"before it began")
        assert await stream.next(nothing) == b"snapshot of db\n"
        for number in range(bounds.STREAM_BATCHES_MAX):
            stream.put(b"%d," % number)
        assert await stream.next(nothing) == b"0,1,2,3,4,5,6,7,"
        for number in range(bounds.STREAM_BATCHES_MAX + 100):
            stream.put(b"%d," % number)
        assert await stream.next(nothing) == b"snapshot of db\n", "and nothing that it missed"
        stream.put(b"new")
        assert await stream.next(nothing) == b"new"
        stream.end()
        assert await stream.next(nothing) is None

    asyncio.run(story())


def test_the_number_of_streams_is_bounded() -> None:
    streams = Streams(2)
    first = streams.open(None)
    streams.open("db")
    with pytest.raises(TooManyStreams, match="at most 2 open pages"):
        streams.open(None)
    streams.close(first)
    streams.close(first)
    streams.open(None)
    assert streams.limits() == {"db"}


def test_an_event_is_three_lines_whatever_is_in_it() -> None:
    data = {"name": "a\nb\r\n\ndata: x\u2028", "command": "\u202e\0"}
    lines = frame("changes", 7, data).split(b"\n")
    assert lines[:2] == [b"event: changes", b"id: 7"]
    assert lines[3:] == [b"", b""]
    assert b"\r" not in lines[2]
    assert json.loads(lines[2].removeprefix(b"data: ")) == data


# Live


def test_what_happens_is_told(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client, web.stream() as stream:
        snapshot = stream.wait_for("snapshot")
        assert snapshot["limits"] == []
        assert snapshot["daemon"]["state"] == "there"
        assert snapshot["rights"]["may_change"]
        client.create_limit("db", 2)
        wait_until(lambda: row(stream, "db"))
        grant = client.acquire("db")
        wait_until(lambda: row(stream, "db")["held"] == 1)
        grant.release()
        wait_until(lambda: row(stream, "db")["held"] == 0)
        client.update_limit("db", limit=7)
        wait_until(lambda: row(stream, "db")["limit"] == 7)
        client.delete_limit("db")
        wait_until(lambda: "db" in stream.wait_for("changes")["deleted"])
        sequences = [data["sequence"] for data in stream.of("changes")]
        assert sequences == sorted(set(sequences))


def row(stream: Stream, name: str) -> Any:
    """As it was told last."""
    for _, data in reversed(stream.events):
        for found in data.get("limits") or []:
            if found["name"] == name:
                return found
    return None


def test_the_details_of_one_limit_are_told(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client, web.stream("?limit=db") as stream, web.stream() as other:
        assert stream.wait_for("detail") == {"name": "db", "gone": True}
        client.create_limit("db", 1)
        wait_until(lambda: "limit" in stream.wait_for("detail"))
        with client.concurrency("db"):
            wait_until(lambda: stream.wait_for("detail").get("holders"))
        wait_until(lambda: not stream.wait_for("detail").get("holders"))
        wait_until(
            lambda: (
                {"granted", "released"}
                <= {event["kind"] for data in stream.of("events") for event in data["events"]}
            )
        )
        client.delete_limit("db")
        wait_until(lambda: stream.wait_for("detail") == {"name": "db", "gone": True})
        assert other.of("detail") == []


def test_changes_come_at_most_four_times_a_second(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client, web.stream() as stream:
        client.create_limit("db", 5)
        stream.wait_for("changes")
        before = len(stream.of("changes"))
        began = time.monotonic()
        while time.monotonic() - began < 3:
            client.acquire("db").release()
        told = len(stream.of("changes")) - before
        passed = time.monotonic() - began
        assert 1 <= told <= 4 * passed + 2


def test_a_decaying_level_is_told_as_it_goes(web: RunningWeb, daemon: RunningDaemon) -> None:
    with daemon.client() as client, web.stream() as stream:
        client.create_limit("api", 10, 2.0)
        client.rate_limit("api", 4)
        wait_until(lambda: (row(stream, "api") or {}).get("active_slots") == 4)
        for slots in (3, 2, 1, 0):
            wait_until(lambda slots=slots: row(stream, "api")["active_slots"] <= slots)  # type: ignore[misc]


# Slow, and many


def test_a_browser_that_does_not_read_costs_no_memory(
    web: RunningWeb, daemon: RunningDaemon
) -> None:
    """It gets a fresh snapshot when it reads again; and all others go on."""
    with daemon.client() as client:
        declare(client, 400, 0)
        slow = Stream(web, buffer_bytes=4096)
        try:
            with web.stream() as quick:
                quick.wait_for("snapshot")
                number = 0
                while sum(len(data["limits"]) for data in quick.of("changes")) < ROWS_MANY:
                    number += 1
                    declare(client, 400, number)
                wait_until(lambda: (row(quick, "limit 000") or {}).get("limit") == number)
                slow.begin()
                slow.wait_for("snapshot", 2)
                wait_until(lambda: row(slow, "limit 399")["limit"] == number, "what is so now")
                assert len(slow.of("changes")) < len(quick.of("changes"))
        finally:
            slow.close()


def declare(client: Client, count: int, slots: int) -> None:
    """Have there be so many limits, of so many slots, in one change."""
    limits = [wire.Declaration(f"limit {number:03}", slots) for number in range(count)]
    client._ask(wire.Draft, limits, [], True)
    changes = client._ask(wire.ListChanges, False, 0)
    assert isinstance(changes, wire.Changes)
    client._ask(wire.Commit, False, changes.version)


def test_a_thousand_streams_at_once(web: RunningWeb, daemon: RunningDaemon) -> None:
    """As many as there may be are served; the others are told in words; and it goes on."""
    opened: list[socket.socket] = []
    refused = served = 0
    try:
        for _ in range(1_000):
            stream = socket.create_connection(("127.0.0.1", web.port), PATIENCE_SECONDS)
            opened.append(stream)
            stream.sendall(
                f"GET /api/stream HTTP/1.1\r\nHost: {web.host}\r\n"
                f"Authorization: Bearer {web.token}\r\n\r\n".encode()
            )
        for stream in opened:
            answer = http.client.HTTPResponse(stream)
            answer.begin()
            if answer.status == 200:
                served += 1
            else:
                refused += 1
                assert answer.status == 503
                assert answer.headers["Retry-After"]
                assert json.loads(answer.read())["code"] == "too_many_streams"
        assert (served, refused) == (bounds.STREAMS_MAX, 1_000 - bounds.STREAMS_MAX)
        assert web.ask("GET", "/api/session").status == 200
    finally:
        for stream in opened:
            stream.close()

    def there_is_room() -> bool:
        with contextlib.suppress(AssertionError), web.stream() as stream:
            return bool(stream.wait_for("snapshot"))
        return False

    wait_until(there_is_room, "room for a stream again")


def test_two_thousand_connections_that_say_nothing(web: RunningWeb) -> None:
    """They are bounded, too, and told so, and go after a while."""
    opened = []
    try:
        for _ in range(bounds.CONNECTIONS_MAX + 100):
            try:
                opened.append(socket.create_connection(("127.0.0.1", web.port), PATIENCE_SECONDS))
            except OSError:  # of this process: too many open files
                break
        if len(opened) > bounds.CONNECTIONS_MAX:
            data = wait_until(lambda: peek(opened[-1]), "the last one is refused")
            assert data.startswith(b"HTTP/1.1 503 ")
        half = opened[1]  # the second request of this one never comes to an end
        half.sendall(f"GET / HTTP/1.1\r\nHost: {web.host}\r\n\r\nGET / HTTP/1.1\r\n".encode())
        wait_until(lambda: not alive(opened[0]), "who says nothing is closed")
        wait_until(lambda: drained(half), "and who says half a request")
        assert web.ask("GET", "/api/session").status == 200
    finally:
        for one in opened:
            one.close()


def peek(of: socket.socket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return of.recv(1000, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return b""


def drained(of: socket.socket) -> bool:
    """Whether it is closed, once all that came was read."""
    with contextlib.suppress(BlockingIOError):
        try:
            while of.recv(65536, socket.MSG_DONTWAIT):
                pass
        except ConnectionError:
            pass
        return True
    return False


def alive(of: socket.socket) -> bool:
    try:
        return of.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


# The end of a daemon


def test_a_daemon_is_killed_and_comes_back(alone: RunningDaemon) -> None:
    """The page says so, shows what was, and goes on by itself."""
    with RunningWeb(alone) as web, alone.client() as client:
        web.wait_for_daemon()
        client.create_limit("db", 5)
        wait_until(lambda: web.get("/api/limits")["total"] == 1)
        web.limit("db")
        with web.stream("?limit=db") as stream:
            assert stream.wait_for("snapshot")["daemon"]["state"] == "there"
            alone.stop(signal.SIGKILL)
            gone = stream.wait_for("daemon")
            assert gone["state"] == "gone"
            assert str(alone.socket) in gone["why"]
            assert "start one with: atmostd --socket" in gone["why"]
            page = web.get("/api/limits")
            assert (page["stale"], page["limits"][0]["name"]) == (True, "db")
            assert web.limit("db")["stale"]
            refused = web.ask("PATCH", "/api/limits/db", {"limit": 6})
            assert (refused.status, refused.code) == (503, "daemon_unavailable")
            assert refused.headers["Retry-After"]
            assert "atmost_up 0" in web.ask("GET", "/metrics").text

            alone.start()
            assert stream.wait_for("snapshot", 2)["daemon"]["pid"] == alone.pid
            assert web.ask("PATCH", "/api/limits/db", {"limit": 6}).status == 200
            wait_until(lambda: row(stream, "db")["limit"] == 6)
            assert not web.get("/api/limits")["stale"]
            slots = web.get("/api/limits/db/history")["slots"]
            assert slots[-1] is not None


def test_a_restart_is_hardly_noticed(alone: RunningDaemon) -> None:
    with RunningWeb(alone) as web, web.stream() as stream:
        web.wait_for_daemon()
        pid = alone.pid
        alone.stop()
        alone.start()
        assert alone.pid != pid
        wait_until(lambda: web.get("/api/session")["daemon"]["pid"] == alone.pid)
        assert web.ask("POST", "/api/limits", {"name": "new", "limit": 1}).status == 201
        wait_until(lambda: row(stream, "new"))


def test_no_daemon_at_all(alone: RunningDaemon) -> None:
    """It lives, says what to do, and is there once a daemon is."""
    alone.stop()
    with RunningWeb(alone) as web, web.stream() as stream:
        snapshot = stream.wait_for("snapshot")
        assert snapshot["daemon"]["state"] == "gone"
        wait_until(lambda: "start one with" in web.get("/api/session")["daemon"]["why"])
        for path in ("/api/limits/db", "/api/limits/db/history", "/api/limits/db/line"):
            refused = web.ask("GET", path)
            assert (refused.status, refused.code) == (503, "daemon_unavailable")
        assert web.get("/api/limits")["stale"]
        assert web.ask("POST", "/api/limits", {"name": "a", "limit": 1}).status == 503
        wait_until(lambda: "no atmost daemon" in web.log.read_text(), "the terminal says so, too")
        alone.start()
        web.wait_for_daemon()
        assert stream.wait_for("snapshot", 2)["daemon"]["state"] == "there"


def test_it_ends_at_once_though_pages_are_open(alone: RunningDaemon) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with RunningWeb(alone) as web, web.stream() as stream:
            stream.wait_for("snapshot")
            assert web.stop(number) in (0, -number)
            assert "Traceback" not in web.log.read_text()


# Cost


def test_fifty_pages_cost_the_daemon_no_more_than_a_watch(alone: RunningDaemon) -> None:
    """With 1,000 changes a second: what the daemon has to read and to tell is counted, since its time is
    not the same twice. The pages are told what a watch is told, once for all of them, and what is read
    besides is no tenth of that."""
    with alone.client() as client, Relay(alone) as relay:
        client.create_limit("db", 5)
        with start(alone, "--socket", str(relay.socket), "watch", stdout=subprocess.DEVNULL):
            watch = relay.count_while(changes, client)
        with RunningWeb(alone, by=relay.socket) as web, contextlib.ExitStack() as pages:
            web.wait_for_daemon()
            for number in range(50):
                pages.enter_context(web.stream("?limit=db" if number % 2 else ""))
            shown = relay.count_while(changes, client)
    print(f"a watch: {watch}; 50 pages: {shown}")
    assert watch.told > 2 * CYCLES * 20, "an event is more than 20 bytes"
    assert shown.told < 1.1 * watch.told
    assert shown.read < 0.1 * watch.told


CYCLES = 1_500


def changes(client: Client) -> None:
    """About 1,000 a second: a grant and a release are two."""
    began = time.monotonic()
    for cycle in range(CYCLES):
        client.acquire("db").release()
        time.sleep(max(0.0, began + cycle / 500 - time.monotonic()))
