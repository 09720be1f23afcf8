"""The API of all limits together: overview, doctor, events, the stream, metrics, and the page's first
question."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from atmost import paths, prometheus
from atmost.asyncio import Client
from atmost.cli import doctor
from atmost.errors import DaemonUnavailable
from atmost.values import COUNT_MAX, NAME_CHARS_MAX, check_name
from atmost.web import bounds
from atmost.web.asking import told
from atmost.web.feed import Feed
from atmost.web.listing import used
from atmost.web.openapi import document
from atmost.web.records import (
    Bounds,
    Busy,
    Events,
    Finding,
    HistoryKept,
    Overview,
    Session,
)
from atmost.web.streams import Stream

_BOUNDS = Bounds(NAME_CHARS_MAX, COUNT_MAX, bounds.HISTORY_LIMITS_MAX, bounds.STREAMS_MAX)


class Whole:
    """What is asked of all."""

    def __init__(self, client: Client, feed: Feed, socket: str | None) -> None:
        self._client = client
        self._feed = feed
        self._known = feed.known
        self._socket = socket
        self._findings: list[Finding] = []
        self._findings_at: float | None = None
        self._looking: asyncio.Task[None] | None = None
        self._metrics = ("", float("-inf"))  # the page, and when it was made
        self._counting = asyncio.Lock()

    def routes(self) -> Sequence[BaseRoute]:
        """All of them."""
        return [
            Route("/api/session", self.session, methods=["GET"]),
            Route("/api/overview", self.overview, methods=["GET"]),
            Route("/api/events", self.events, methods=["GET"]),
            Route("/api/stream", self.stream, methods=["GET"]),
            Route("/api/openapi.json", self.openapi, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def session(self, _: Request) -> Response:
        """What a page asks first."""
        feed = self._feed
        return told(
            Session(
                paths.version(),
                feed.daemon,
                feed.rights,
                feed.watching_since,
                time.time(),
                _BOUNDS,
            )
        )

    async def overview(self, _: Request) -> Response:
        """All at a glance. The doctor's findings are those of his last look; the next one begins now."""
        self._look()
        feed, known, now = self._feed, self._known, time.time()
        feed.asked_at = time.monotonic()
        return told(
            Overview(
                daemon=feed.daemon,
                rights=feed.rights,
                watching_since=feed.watching_since,
                now=now,
                totals=known.totals(now),
                busiest=self._busiest(now),
                longest_waiters=known.lines.longest(bounds.TOP_MAX),
                troubles=list(known.troubles)[: -bounds.TROUBLES_TOLD_MAX - 1 : -1],
                history=HistoryKept(len(known.history), len(known.history.left_out)),
                findings=self._findings,
                findings_at=self._findings_at,
            )
        )

    async def events(self, _: Request) -> Response:
        """What happened lately, anywhere."""
        return told(Events(list(self._known.events)[::-1]))

    async def openapi(self, _: Request) -> Response:
        """What can be asked here."""
        return Response(document(), media_type="application/json")

    async def metrics(self, _: Request) -> Response:
        """What the daemon has counted, for Prometheus. One look a second is enough for all."""
        async with self._counting:
            page, made = self._metrics
            if time.monotonic() - made > bounds.METRICS_SECONDS:
                try:
                    page = prometheus.render(await self._client.list_statistics())
                except DaemonUnavailable:
                    page = prometheus.unreachable()
                self._metrics = (page, time.monotonic())
        return Response(page, headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def stream(self, request: Request) -> Response:
        """What happens, as it happens."""
        name = request.query_params.get("limit")
        if name is not None:
            name = check_name(unquote(name))  # as in a path
        return EventStream(self._feed, self._feed.streams.open(name))

    def _busiest(self, now: float) -> list[Busy]:
        known = self._known
        rates = {name: known.history.rate(name, now) for name in list(known.history.names())}

        def key(name: str) -> tuple[float, float]:
            return used(known.limits[name]), rates.get(name, 0.0)

        names = [
            limit.name
            for limit in known.limits.values()
            if rates.get(limit.name) or limit.held or limit.spent or limit.waiting
        ]
        names = sorted(names, key=key, reverse=True)[: bounds.TOP_MAX]
        return [
            Busy(row, round(rates.get(row.name, 0.0), 4), round(used(known.limits[row.name]), 4))
            for row in known.rows(names, now)
        ]

    def _look(self) -> None:
        """Have the doctor look, in a thread: he asks as a command does."""
        at = self._findings_at
        if self._looking is None and (at is None or time.time() - at > bounds.FINDINGS_SECONDS):
            self._looking = asyncio.create_task(self._look_now())

    async def _look_now(self) -> None:
        try:
            found = await asyncio.to_thread(doctor.findings, self._socket)
            self._findings = [Finding(*finding) for finding in found]
            self._findings_at = time.time()
        finally:
            self._looking = None


class EventStream(Response):
    """The answer that goes on until one of both ends goes."""

    def __init__(self, feed: Feed, stream: Stream) -> None:
        super().__init__(media_type="text/event-stream")
        self._feed = feed
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait([writing, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._feed.streams.close(self._stream)
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with contextlib.suppress(OSError):
            while (batch := await self._stream.next(self._feed.snapshot)) is not None:
                await send({"type": "http.response.body", "body": batch, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
