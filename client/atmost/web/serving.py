"""The process: its socket, its token, its server, its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import html
import logging
import os
import resource
import socket
import sys
import tempfile
import webbrowser
from collections.abc import AsyncIterator, Callable
from types import FrameType

import uvicorn
from msgspec import Struct
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from atmost.web import bounds
from atmost.web.app import new_app, new_feed
from atmost.web.feed import Feed
from atmost.web.security import Gate, is_loopback
from atmost.web.tokens import BadTokenFile, new_token, token_of

BACKLOG = 512
SHUTDOWN_SECONDS = 2
Say = Callable[[str], None]

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Retry-After: 5\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
)
_BUSY_BODY = (
    b'{"type":"about:blank","title":"Service Unavailable","status":503,"code":"too_many_connections",'
    b'"detail":"too many connections to this web process: close some pages, and try again","fields":{}}'
)


class CannotServe(Exception):
    """Why the page can't be served, and what to do."""


class Choices(Struct, frozen=True):
    """What the command line says."""

    socket: str | None  # of the daemon
    host: str
    port: int
    token_file: str | None
    open: bool
    more_hosts: tuple[str, ...] = ()


def serve(choices: Choices, talk: Say, tell: Say) -> int:
    """Serve until a signal ends it. `talk` is told what is worth to know, `tell` the address.

    Raises CannotServe.
    """
    try:
        token = new_token() if choices.token_file is None else token_of(choices.token_file)
    except BadTokenFile as error:
        raise CannotServe(str(error)) from error
    listener = listen(choices.host, choices.port)
    with listener:
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="atmost: %(message)s")
        _have_descriptors()
        port: int = listener.getsockname()[1]
        url = f"http://{_shown(choices.host)}:{port}/"
        secret = f"{url}?token={token}"
        if not is_loopback(choices.host):
            talk(
                f"other machines get to {url}: whoever can read what travels there can read the token; "
                "put a proxy with TLS in front"
            )

        asyncio.run(_serve(choices, token, listener, secret, talk, tell))
    return 0


async def _serve(
    choices: Choices, token: str, listener: socket.socket, secret: str, talk: Say, tell: Say
) -> None:
    client, feed = new_feed(choices.socket)

    async def started(at_the_end: contextlib.ExitStack) -> None:
        tell(secret)
        if choices.open:
            folder = tempfile.TemporaryDirectory(prefix="atmost-")
            page = os.path.join(at_the_end.enter_context(folder), "open.html")
            await asyncio.to_thread(open_browser, secret, page)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with contextlib.ExitStack() as at_the_end:  # uvicorn ends the process by the signal itself
            tasks = [
                asyncio.create_task(each)
                for each in (feed.run(), started(at_the_end), _say_if_gone(feed, talk))
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                client.close()

    port: int = listener.getsockname()[1]
    app = new_app(client, feed, choices.socket, lifespan)
    config = uvicorn.Config(
        Gate(app, token, port, choices.host, choices.more_hosts),
        http=Protocol,
        ws="none",
        loop="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):  # it was asked to end, and has
        await Server(config, feed).serve(sockets=[listener])


async def _say_if_gone(feed: Feed, talk: Say) -> None:
    """Once: the page says it, too, whenever it is so."""
    await asyncio.sleep(1)
    if feed.daemon.state != "there":
        talk(f"{feed.daemon.why} (the page waits for it)")


class Server(uvicorn.Server):
    """uvicorn's, which ends the streams before it waits for the connections."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self._feed.streams.end()
        super().handle_exit(sig, frame)


class Protocol(H11Protocol):
    """uvicorn's, with a bound on connections, and on the time until the head of a request has come."""

    _refused = False
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connected."""
        if len(self.connections) >= bounds.CONNECTIONS_MAX:
            transport.write(_BUSY % (len(_BUSY_BODY), _BUSY_BODY))
            transport.close()
            self._refused = True
            return
        super().connection_made(transport)
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        if self._due is None:
            self._due = self.loop.call_later(bounds.HEAD_SECONDS, self._look)

    def _look(self) -> None:
        self._due = None
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()

    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended."""
        if self._due is not None:
            self._due.cancel()
        if not self._refused:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._refused:
            return
        super().data_received(data)
        if self._is_idle():  # a part of a head
            self._wait_for_head()

    def eof_received(self) -> None:
        """The other end says no more."""
        if not self._refused:
            super().eof_received()


def listen(host: str, port: int) -> socket.socket:
    """Raises CannotServe."""
    name = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise CannotServe(f"{host!r} is no address of this machine: {error}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, bounds.SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotServe(_why_not(host, port, error)) from error
    return listener


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken, maybe by another `atmost web`: find out with: ss -ltnp "
            f"'sport = :{port}'; or take another one with: --port N (0: any)"
        )
    if error.errno == errno.EACCES:
        return f"you may not listen on port {port}: take one from 1024 with: --port N"
    return f"cannot listen on {host}, port {port}: {error.strerror or error}"


def open_browser(secret: str, path: str) -> None:
    """Have a browser open the address, by a file that only this user can read: a command line can be read
    by everybody."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(file, "w") as page:
        page.write(
            '<!doctype html><meta charset="utf-8"><title>atmost</title>'
            f'<meta http-equiv="refresh" content="0;url={html.escape(secret)}">\n'
        )
    webbrowser.open(f"file://{path}")


def _have_descriptors() -> None:
    """A connection is a descriptor, and 1,024 is what a shell gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = bounds.CONNECTIONS_MAX + 200
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _shown(host: str) -> str:
    if ":" in host and not host.startswith("["):
        return f"[{host}]"
    return "127.0.0.1" if host in ("", "0.0.0.0") else host
