"""Random and mutated frames at a live daemon, beside a neighbour that must not notice.

Every run sends the same ones; ATMOST_FRAMES says how many, ATMOST_SEED which:
`ATMOST_FRAMES=1000000 ATMOST_SEED=7 python3 dev.py test tests/test_random_frames.py`.
"""

from __future__ import annotations

import math
import os
import random
import re
import signal
import socket
from pathlib import Path
from typing import Any

import msgpack

from atmost import wire
from atmost.values import COUNT_MAX
from tests.bad_manners import Neighbour, raw
from tests.protocol_client import Client, frame
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.test_wire import BODIES, INDEX

FRAMES = int(os.environ.get("ATMOST_FRAMES", "100000"))
SEED = int(os.environ.get("ATMOST_SEED", "1"))
FRAMES_IN_A_ROW_MAX = 6  # on one connection; bad bytes hide what comes after them
CONNECTIONS_AT_ONCE = 32
TOKENS_BEFORE = 2_000  # so that the neighbour's grant has no small number
MEMORY_KB_MAX = 150 * 1024  # with the thousands of limits that these frames make

SESSIONS = [bytes([number]) * 16 for number in range(8)]  # that come back again and again
SENT = [body for line, body in zip(INDEX, BODIES, strict=True) if line["from"] == "client"]
MESSAGES: list[list[Any]] = [msgpack.unpackb(body) for body in SENT]
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, COUNT_MAX, COUNT_MAX + 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 0.5, 1e-300, 1e300, math.nan, math.inf, -math.inf),
    *("", "db", "api", "a/b", "x" * 201, "\x1b[2J", "größe 🐘", "acquire", b"", b"db", b"x" * 16),
    *([], {}, [[]], [1, 2], ["db"], {"db": 1}, {"db": 0, "api": 2}, {"": 1}, {1: 2}, {"db": {}}),
    *({f"many {n}": 1 for n in range(40)}, list(range(300)), "x" * 5000),
]


def flipped(random: random.Random, body: bytes) -> bytes:
    """Some bytes are others."""
    changed = bytearray(body)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return raw(bytes(changed))


def cut(random: random.Random, body: bytes) -> bytes:
    """A piece is missing or comes twice."""
    start, end = sorted(random.choices(range(len(body) + 1), k=2))
    piece = body[start:end] * random.choice([0, 2])
    return raw(body[:start] + piece + body[end:])


def misframed(random: random.Random, body: bytes) -> bytes:
    """The length is that of another frame."""
    length = random.choice([0, 1, len(body) - 1, len(body) + 1, 65536, 65537, 2**32 - 1])
    return length.to_bytes(4, "big") + body


def noise(random: random.Random, _: bytes) -> bytes:
    """Bytes that are nothing at all, in a frame or without one."""
    found = random.randbytes(random.randint(0, 60))
    return random.choice([found, raw(found)])


def misfilled(random: random.Random, body: bytes) -> bytes:
    """Msgpack, but some fields are others, or missing, or too many."""
    message = msgpack.unpackb(body)
    for _ in range(random.randint(1, 3)):
        if random.random() < 0.1:
            message.insert(random.randrange(len(message) + 1), random.choice(ODD))
        elif random.random() < 0.1:
            message.pop(random.randrange(len(message)))
        else:  # mostly not the type: that alone would close the connection
            at = random.choice([*range(1, len(message) + 1), 0])
            message[at : at + 1] = [random.choice(ODD)]
        message = message or [None]
    return raw(msgpack.packb(message))


def crossed(random: random.Random, body: bytes) -> bytes:
    """The fields of one message under the type of another."""
    message = msgpack.unpackb(body)
    return frame(random.choice(MESSAGES)[0], *message[1:])


def unchanged(_: random.Random, body: bytes) -> bytes:
    return raw(body)


WAYS = [flipped, cut, misframed, noise, misfilled, misfilled, misfilled, crossed, unchanged]


def row_of_frames(random: random.Random) -> list[bytes]:
    """What one connection sends after its hello; a few say none."""
    count = random.randint(1, FRAMES_IN_A_ROW_MAX)
    return [random.choice(WAYS)(random, random.choice(SENT)) for _ in range(count)]


def hello_of(random: random.Random) -> bytes:
    """Mostly a good one, of a session that is known or not; else none, or a bad one."""
    session = random.choice([*SESSIONS, random.randbytes(16)])
    hello = msgpack.packb(["hello", 1, session, 1, ["job"], "ada", ""])
    if random.random() < 0.9:
        return raw(hello)
    return random.choice([b"", random.choice(WAYS)(random, hello)])


def speak(daemon: RunningDaemon, row: list[bytes], hello: bytes) -> socket.socket:
    """Send all of it on a connection of its own."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_SECONDS)
    connection.connect(str(daemon.socket))
    try:
        connection.sendall(hello + b"".join(row))
        connection.shutdown(socket.SHUT_WR)
    except OSError:  # closed already, for the first of them
        pass
    return connection


def hear(connection: socket.socket) -> int:
    """Read to the end. Whatever the daemon said has to be messages. Returns how many."""
    frames, heard = wire.FrameReader(), 0
    with connection:
        try:
            while data := connection.recv(65536):
                for body in frames.feed(data):
                    wire.decode_daemon_message(body)
                    heard += 1
        except ConnectionResetError:
            pass
    return heard


def test_random_frames_harm_nobody(daemon: RunningDaemon) -> None:
    with (
        daemon.client() as client
    ):  # an operator may release any grant: one of them asks for number 1
        client.create_limit("before", 1)
        for _ in range(TOKENS_BEFORE):
            client.acquire("before").release()
    neighbour = Neighbour(daemon)
    neighbour.start()
    source = random.Random(SEED)
    sent = heard = 0
    while sent < FRAMES:
        connections = []
        for _ in range(CONNECTIONS_AT_ONCE):
            row = row_of_frames(source)
            sent += len(row)
            connections.append(speak(daemon, row, hello_of(source)))
        heard += sum(map(hear, connections))
        neighbour.goes_on()
    assert heard > FRAMES / 10  # else the daemon would have slept through all this
    neighbour.end()
    for session in SESSIONS:  # one that was cut off still has what it had, until it comes back
        good = [frame("hello", 1, session, 1, ["job"], "ada", ""), frame("resume", 1)]
        hear(speak(daemon, good[1:], good[0]))
    foreign = Client(str(daemon.socket))
    wait_until(lambda: foreign.ask("status")[11] == 0, "nobody waits any more")
    foreign.close()
    assert "Traceback" not in daemon.log_text(), daemon.log
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
    assert found
    assert int(found[1]) < MEMORY_KB_MAX
    assert daemon.stop(signal.SIGTERM) == 0
