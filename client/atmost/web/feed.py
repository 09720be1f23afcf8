"""The one connection to the daemon, and what it feeds: what is known, and the streams to browsers.

Rule 1: events say what is dirty; at each tick what is dirty is read, once for all browsers.
Rule 2: reading takes at most a share of the time (READS_SHARE), however much there is to read.
Rule 3: a daemon that is gone is looked for until it is there. This process starts none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable

from msgspec.structs import replace

from atmost import wire
from atmost.asyncio import Client, Limit, Watch
from atmost.errors import AtmostError, LimitNotFound
from atmost.watching import Event
from atmost.web import bounds
from atmost.web.details import Detail, detail_of
from atmost.web.known import TROUBLES, Known
from atmost.web.streams import Streams, frame
from atmost.web.told import (
    NOT_YET,
    Changes,
    Daemon,
    DaemonChanged,
    Gone,
    Happened,
    Rights,
    Snapshot,
)


class Feed:
    """All that this process knows, and has others know."""

    def __init__(self, client: Client, known: Known, streams: Streams) -> None:
        self.known = known
        self.streams = streams
        self.watching_since = time.time()
        self.sequence = 0
        self.asked_at = float("-inf")  # by time.monotonic(), for what is known
        self.daemon = Daemon("gone", self.watching_since, "the daemon was not asked yet")
        self.rights = NOT_YET
        self._client = client
        self._news = asyncio.Event()  # something is dirty
        self._fresh: list[Event] = []  # that the streams were not told yet
        self._details: dict[str, Detail] = {}  # the ones asked last, the newest last
        self._asking: dict[str, asyncio.Task[Detail]] = {}
        self._status_at = 0.0
        self._lines_due = 0.0
        self._changes = 0  # by us
        self._deleted: set[str] = set()  # by us, and not told yet
        self._ours: set[str] = set()  # what we changed while it was being read

    # The loop

    async def run(self) -> None:
        """Follow the daemon, for ever."""
        while True:
            try:
                await self._follow()
            except AtmostError as error:
                self._gone(error)
            await asyncio.sleep(bounds.RETRY_SECONDS)

    async def _follow(self) -> None:
        async with self._client.watch() as watch:
            may = await self._client.may_change()
            self.rights = Rights(may, "" if may else await self._why_not())
            await self._ask_status()
            taking = asyncio.create_task(self._take(watch))
            try:
                while True:
                    began = time.monotonic()
                    await self._tick()
                    await self._pause(time.monotonic() - began, taking)
            finally:
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)

    async def _take(self, watch: Watch) -> None:
        async for event in watch:
            self.known.happened(event, time.time())
            self._fresh.append(event)
            if event.kind == "daemon_started":
                self._status_at = 0.0  # it may be another one
            if len(self._fresh) > 2 * bounds.EVENTS_KEPT_MAX:
                del self._fresh[: bounds.EVENTS_KEPT_MAX]
            self._news.set()

    async def _pause(self, took: float, taking: asyncio.Task[None]) -> None:
        """Until the next tick is due and there is something to do."""
        least = bounds.TICK_SECONDS if self._is_seen() else bounds.TICK_SECONDS_UNSEEN
        await asyncio.wait([taking], timeout=max(least, bounds.READS_SHARE * took))
        if not taking.done():
            news = asyncio.ensure_future(self._news.wait())
            await asyncio.wait(
                [taking, news],
                timeout=max(0.0, bounds.TICK_SECONDS_UNSEEN - least),
                return_when=asyncio.FIRST_COMPLETED,
            )
            news.cancel()
        if taking.done():
            taking.result()

    def _is_seen(self) -> bool:
        """Whether somebody looks."""
        return bool(self.streams) or time.monotonic() - self.asked_at < bounds.SEEN_SECONDS

    async def _tick(self) -> None:
        self._news.clear()
        known = self.known
        dirty, known.dirty = known.dirty, set()
        everything, known.all_dirty = known.all_dirty, False
        shown = self.streams.limits() & (known.limits.keys() if everything else dirty)
        try:
            changed, deleted = await self._read(dirty, everything, shown)
            if known.lines.doubtful and time.monotonic() >= self._lines_due:
                await self._read_lines()
        except BaseException:
            known.all_dirty = True
            raise
        changed.update(known.decayed(time.time()))
        if self._is_seen() and time.monotonic() - self._status_at > bounds.STATUS_SECONDS:
            await self._ask_status()
        ours, self._deleted = self._deleted, set()
        deleted |= ours - known.limits.keys()
        self._tell(changed | (dirty | shown) & known.limits.keys(), deleted, shown)

    # Reading

    async def _read(
        self, dirty: set[str], everything: bool, shown: set[str]
    ) -> tuple[set[str], set[str]]:
        """Read what is dirty, and all of what is shown of it. The names of the changed and the deleted."""
        self._ours.clear()
        if everything or len(dirty) > bounds.READS_MAX:
            details = asyncio.gather(*map(self._read_detail, shown))
            limits, _ = await asyncio.gather(self._client.list_limits(), details)
            changed, gone = self.known.read_all(limits, time.time(), self._ours)
            return set(changed), set(gone)
        alone = dirty - shown
        limit_of = [*map(self._read_one, alone), *map(self._read_detail, shown)]
        found = await asyncio.gather(*limit_of)
        missing = {
            name for name, limit in zip([*alone, *shown], found, strict=True) if limit is None
        }
        missing -= self._ours
        deleted = missing & self.known.limits.keys()
        for name in missing:
            self.known.forget(name)
        there = [limit for limit in found if limit is not None and limit.name not in self._ours]
        return set(self.known.read(there, time.time())), deleted

    async def _read_one(self, name: str) -> Limit | None:
        try:
            return await self._client.read_limit(name)
        except LimitNotFound:
            return None

    async def _read_detail(self, name: str) -> Limit | None:
        try:
            await self._ask_detail(name)
        except LimitNotFound:
            return None
        return self.known.limits.get(name)

    async def _read_lines(self) -> None:
        """Who waits, after something was missed."""
        lines = self.known.lines
        at_most = 2 * bounds.WAITERS_KEPT_MAX
        tickets: list[wire.TicketRecord] = []
        self._lines_due = time.monotonic() + bounds.RESYNC_SECONDS
        lines.begin_reading()
        try:
            if any(limit.waiting for limit in self.known.limits.values()):
                tickets = await self._client.list_tickets(at_most=at_most)
        except BaseException:
            lines.doubt()
            raise
        lines.read_all(tickets, len(tickets) < at_most, time.time())

    async def _ask_status(self) -> None:
        status = await self._client.status()
        self._status_at = time.monotonic()
        was = self.daemon
        self.daemon = Daemon(
            "there",
            was.since if was.state == "there" else time.time(),
            "",
            status.version,
            status.pid,
            status.socket,
            round(status.uptime_seconds, 3),
            status.trouble,
            status.limits,
            status.sessions,
            status.held,
            status.waiting,
        )
        if was.state != "there":
            self.known.all_dirty = True
            self.streams.refresh()  # a snapshot tells that it is there
        elif (was.trouble, was.pid) != (status.trouble, status.pid):
            self._tell_daemon()

    async def _why_not(self) -> str:
        try:
            await self._client._ask(wire.Recover)
        except AtmostError as error:
            return str(error)
        return ""

    def _gone(self, error: AtmostError) -> None:
        why = str(error)
        if self.daemon.state == "there":
            self.known.lost(time.time())
            self.daemon = replace(self.daemon, state="gone", since=time.time(), why=why)
            self._tell_daemon()
        elif self.daemon.why != why:
            self.daemon = replace(self.daemon, why=why)
            self._tell_daemon()

    # Telling

    def _tell_daemon(self) -> None:
        self.sequence += 1
        told = DaemonChanged(
            **{f: getattr(self.daemon, f) for f in Daemon.__struct_fields__}, rights=self.rights
        )
        self.streams.put(frame("daemon", self.sequence, told))

    def _tell(self, names: Collection[str], deleted: Collection[str], shown: Iterable[str]) -> None:
        fresh, self._fresh = self._fresh, []
        if names or deleted:
            self.sequence += 1
        if not self.streams:
            return
        now = time.time()
        if names or deleted:
            told = self.known.rows(sorted(names)[: bounds.ROWS_IN_BATCH_MAX], now)
            gone = sorted(deleted)[: bounds.ROWS_IN_BATCH_MAX]
            more = len(names) > len(told) or len(deleted) > len(gone)
            totals = self.known.totals(now)
            changes = Changes(self.sequence, now, told, gone, more, totals)
            self.streams.put(frame("changes", self.sequence, changes))
        self._tell_events(fresh)
        for name in {*shown, *(self.streams.limits() & set(deleted))}:
            detail = self._details.get(name)
            if name not in self.known.limits:
                self.streams.put(frame("detail", self.sequence, Gone(name)), name)
            elif detail is not None:
                self.streams.put(frame("detail", self.sequence, detail), name)
            else:  # it was changed by us since
                self.known.dirty.add(name)
                self._news.set()

    def _tell_events(self, fresh: list[Event]) -> None:
        shown = self.streams.limits()
        troubles = [event for event in fresh if event.kind in TROUBLES]
        at = {name: [event for event in fresh if event.limit == name] for name in shown}
        for stream in self.streams:
            events = troubles if stream.limit is None else at.get(stream.limit, [])
            if events:
                told = Happened(events[-bounds.EVENTS_IN_BATCH_MAX :])
                stream.put(frame("events", self.sequence, told))

    async def snapshot(self, limit: str | None) -> bytes:
        """What a browser is told first."""
        now = time.time()
        known = self.known
        rows = known.rows(known.limits, now) if len(known.limits) <= _ALL_MAX else None
        told = Snapshot(
            self.sequence,
            self.daemon,
            self.rights,
            self.watching_since,
            now,
            known.totals(now),
            rows,
        )
        first = b"retry: 1000\n" + frame("snapshot", self.sequence, told)
        if limit is None:
            return first
        detail: Detail | Gone
        try:
            detail = await self.detail(limit)
        except LimitNotFound:
            detail = Gone(limit)
        except AtmostError:
            return first  # the snapshot says that the daemon is gone
        return first + frame("detail", self.sequence, detail)

    # Details

    async def detail(self, name: str) -> Detail:
        """One limit with all that is known of it; of a daemon that is gone, what was so last.

        Raises LimitNotFound, DaemonUnavailable.
        """
        last = self._details.get(name)
        if self.daemon.state != "there" and last is not None:
            return replace(last, stale=True)
        is_recent = last is not None and time.time() - last.at < bounds.TICK_SECONDS
        if last is not None and is_recent and name not in self.known.dirty:
            return last
        return await self._ask_detail(name)

    async def _ask_detail(self, name: str) -> Detail:
        """Several who ask at once ask once."""
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.create_task(self._ask_detail_now(name))
            asking.add_done_callback(lambda task: self._asked(name, task))
        return await asyncio.shield(asking)

    def _asked(self, name: str, task: asyncio.Task[Detail]) -> None:
        if self._asking.get(name) is task:
            del self._asking[name]
        if not task.cancelled():
            task.exception()  # who asked may have gone

    async def _ask_detail_now(self, name: str) -> Detail:
        while True:
            changes = self._changes
            limit, tickets, explained = await self._read_parts(name)
            if changes == self._changes:  # else some of it may be older than our change
                break
        self.known.read([limit], time.time())
        detail = detail_of(self.known, limit, tickets, explained, time.time())
        self._details.pop(name, None)
        self._details[name] = detail
        while len(self._details) > bounds.DETAILS_KEPT_MAX:
            del self._details[next(iter(self._details))]
        return detail

    async def _read_parts(
        self, name: str
    ) -> tuple[Limit, list[wire.TicketRecord], list[wire.Explanation]]:
        """Each time asked in one write: so all of it is of one moment."""
        client = self._client
        limit, tickets = await asyncio.gather(
            client.read_limit(name), client.list_tickets(name, at_most=_TICKETS_MAX)
        )
        if not any(ticket.state == "waiting" for ticket in tickets):
            return limit, tickets, []
        limit, tickets, why = await asyncio.gather(
            client.read_limit(name),
            client.list_tickets(name, at_most=_TICKETS_MAX),
            client.explain(name),
        )
        return limit, tickets, why.waiting

    def forget_details(self) -> None:
        """We have changed something: what was asked before is not what is so now."""
        self._changes += 1
        self._details.clear()
        self._asking.clear()  # who asks now asks anew

    def changed(self, name: str, limit: Limit | None) -> None:
        """We have changed it: so it is from now on; None: it is deleted. Browsers are told in the next
        tick, and what was read before and comes only now is not believed."""
        self._ours.add(name)
        self.forget_details()
        if limit is None:
            self.known.forget(name)
            self._deleted.add(name)
        else:
            self.known.read([limit], time.time())
            self._deleted.discard(name)
        self.known.dirty.add(name)
        self._news.set()


_TICKETS_MAX = 2 * bounds.TICKETS_TOLD_MAX
_ALL_MAX = bounds.ROWS_IN_SNAPSHOT_MAX
