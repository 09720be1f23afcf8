"""Streams of events to browsers (Server-Sent Events), a bounded number of them.

Rule: nothing is kept for a browser that does not read. What it missed it never gets; it gets a snapshot
of what is so when it reads again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from atmost.web import bounds
from atmost.web.problems import TooManyStreams

Snapshot = Callable[[str | None], Awaitable[bytes]]

RETRY_MILLISECONDS = 1000  # after which a browser comes back


def frame(kind: str, sequence: int, data: Any) -> bytes:
    """One event. JSON in one line: no newline of a name can end it."""
    return b"event: %b\nid: %d\ndata: %b\n\n" % (
        kind.encode(),
        sequence,
        msgspec.json.encode(data),
    )


class Stream:
    """One browser."""

    def __init__(self, limit: str | None) -> None:
        self.limit = limit  # whose details it shows
        self.fresh = True  # it gets a snapshot next
        self._batches: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._news.set()
        self._over = False

    def put(self, batch: bytes) -> None:
        """Have it told, if it keeps up."""
        if self.fresh:
            return  # the snapshot will have it
        if len(self._batches) >= bounds.STREAM_BATCHES_MAX:
            self.refresh()
            return
        self._batches.append(batch)
        self._news.set()

    def refresh(self) -> None:
        """Have it begin anew."""
        self._batches.clear()
        self.fresh = True
        self._news.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._over = True
        self._news.set()

    async def next(self, snapshot: Snapshot) -> bytes | None:
        """What it shall be sent now; None: it is over."""
        if not self._news.is_set():
            try:
                async with asyncio.timeout(bounds.STREAM_PING_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return b": nothing new\n\n"
        self._news.clear()
        if self._over:
            return None
        if self.fresh:
            self.fresh = False  # what happens while it is made is behind it
            return await snapshot(self.limit)
        batches, self._batches = self._batches, deque()
        return b"".join(batches)


class Streams:
    """All of them."""

    def __init__(self, at_most: int = bounds.STREAMS_MAX) -> None:
        self._at_most = at_most
        self._streams: dict[Stream, None] = {}
        self._over = False

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams))

    def open(self, limit: str | None) -> Stream:
        """Raises TooManyStreams."""
        if len(self._streams) >= self._at_most or self._over:
            raise TooManyStreams(self._at_most)
        stream = Stream(limit)
        self._streams[stream] = None
        return stream

    def close(self, stream: Stream) -> None:
        """Twice is harmless."""
        self._streams.pop(stream, None)

    def limits(self) -> set[str]:
        """Whose details are shown somewhere."""
        return {stream.limit for stream in self._streams if stream.limit is not None}

    def put(self, batch: bytes, limit: str | None = None) -> None:
        """Tell all, or those that show this limit."""
        for stream in self._streams:
            if limit is None or stream.limit == limit:
                stream.put(batch)

    def refresh(self) -> None:
        """Have all begin anew."""
        for stream in self._streams:
            stream.refresh()

    def end(self) -> None:
        """The process ends."""
        self._over = True
        for stream in self._streams:
            stream.end()
