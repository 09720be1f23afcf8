"""Who may ask, and how. Everything that comes goes through this first.

Rule 1: a Host that is not ours is refused: a name that somebody points at us (DNS rebinding) is foreign.
Rule 2: without the token there is nothing but the words of pages.py. It comes in the URL once, to be
moved to a cookie, or as a bearer.
Rule 3: what changes something has to come from our own page (Origin, Sec-Fetch-Site), or from a program
that has the token itself. What a foreign page asks for is refused, also if it only reads.
Rule 4: every answer forbids what our page does not need, and data is never cached.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Collection
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atmost.web import bounds, pages
from atmost.web.problems import Problem, response_of, too_many_requests
from atmost.web.throttle import Throttle
from atmost.web.tokens import is_same

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site; none: typed, or from outside of a browser
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Gate:
    """What stands in front of everything."""

    def __init__(
        self, app: ASGIApp, token: str, port: int, host: str, more_hosts: Collection[str] = ()
    ) -> None:
        self._app = app
        self._token = token
        self._hosts = Hosts(host, port, more_hosts)
        self.cookie = f"atmost_{port}"  # cookies know no ports
        self._requests = Throttle(bounds.REQUESTS_PER_SECOND, bounds.REQUESTS_BURST)
        self._changes = Throttle(bounds.CHANGES_PER_SECOND, bounds.CHANGES_BURST)
        self._strangers = Throttle(bounds.STRANGERS_PER_SECOND, bounds.STRANGERS_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        send = _guarded(send)
        answer = self._answer(HTTPConnection(scope), scope["method"])
        if answer is None:
            await self._app(scope, receive, send)
        else:
            await discard_body(receive)
            await answer(scope, receive, send)

    def _answer(self, asked: HTTPConnection, method: str) -> Response | None:
        """None: it may go on."""
        try:
            self._check_host(asked.headers)
            by_bearer, by_cookie = self._bearer(asked.headers), self._cookie(asked)
            if not by_bearer and not by_cookie:
                return self._stranger(asked, method)
            self._check_rate(method)
            self._check_origin(asked, method, by_bearer)
            self._check_length(asked.headers)
        except Problem as problem:
            return response_of(problem)
        if method == "GET" and not _is_data(asked.url.path) and "token" in asked.query_params:
            return self._welcome(asked)
        return None

    # Where it was sent to

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._hosts.is_ours(hosts[0]):
            given = ", ".join(hosts)[:80]
            raise Problem(
                421,
                "foreign_host",
                f"this web process is not {given!r}: open the address that `atmost web` printed; behind a "
                "proxy, start it with --allow-host NAME",
                host=given,
            )

    # Who sent it

    def _bearer(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and is_same(self._token, given.strip())

    def _cookie(self, asked: HTTPConnection) -> bool:
        return is_same(self._token, asked.cookies.get(self.cookie, ""))

    def _stranger(self, asked: HTTPConnection, method: str) -> Response:
        wait = self._strangers.wait(time.monotonic())
        if wait:
            return response_of(too_many_requests("requests without the token", wait))
        given = asked.query_params.get("token")
        path = asked.url.path
        if _is_data(path) or method not in ("GET", "HEAD"):
            return response_of(
                Problem(
                    401,
                    "unauthorized",
                    "the token is missing or wrong: open the address that `atmost web` printed, or say "
                    "Authorization: Bearer TOKEN",
                    {"WWW-Authenticate": 'Bearer realm="atmost"'},
                )
            )
        if given is None:
            # A link from another site: a strict cookie comes only with what our own page asks for.
            again = asked.headers.get("sec-fetch-site") in ("cross-site", "same-site")
            return pages.who_are_you(again and _is_navigation(asked.headers))
        if not is_same(self._token, given):
            return pages.wrong_token()
        return self._welcome(asked)

    def _welcome(self, asked: HTTPConnection) -> Response:
        """The token goes from the URL, where a history or a screen shows it, to a cookie."""
        rest = [(k, v) for k, v in parse_qsl(asked.url.query, True) if k != "token"]
        path = "/" + quote(asked.scope["path"].lstrip("/"), safe="/~")
        answer = RedirectResponse(path + (f"?{urlencode(rest)}" if rest else ""), 303)
        answer.headers["Cache-Control"] = "no-store"
        answer.set_cookie(self.cookie, self._token, path="/", httponly=True, samesite="strict")
        return answer

    # What sent it

    def _check_rate(self, method: str) -> None:
        now = time.monotonic()
        if wait := self._requests.wait(now):
            raise too_many_requests("requests", wait)
        if method not in SAFE_METHODS and (wait := self._changes.wait(now)):
            raise too_many_requests("changes", wait)

    def _check_origin(self, asked: HTTPConnection, method: str, by_bearer: bool) -> None:
        origin, site = asked.headers.get("origin"), asked.headers.get("sec-fetch-site")
        changes = method not in SAFE_METHODS
        own_origin = origin is None or self._is_own(origin, asked)
        own_site = site is None or site in OWN_SITES
        if changes and not by_bearer and origin is None and site is None:
            own_origin = False  # a cookie alone does not show where it comes from
        # A link of another site may lead to the page, but not to data, and never changes anything.
        is_link = not changes and not _is_data(asked.url.path) and _is_navigation(asked.headers)
        if not own_origin or not (own_site or is_link):
            raise Problem(
                403,
                "foreign_origin",
                f"a request from {str(origin or site or 'an unknown place')[:80]!r} is refused: only this "
                "page itself may ask; a program says Authorization: Bearer TOKEN, and no Origin",
                origin=(origin or "")[:80],
            )

    def _is_own(self, origin: str, asked: HTTPConnection) -> bool:
        return origin in {f"{scheme}://{asked.headers['host']}" for scheme in ("http", "https")}

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length[:20]) > bounds.BODY_BYTES_MAX:
            raise too_large()


class Hosts:
    """The names under which this process is asked for."""

    def __init__(self, host: str, port: int, more: Collection[str]) -> None:
        self._port = port
        self._more = {name.lower() for name in more}
        self._names = {"localhost", "127.0.0.1", "::1", host.strip("[]").lower()}
        self._any_address = host in ("0.0.0.0", "::", "")  # an address can't be pointed elsewhere

    def is_ours(self, header: str) -> bool:
        """Whether a Host header may say this."""
        name, port = split_host(header.lower())
        if name in self._more or f"{name}:{port}" in self._more:
            return True  # behind a proxy, whose port is its own
        return port == str(self._port) and (
            name in self._names or (self._any_address and is_address(name))
        )


def split_host(header: str) -> tuple[str, str]:
    """`name:port`, `[::1]:port`; 80 is not said."""
    if header.startswith("["):
        name, _, rest = header[1:].partition("]")
        return name, rest.removeprefix(":") or "80"
    name, _, port = header.partition(":")
    return name, port or "80"


def is_address(name: str) -> bool:
    """Whether this is an address, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine gets there."""
    if host.lower() == "localhost":
        return True
    return is_address(host.strip("[]")) and ipaddress.ip_address(host.strip("[]")).is_loopback


def too_large() -> Problem:
    """A body beyond the bound."""
    return Problem(
        413,
        "too_large",
        f"a body has at most {bounds.BODY_BYTES_MAX} bytes here; a limit takes a few hundred",
        at_most=bounds.BODY_BYTES_MAX,
    )


async def discard_body(receive: Receive) -> None:
    """Read what is still being sent, up to a bound: else its sender may never read our answer."""
    left = bounds.BODY_DISCARDED_BYTES_MAX
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(bounds.BODY_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))


def _is_data(path: str) -> bool:
    return path.startswith(("/api/", "/static/")) or path in ("/api", "/metrics")


def _is_navigation(headers: Headers) -> bool:
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") in (
        "document",
        None,
    )


def _guarded(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return guarded
