"""Watching what happens: against a real daemon, with both clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import atmost.asyncio
from atmost import wire
from atmost.errors import AcquireTimeout, DaemonUnavailable, LimitInactive, NeverFits
from atmost.sync import Event, Watch
from tests.protocol_client import Client as Foreign
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until


class Seen:
    """Reads a watch in a thread, so that a test can wait for what it needs."""

    def __init__(self, watch: Watch) -> None:
        self.events: list[Event] = []
        self.watch = watch
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for event in self.watch:
            self.events.append(event)

    def ends(self) -> None:
        """The watch was closed, while the thread waits for the next event or not."""
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def until(self, kind: str, **fields: object) -> Event:
        def found() -> Event | None:
            for event in list(self.events):
                if event.kind == kind and all(getattr(event, f) == v for f, v in fields.items()):
                    return event
            return None

        event = wait_until(found, f"{kind} {fields} among {[e.kind for e in self.events]}")
        assert event is not None
        return event

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@contextlib.contextmanager
def watching(daemon: RunningDaemon, name: str | None = None) -> Iterator[Seen]:
    """What happens from here on."""
    with daemon.client() as client:
        watch = client.watch(name)
        with watch:
            seen = Seen(watch)
            yield seen
        seen.ends()


def test_a_day_in_the_life_of_a_limit(daemon: RunningDaemon) -> None:
    with watching(daemon, "day") as seen, daemon.client() as client, daemon.client() as other:
        client.create_limit("day", 1)
        client.create_limit("another", 1)
        grant = client.acquire("day")
        with pytest.raises(AcquireTimeout):
            other.acquire("day", timeout_seconds=0.05)
        with pytest.raises(NeverFits):
            other.acquire("day", 2)
        grant.release()
        client.update_limit("day", limit=7, slot_decay_per_second=2.5)
        client.update_limit("day", active=False)
        with pytest.raises(LimitInactive):
            client.acquire("day", strict=True)
        client.delete_limit("day")
        seen.until("deleted")
    first, *rest = seen.events
    assert first.kind == "daemon_started"
    assert first.pid == daemon.pid
    assert [(event.kind, event.limit) for event in rest] == [
        (kind, "day")
        for kind in (
            *("created", "granted", "queued", "timed_out", "refused", "released"),
            *("changed", "changed", "refused", "deleted"),
        )
    ]
    created, granted, queued, timed_out, refused, released, changed, off, strict, _ = rest
    assert created.reason == "limit 1, active"
    assert changed.reason == "limit 7, 2.5/s, active"
    assert off.reason == "limit 7, 2.5/s, inactive"
    assert granted.pid == queued.pid == os.getpid()
    assert granted.token == released.token == grant.token
    assert granted.number == released.number != queued.number
    assert granted.waited_seconds is not None
    assert timed_out.number == queued.number
    assert timed_out.waited_seconds is not None
    assert timed_out.waited_seconds > 0
    assert released.held_seconds is not None
    assert released.held_seconds > 0
    assert (refused.reason, refused.slots) == ("never_fits", 2)
    assert strict.reason == "limit_inactive"
    assert abs(granted.at - time.time()) < 3600


def test_a_request_over_several_limits_is_an_event_at_each(daemon: RunningDaemon) -> None:
    with watching(daemon) as seen, daemon.client() as client:
        client.create_limit("left", 1)
        client.create_limit("right", 5)
        with client.concurrency({"left": 1, "right": 3}):
            pass
        seen.until("released", limit="right")
    told = [(e.kind, e.limit, e.slots) for e in seen.events if e.kind in ("granted", "released")]
    assert told == [
        ("granted", "left", 1),
        ("granted", "right", 3),
        ("released", "left", 1),
        ("released", "right", 3),
    ]
    assert len({e.token for e in seen.events if e.slots}) == 1


HOLD = """
import sys, time
from atmost.sync import acquire
acquire("doomed")
print("held", flush=True)
time.sleep(600)
"""


def test_a_holder_that_is_killed_has_died_and_who_waits_goes(daemon: RunningDaemon) -> None:
    with watching(daemon, "doomed") as seen, daemon.client() as client:
        client.create_limit("doomed", 1)
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD], env=daemon.environment(), stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        with holder, holder.stdout:
            holder.stdout.readline()
            waiting = threading.Thread(target=lambda: client.acquire("doomed").release())
            waiting.start()
            seen.until("queued")
            holder.kill()
        waiting.join()
        died = seen.until("died")
        seen.until("released")
        assert (died.pid, died.reason) == (holder.pid, "its process ended")
        (found,) = [s for s in client.list_statistics().limits if s.name == "doomed"]
        assert (found.grants, found.releases, found.deaths, found.cancels) == (2, 2, 1, 0)


def test_a_connection_that_ends_releases_and_a_waiter_that_gives_up_is_cancelled(
    daemon: RunningDaemon,
) -> None:
    with watching(daemon, "end") as seen, daemon.client() as client:
        client.create_limit("end", 1)
        holder, waiter = Foreign(str(daemon.socket)), Foreign(str(daemon.socket))
        holder.ask("acquire", {"end": 1})
        number = waiter.request("acquire", {"end": 1})
        seen.until("queued")
        waiter.send("release", number)
        assert seen.until("cancelled").reason == ""
        waiter.close()
        holder.close()
        assert seen.until("released").reason == "its connection ended"
        assert "died" not in seen.kinds()


def test_the_async_client_sees_the_same(daemon: RunningDaemon) -> None:
    async def main() -> list[str]:
        kinds = []
        client = atmost.asyncio.Client(daemon.socket)
        async with client.watch("async") as watch:
            await client.create_limit("async", 1)
            async with client.concurrency("async"):
                pass
            async for event in watch:
                kinds.append(event.kind)
                if event.kind == "released":
                    break
            assert watch.missed == 0
        assert [event async for event in watch] == []
        statistics = await client.list_statistics()
        assert statistics.daemon.watchers == 0
        client.close()
        return kinds

    assert asyncio.run(main()) == ["daemon_started", "created", "granted", "released"]


def test_closing_ends_it_and_the_client_goes_on(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        watch = client.watch()
        assert next(watch).kind == "daemon_started"
        assert client.list_statistics().daemon.watchers == 1
        watch.close()
        watch.close()
        assert client.list_statistics().daemon.watchers == 0
        assert list(watch) == []


def test_a_watch_is_over_with_its_connection(daemon: RunningDaemon) -> None:
    foreign = Foreign(str(daemon.socket))
    foreign.request("watch")
    foreign.ask("status")
    with daemon.client() as client:
        assert client.list_statistics().daemon.watchers == 1
        foreign.close()
        wait_until(lambda: client.list_statistics().daemon.watchers == 0)


def test_a_wrong_name_is_refused(daemon: RunningDaemon) -> None:
    foreign = Foreign(str(daemon.socket))
    number = foreign.request("watch", "a/b")
    answer = wait_until(foreign.receive)
    assert answer[:3] == ["failed", number, "invalid_value"]
    foreign.close()


@pytest.mark.parametrize("make", ["sync", "asyncio"])
def test_after_a_restart_it_goes_on_and_tells(daemon: RunningDaemon, make: str) -> None:
    events: list[Event] = []

    def read() -> None:
        with contextlib.suppress(DaemonUnavailable):  # at the end of the test
            for event in daemon.client().watch():
                events.append(event)

    async def read_async() -> None:
        with contextlib.suppress(DaemonUnavailable):
            async for event in atmost.asyncio.Client(daemon.socket).watch():
                events.append(event)

    target: Callable[[], object] = read
    if make == "asyncio":
        target = lambda: asyncio.run(read_async())  # noqa: E731
    threading.Thread(target=target, daemon=True).start()
    wait_until(lambda: events, "the first event")
    with daemon.client() as client:
        client.create_limit("restart", 1)
        grant = client.acquire("restart")
        daemon.stop(signal.SIGKILL)
        daemon.start()
        client.status()  # comes back for that, before the watch or after it
        wait_until(lambda: [e.kind for e in events].count("daemon_started") == 2, "it is back")
        grant.release()
        wait_until(lambda: [e for e in events if e.kind == "released"], "the release")
    started = [event for event in events if event.kind == "daemon_started"]
    assert [event.pid for event in started][-1] == daemon.pid
    assert len(started) == 2
    assert [e.limit for e in events if e.kind == "reconnected"] == ["restart"]
    with daemon.client() as client:
        assert client.list_statistics().daemon.starts == 2


def test_who_does_not_read_costs_nobody_anything_and_is_told_what_it_missed(
    daemon: RunningDaemon,
) -> None:
    slow = Foreign(str(daemon.socket))
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    watch = slow.request("watch")
    slow.ask("status")
    with daemon.client() as client:
        client.create_limit("storm", 5)
        busy = Foreign(str(daemon.socket))
        for _round in range(60):
            numbers = [busy.request("acquire", {"storm": 1}) for _ in range(200)]
            for number in numbers:
                busy.send("release", number)
            busy.ask("status")
        missed = wait_until(lambda: client.list_statistics().daemon.events_missed)
        assert missed > 1000
        busy.close()
    told = kept = 0
    while told < missed:
        _, request, events, more = slow.receive()
        assert request == watch
        told += more
        kept += len(events)
    slow.ask("status")  # its connection lives
    slow.close()
    assert told == missed
    assert kept > 100


def test_ten_thousand_in_one_turn_arrive_or_are_counted(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("many", 1)
        busy = Foreign(str(daemon.socket))
        busy.ask("acquire", {"many": 1})
        for _ in range(9_000):
            busy.request("acquire", {"many": 1})
        busy.ask("status")
        watch = client.watch("many")
        next(watch)
        closing = threading.Thread(target=lambda: daemon.client().delete_limit("many"))
        closing.start()
        told = 0
        while told < 9_000:
            event = next(watch)
            told += event.missed or event.kind == "refused"
        closing.join()
        watch.close()
        busy.close()


def test_frames_are_not_longer_than_they_may_be() -> None:
    """Of the longest events."""
    name, text = "🐘" * 200, "🐘" * 200
    event = wire.Event("reconnected", 0.0, name, 2**53, 2**53, 2**22, text[:32], text, 2**60)
    assert wire.encoded_bytes(event) < wire.FRAME_BYTES_MAX - 64
