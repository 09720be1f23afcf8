"""The API of limits: list, create, read, change, delete; what is behind one limit; its previews."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from atmost.asyncio import Client, Limit
from atmost.errors import LimitExists, LimitNotFound
from atmost.web import preview
from atmost.web.asking import (
    SETTINGS,
    check_version,
    name_in,
    new_limit,
    object_in,
    settings,
    token_in,
    told,
)
from atmost.web.details import kept_of
from atmost.web.feed import Feed
from atmost.web.history import SPANS
from atmost.web.listing import one_of, page_of, query_of
from atmost.web.problems import changed_meanwhile
from atmost.web.records import Events, Holders, Line, PastOf
from atmost.web.rows import Row, row_of


class Limits:
    """What is asked of limits."""

    def __init__(self, client: Client, feed: Feed) -> None:
        self._client = client
        self._feed = feed
        self._known = feed.known
        self._changing: dict[str, tuple[asyncio.Lock, int]] = {}  # and how many have or want it

    def routes(self) -> Sequence[BaseRoute]:
        """All of them."""
        one = "/api/limits/{name}"
        return [
            Route("/api/limits", self.list, methods=["GET"]),
            Route("/api/limits", self.create, methods=["POST"]),
            Route("/api/preview", self.preview_new, methods=["POST"]),
            Route("/api/grants/{token}", self.release, methods=["DELETE"]),
            Route(one, self.read, methods=["GET"]),
            Route(one, self.change, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(one + "/holders", self.holders, methods=["GET"]),
            Route(one + "/line", self.line, methods=["GET"]),
            Route(one + "/events", self.events, methods=["GET"]),
            Route(one + "/history", self.history, methods=["GET"]),
            Route(one + "/preview", self.preview, methods=["POST"]),
            Route(one + "/reset", self.reset, methods=["POST"]),
        ]

    # Reading

    async def list(self, request: Request) -> Response:
        """A page of them, of what is known."""
        query = query_of(request.query_params.multi_items())
        self._feed.asked_at = time.monotonic()
        stale = self._feed.daemon.state != "there"
        return told(page_of(self._known, query, time.time(), self._feed.sequence, stale))

    async def read(self, request: Request) -> Response:
        """One of them."""
        detail = await self._feed.detail(name_in(request))
        return told(detail, row=detail.limit)

    async def holders(self, request: Request) -> Response:
        """Who holds."""
        detail = await self._feed.detail(name_in(request))
        return told(Holders(detail.holders, detail.holders_more, detail.at))

    async def line(self, request: Request) -> Response:
        """Who waits."""
        detail = await self._feed.detail(name_in(request))
        return told(Line(detail.line, detail.line_more, detail.at))

    async def events(self, request: Request) -> Response:
        """What happened lately."""
        name = await self._there(request)
        return told(Events(self._known.events_of(name)))

    async def history(self, request: Request) -> Response:
        """What is drawn."""
        name = await self._there(request)
        span = one_of("span", request.query_params.get("span", "10m"), tuple(SPANS))
        series = self._known.history.series(name, span, time.time())
        kept = kept_of(self._known, name)
        since = self._feed.watching_since
        return told(PastOf(span, SPANS[span], since, kept.kept, kept.why_not).with_series(series))

    # Changing

    async def create(self, request: Request) -> Response:
        """Make one."""
        new = new_limit(await object_in(request, ("name", *SETTINGS)))
        limit = await self._client.create_limit(
            new.name, new.limit, new.slot_decay_per_second, new.active
        )
        row = self._took(limit)
        answer = told(row, 201, row)
        answer.headers["Location"] = f"/api/limits/{_in_path(new.name)}"
        return answer

    async def change(self, request: Request) -> Response:
        """Change what is given."""
        name = name_in(request)
        wanted = settings(await object_in(request, SETTINGS))
        async with self._alone(request, name):
            limit = await self._client.update_limit(
                name,
                limit=wanted.limit,
                slot_decay_per_second=wanted.slot_decay_per_second,
                active=wanted.active,
            )
        row = self._took(limit)
        return told(row, row=row)

    async def delete(self, request: Request) -> Response:
        """Delete it."""
        name = name_in(request)
        async with self._alone(request, name):
            await self._client.delete_limit(name)
        self._feed.changed(name, None)
        return Response(status_code=204)

    async def reset(self, request: Request) -> Response:
        """Have nothing spent."""
        name = name_in(request)
        await object_in(request, (), empty=True)
        row = self._took(await self._client.reset_spent(name))
        return told(row, row=row)

    async def release(self, request: Request) -> Response:
        """Take a grant back."""
        await self._client.release_grant(token_in(request))
        self._feed.forget_details()
        return Response(status_code=204)

    # Previews

    async def preview(self, request: Request) -> Response:
        """What a change of this limit would do."""
        name = name_in(request)
        given = await object_in(request, (*SETTINGS, "delete"))
        wanted = settings({key: value for key, value in given.items() if key != "delete"})
        detail = await self._feed.detail(name)
        if given.get("delete") is True:
            return told(preview.of_delete(detail.holders, detail.limit.waiting))
        limit = self._known.limits.get(name)
        if limit is None:
            raise LimitNotFound([name])
        return told(preview.of_edit(limit, wanted, detail.holders, detail.line, detail.line_more))

    async def preview_new(self, request: Request) -> Response:
        """What a new limit would mean."""
        new = new_limit(await object_in(request, ("name", *SETTINGS)))
        if new.name in self._known.limits:
            raise LimitExists(new.name)
        return told(preview.of_create(new.limit, new.slot_decay_per_second, new.active))

    # Parts

    async def _there(self, request: Request) -> str:
        """The name of a limit that there is. Raises LimitNotFound."""
        name = name_in(request)
        if name not in self._known.limits:
            if self._feed.daemon.state != "there":
                await self._client.status()  # raises why
            await self._client.read_limit(name)
        return name

    def _took(self, limit: Limit) -> Row:
        """What we have changed is so from now on, also here."""
        now = time.time()
        self._feed.changed(limit.name, limit)
        return row_of(limit, now, now, self._known.lines.oldest(limit.name))

    @asynccontextmanager
    async def _alone(self, request: Request, name: str) -> AsyncIterator[None]:
        """A change of a limit that is as its reader has seen it; here one after the other. (Another
        client of the daemon can come between: a thousandth of a second.)"""
        lock, users = self._changing.get(name, (asyncio.Lock(), 0))
        self._changing[name] = (lock, users + 1)
        try:
            async with lock:
                if "if-match" in request.headers:
                    await self._check_version(request, name)
                yield
        finally:
            lock, users = self._changing.pop(name)
            if users > 1:
                self._changing[name] = (lock, users - 1)

    async def _check_version(self, request: Request, name: str) -> None:
        try:
            limit = await self._client.read_limit(name)
        except LimitNotFound:
            raise changed_meanwhile(name, None) from None
        now = time.time()
        row = row_of(limit, now, now, self._known.lines.oldest(name))
        if not check_version(request, row):
            raise changed_meanwhile(name, row)


def _in_path(name: str) -> str:
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%252e")
