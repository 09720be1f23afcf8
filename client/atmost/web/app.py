"""Puts it all together: what is known, what can be asked, and what stands in front."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from atmost.asyncio import Client
from atmost.errors import AtmostError
from atmost.web import bounds
from atmost.web.feed import Feed
from atmost.web.known import Known
from atmost.web.limits import Limits
from atmost.web.overview import Whole
from atmost.web.pages import Static
from atmost.web.problems import Problem, response_of
from atmost.web.streams import Streams

_log = logging.getLogger("atmost.web")


def new_feed(socket: str | None) -> tuple[Client, Feed]:
    """A client of the daemon there, and what it feeds. It never starts a daemon."""
    client = Client(
        socket,
        reconnect_seconds=bounds.RECONNECT_SECONDS,
        _command=["atmost", "web"],
        _start=False,
    )
    return client, Feed(client, Known(), Streams())


def new_app(
    client: Client,
    feed: Feed,
    socket: str | None,
    lifespan: Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]],
) -> Starlette:
    """What answers whoever the gate lets through."""
    static = Static()
    routes: list[BaseRoute] = [
        *Limits(client, feed).routes(),
        *Whole(client, feed, socket).routes(),
        Route("/static/{path:path}", static.file, methods=["GET"]),
        Route("/favicon.ico", static.icon, methods=["GET"]),
        *(Route(path, static.index, methods=["GET"]) for path in PAGES),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            Problem: _refused,
            AtmostError: _refused,
            HTTPException: _not_here(routes),
            ClientDisconnect: _left,
            Exception: _broken,
        },
    )
    app.router.redirect_slashes = False
    return app


PAGES = ("/", "/overview", "/limits", "/limits/{name}", "/new")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem | AtmostError)
    return response_of(error)


def _not_here(
    routes: list[BaseRoute],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def not_here(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path[:80]
        if error.status_code != 405:
            return response_of(Problem(404, "not_found", f"there is nothing at {path!r}"))
        allowed = sorted(
            {
                method
                for route in routes
                if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE
                for method in route.methods or ()
            }
        )
        words = f"{path!r} takes {', '.join(allowed)}, not {request.method[:20]}"
        return response_of(Problem(405, "method_not_allowed", words, {"Allow": ", ".join(allowed)}))

    return not_here


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _broken(request: Request, error: Exception) -> Response:
    _log.error("a bug in atmost web, at %s", request.url.path, exc_info=error)
    return response_of(
        Problem(
            500, "bug", "this is a bug in atmost web; its log says more. Nothing else is touched"
        )
    )
