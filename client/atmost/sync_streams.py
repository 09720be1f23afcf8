"""Watches of the blocking client: events that come one after another, on the connection of all calls.

Rules 1 to 5 of sync_connection.Connection, whose fields these are, hold here.
"""

from __future__ import annotations

import time
from abc import abstractmethod

from atmost import wire
from atmost.connecting import unavailable
from atmost.errors import AtmostError
from atmost.exchange import ANSWER_SECONDS, Answer
from atmost.sync_caller import Caller
from atmost.sync_reconnecting import Call, OutOfPatience, Reconnects
from atmost.watching import Event, Frames


class Stream(Call):
    """A watch: it is among the calls only while a thread waits for its next events."""

    __slots__ = ("frames",)

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        self.frames = Frames()


class Streams(Reconnects):
    """A session that can watch."""

    _level: int
    _streams: dict[int, Stream]  # by request

    @abstractmethod
    def _wait(self, call: Call, deadline: float | None) -> None: ...

    @abstractmethod
    def _why_no_answer(self, patience: float) -> str: ...

    @abstractmethod
    def _hand_over(self) -> None: ...

    def watch(self, name: str | None, caller: Caller) -> Stream:
        """Be told what happens, from now on."""
        stream = Stream(caller)
        try:
            with self._lock:
                if self.lost:
                    raise self.lost
                number = stream.number = self._exchange.number()
                frame = self._exchange.ask(number, wire.Watch, name)
                self._streams[number] = stream
                self._send(frame)
                if not self._connected and self._away.hurry(time.monotonic()):
                    self._poke()
            self._wait_for_events(stream, ANSWER_SECONDS)
        except BaseException:
            self.stop_watching(stream)
            raise
        return stream

    def next_events(self, stream: Stream, caller: Caller) -> list[Event]:
        """Wait for what happens next."""
        stream.caller = caller
        self._wait_for_events(stream, None)
        with self._lock:
            events = stream.frames.take()
            if not stream.frames and stream.frames.failure is None:
                stream.answer = None
        return events

    def stop_watching(self, stream: Stream) -> None:
        """Twice is harmless. Another thread that waits for its events gets none any more."""
        with self._lock:
            is_known = self._streams.pop(stream.number, None) is not None
            waits = self._calls.pop(stream.number, None) is not None
            if is_known and not self.lost:
                self._send(self._exchange.release(stream.number))
                if waits:  # it may be the one that reads; an answer to anything wakes it
                    self._send(self._exchange.ask(self._exchange.number(), wire.Status))
            if waits:
                self._answer(stream, wire.Done(stream.number))
        self._hand_over()

    def _wait_for_events(self, stream: Stream, patience: float | None) -> None:
        if not stream.frames and stream.frames.failure is None:
            caller = stream.caller
            depth = caller.depth
            try:
                caller.depth = self._level + 1
                with self._lock:
                    if stream.answer is None:
                        self._calls[stream.number] = stream
                self._wait(stream, None if patience is None else time.monotonic() + patience)
            except OutOfPatience:
                assert patience is not None
                raise unavailable(self._at, self._why_no_answer(patience)) from None
            finally:
                caller.depth = depth
                with self._lock:
                    self._calls.pop(stream.number, None)
                self._hand_over()
        if not stream.frames and stream.frames.failure is not None:
            raise stream.frames.failure

    def _stream(self, stream: Stream, answer: Answer) -> None:
        """More of what happens, or why there will be no more."""
        if isinstance(answer, wire.Events):
            stream.frames.put(answer)
        elif isinstance(answer, AtmostError):
            stream.frames.failure = answer
            self._streams.pop(stream.number, None)
        self._answer(stream, answer)

    def _end_streams(self, why: AtmostError) -> None:
        for stream in list(self._streams.values()):
            self._stream(stream, why)
