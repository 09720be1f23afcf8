"""A client of atmostd made from PROTOCOL.md and a msgpack library alone: it imports nothing of ours.

    python tests/protocol_client.py SOCKET

creates a limit, acquires, waits, releases and lists: the proof that the page is enough.
"""

import itertools
import os
import socket
import sys
from typing import Any

import msgpack


class Failed(Exception):
    """The daemon refused a request: its code and fields say why."""

    def __init__(self, request: int, code: str, message: str, fields: dict[str, Any]) -> None:
        super().__init__(message)
        self.request = request
        self.code = code
        self.fields = fields


def frame(*message: Any) -> bytes:
    """The message as the daemon reads it."""
    body: bytes = msgpack.packb(message)
    return len(body).to_bytes(4, "big") + body


class Client:
    """One connection to the daemon."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.welcome: list[Any] = []  # once it has come; nothing has to wait for it
        self._unread = b""
        self._numbers = itertools.count(1)
        self._answers: dict[int, list[Any]] = {}  # that came before somebody asked for them
        self.greet()

    def greet(self) -> None:
        """Say who this is."""
        self.send("hello", 1, os.urandom(16), os.getpid(), sys.argv, "ada", "proof/1")

    def send(self, *message: Any) -> None:
        """Send one message."""
        self.socket.sendall(frame(*message))

    def receive(self) -> list[Any]:
        """The next answer. Raises EOFError when the daemon has closed the connection."""
        length = int.from_bytes(self._read(4), "big")
        message: list[Any] = msgpack.unpackb(self._read(length))
        if message[0] == "welcome":
            self.welcome = message
            return self.receive()
        if message[:2] == ["failed", 0]:
            raise Failed(*message[1:5])
        return message

    def request(self, kind: str, *fields: Any) -> int:
        """Send a request. Returns its number, for `answer`."""
        number = next(self._numbers)
        self.send(kind, number, *fields)
        return number

    def answer(self, number: int) -> list[Any]:
        """Wait for the answer to a request. Raises Failed."""
        while number not in self._answers:
            message = self.receive()
            self._answers[message[1]] = message
        answer = self._answers.pop(number)
        if answer[0] == "failed":
            raise Failed(*answer[1:5])
        return answer

    def ask(self, kind: str, *fields: Any) -> list[Any]:
        """Send a request and wait for its answer."""
        return self.answer(self.request(kind, *fields))

    def close(self) -> None:
        """What is held is released by this."""
        self.socket.close()

    def _read(self, count: int) -> bytes:
        while len(self._unread) < count:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the daemon closed the connection")
            self._unread += data
        found, self._unread = self._unread[:count], self._unread[count:]
        return found


def main(path: str) -> None:
    """One walk through a limit's life, with two connections."""
    first, second = Client(path), Client(path)
    _, _, (name, limit, _, active, *_) = first.ask("create_limit", "proof", 1)
    print("created", name, limit, active)
    _, held, token, *_ = first.ask("acquire", {"proof": 1})
    waits = second.request("acquire", {"proof": 1})
    second.ask("status")  # an answer to this tells that the daemon has the request before it, too
    for ticket in first.ask("list_tickets", "proof")[2]:
        print("listed", ticket[0], ticket[1], ticket[2], "place", ticket[7])
    first.send("release", held)
    _, _, later_token, waited_ns, unguarded = second.answer(waits)
    print("granted after waiting", waited_ns > 0, unguarded, "token rose", later_token > token)
    print("listed", [(at[0], at[5]) for at in first.ask("list_limits")[2]])
    second.close()
    first.send("release", first.ask("acquire", {"proof": 1})[1])  # waits until the close is seen
    print("held after the close", first.ask("read_limit", "proof")[2][5])
    try:
        first.ask("acquire", {"proof": 2})
    except Failed as failed:
        print("refused", failed.code, sorted(failed.fields.items()))
    print("deleted", first.ask("delete_limit", "proof")[0])


if __name__ == "__main__":
    main(sys.argv[1])
