"""The bytes of the blocking client: its socket, and the next one when that is lost.

Rule 1: an exception may come at any place (Ctrl-C), but never between bytes that were moved and the
count of them. Whoever goes on finds what has come, and knows what has been sent.
Rule 2: only one thread at a time connects, begins and receives (the leader of sync_connection.py); any
thread sends and looks whether something is unread, under the connection's lock.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections import deque
from operator import itemgetter
from typing import Any

from atmost.asked import PATIENCE_SECONDS_MAX
from atmost.connecting import check_owner
from atmost.exchange import HELLO_SECONDS, RECEIVE_BYTES
from atmost.paths import SocketPath

_DESCRIPTOR_BYTES = socket.CMSG_LEN(array.array("i").itemsize)  # room for one


class Socket:
    """One connection after another; at first none."""

    def __init__(self, takes_descriptor: bool = False) -> None:
        """`takes_descriptor`: one that comes with the first answer is kept. Any other is closed by the
        kernel."""
        self.received: deque[int] = deque()  # how many bytes are there and were not taken yet
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.unsent = b""  # what begins a connection, and what was sent behind it
        self._sent: deque[int] = deque()  # how much of that was sent, piece by piece
        self._takes_descriptor = takes_descriptor
        self._looks = False  # for a descriptor, on this connection
        self._came_with: dict[int, Any] = {}  # what came beside bytes, in order
        self._unread = select.poll()  # of this socket, or of none
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.close()

    def __del__(self) -> None:
        """Nobody needs it any more."""
        if hasattr(self, "_socket"):
            self._socket.close()

    def fileno(self) -> int:
        """-1: there is no connection."""
        return self._socket.fileno()

    # The beginning

    def connect(self, at: SocketPath) -> None:
        """A Unix socket connects at once or not at all. Raises OSError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._looks = self._takes_descriptor
        try:
            self._socket.settimeout(HELLO_SECONDS)
            self._socket.connect(at.path)
            check_owner(at, self._socket)
            self._socket.settimeout(None)
            self._unread = select.poll()
            self._unread.register(self._socket, select.POLLIN)
        except BaseException:
            self.close()
            raise

    def limit(self, seconds: float | None) -> None:
        """How long a send or a receive may take before it raises a TimeoutError; None: any time."""
        self._socket.settimeout(seconds)

    # Sending

    def begin(self, data: bytes) -> None:
        """These are the first bytes of the connection. They may be more than it takes at once."""
        self._sent.clear()
        self.unsent = data

    def send(self, frame: bytes) -> None:
        """Raises OSError."""
        if self.unsent:
            self.unsent += frame
        else:
            self._socket.sendall(frame)

    def send_unsent(self) -> None:
        """As much as goes now. Raises OSError."""
        rest = memoryview(self.unsent)[sum(self._sent) :]
        with contextlib.suppress(BlockingIOError):
            # One call into C: rule 1.
            self._sent.extend(map(self._socket.send, (rest,), (socket.MSG_DONTWAIT,)))
        if sum(self._sent) == len(self.unsent):
            self.unsent = b""

    # Receiving

    def has_unread(self) -> bool:
        """Whether something is to be read or taken, be it the end."""
        return bool(self.received or self._unread.poll(0))

    def has_ended(self) -> bool:
        """Whether the other end has closed, be there something to read before that or not."""
        return any(event & select.POLLHUP for _, event in self._unread.poll(0))

    def wait(self, seconds: float, writes: bool = False) -> int:
        """What it is ready for, within that time; 0: nothing."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if writes else 0))
        ready = poll.poll(min(seconds, PATIENCE_SECONDS_MAX) * 1000)
        return ready[0][1] if ready else 0

    def receive(self) -> None:
        """Wait for bytes, or for the end: none. Raises OSError."""
        if self._looks:
            self._receive_with_descriptor()
            return
        # One call into C: rule 1.
        self.received.extend(map(self._socket.recv_into, (self._buffer,)))

    def _receive_with_descriptor(self) -> None:
        receive, flags = self._socket.recvmsg_into, socket.MSG_CMSG_CLOEXEC
        messages = map(receive, ((self._buffer,),), (_DESCRIPTOR_BYTES,), (flags,))
        kept = map(self._came_with.setdefault, (len(self._came_with),), messages)
        self.received.extend(map(itemgetter(0), kept))  # one call into C: rule 1

    def descriptor(self) -> int | None:
        """The one that came with the first answer, if one did; the caller has to close it. No other will
        be taken on this connection."""
        self._looks = False
        found = None
        for place in list(self._came_with):
            _, beside, *_ = self._came_with.pop(place)
            for level, kind, data in beside:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    found = _first_of(data, found)
        return found

    def piece(self) -> memoryview:
        """What was received."""
        return self._buffer[: self.received[0]]

    # The end

    def shut_down(self) -> None:
        """Nothing more is sent, and the thread that reads finds the end behind what has come."""
        self.unsent = b""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Without a word to the other end: a forked child closes its copy."""
        self._unread = select.poll()  # the number may soon be another file's
        self._socket.close()
        if self._came_with:
            descriptor = self.descriptor()
            if descriptor is not None:
                os.close(descriptor)


def _first_of(data: bytes, found: int | None) -> int | None:
    """Of these descriptors, unless one was found before; the others are closed."""
    descriptors = array.array("i")
    descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    for descriptor in descriptors:
        if found is None:
            found = descriptor
        else:
            os.close(descriptor)
    return found
