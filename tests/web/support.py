"""A web process of a test's own, and a browser as small as can be: requests by the standard library."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """Of a problem."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["detail"]
        return str(problem["code"])


def in_path(name: str) -> str:
    """A limit's name as it stands in a URL."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%252e")


def become(user: int) -> list[str]:
    """The command that runs another as this user, who may read what root may, since Python may lie
    there."""
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return [*words, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


class RunningWeb:
    """`atmost web` beside a daemon, there or not. It may be used until its block ends."""

    def __init__(
        self,
        daemon: RunningDaemon,
        *options: str,
        port: int = 0,
        user: int | None = None,
        by: Path | None = None,
    ) -> None:
        """By another socket than the daemon's, if one is named."""
        self.log = daemon.folder / "web.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(() if user is None else become(user)),
                    *(sys.executable, "-m", "atmost", "--socket", str(by or daemon.socket)),
                    *("web", "--port", str(port), *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.log.read_text()
        parts = urlsplit(self.url)
        assert parts.port is not None
        self.port = parts.port
        self.host = f"127.0.0.1:{self.port}"
        (self.token,) = parse_qs(parts.query)["token"]

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> RunningWeb:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    # Asking

    def raw(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> Answer:
        """Ask with just these headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": self.host, **headers}.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Ask as a program does."""
        sent = {"Authorization": f"Bearer {self.token}"}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        return self.raw(method, path, sent, data)

    def get(self, path: str) -> Any:
        """What is there, as JSON."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def limit(self, name: str) -> Any:
        """The details of this limit."""
        return self.get(f"/api/limits/{in_path(name)}")

    def wait_for_daemon(self, state: str = "there") -> None:
        """Wait until it knows that."""
        wait_until(lambda: self.get("/api/session")["daemon"]["state"] == state, f"it is {state}")

    def stream(self, query: str = "") -> Stream:
        """Events, as a browser gets them."""
        return Stream(self, query)


class Stream:
    """An open stream. Events are taken by a thread, as by a browser, unless it is not begun."""

    def __init__(self, web: RunningWeb, query: str = "", buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", web.port))
        self.socket.sendall(
            f"GET /api/stream{query} HTTP/1.1\r\nHost: {web.host}\r\n"
            f"Authorization: Bearer {web.token}\r\n\r\n".encode()
        )
        self.answer = http.client.HTTPResponse(self.socket)
        self.events: list[tuple[str, Any]] = []
        self._reader: threading.Thread | None = None

    def begin(self) -> Stream:
        """Read the head, and then events as they come."""
        self.answer.begin()
        assert self.answer.status == 200, self.answer.read()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __enter__(self) -> Stream:
        return self if self._reader else self.begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        if self._reader is not None:
            self._reader.join(PATIENCE_SECONDS)
        self.answer.close()
        self.socket.close()

    def of(self, kind: str) -> list[Any]:
        """The data of all events of this kind."""
        return [data for found, data in list(self.events) if found == kind]

    def wait_for(self, kind: str, count: int = 1) -> Any:
        """Wait until so many of them have come; gives the last one."""
        return wait_until(lambda: len(self.of(kind)) >= count and self.of(kind)[-1], kind)

    def _read(self) -> None:
        try:
            for kind, data in self._parts():
                self.events.append((kind, data))
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            return  # it ended

    def _parts(self) -> Iterator[tuple[str, Any]]:
        kind = ""
        for line in iter(self.answer.readline, b""):
            key, _, value = line.decode().rstrip("\n").partition(": ")
            if key == "event":
                kind = value
            elif key == "data":
                yield kind, json.loads(value)
