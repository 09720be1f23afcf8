"""One watch, without a daemon: what it is sent, and what it is told to have missed."""

from __future__ import annotations

import msgspec

from atmost import wire
from atmost.watching import EVENTS_MAX, Frames
from atmostd.events import Watch


class Reader:
    """A connection with so much room."""

    def __init__(self, room: int) -> None:
        self.left = room
        self.is_slow = False
        self.said: list[wire.Events] = []

    def reads(self) -> bool:
        return not self.is_slow

    def room(self) -> int:
        return 0 if self.is_slow else self.left

    def send(self, message: wire.Message) -> None:
        frame = wire.encode(message)
        self.left -= len(frame)
        answer = wire.decode_daemon_message(frame[wire.PREFIX_BYTES :])
        assert isinstance(answer, wire.Events)
        self.said.append(answer)


def encoded(count: int) -> list[bytes]:
    return [msgspec.msgpack.encode(event) for event in events(count)]


def events(count: int) -> list[wire.Event]:
    return [wire.Event("granted", 1.5, "x" * 100, number) for number in range(count)]


def test_all_that_fits_leaves_in_as_few_frames_as_may_be() -> None:
    reader = Reader(10**6)
    assert Watch(1, None, reader, 0).take(encoded(2000), 0) == 0
    assert [event for answer in reader.said for event in answer.events] == events(2000)
    assert len(reader.said) == 5
    assert not any(answer.missed for answer in reader.said)


def test_what_does_not_fit_is_told_at_once_to_who_reads() -> None:
    reader = Reader(5000)
    watch = Watch(1, None, reader, 0)
    missed = watch.take(encoded(100), 7)
    watch.tell_missed()
    first, last = reader.said
    assert 0 < len(first.events) < 100
    assert missed == 100 - len(first.events) + 7 == last.missed
    assert last.events == []
    assert watch.missed == 0


def test_who_does_not_read_is_told_when_it_does() -> None:
    reader = Reader(10**6)
    watch = Watch(1, None, reader, 0)
    reader.is_slow = True
    assert watch.take(encoded(3), 0) == 3
    assert watch.take(encoded(4), 0) == 4
    watch.tell_missed()
    assert reader.said == []
    reader.is_slow = False
    watch.tell_missed()
    assert [(answer.missed, answer.events) for answer in reader.said] == [(7, [])]


def test_the_next_events_tell_what_was_missed_before_them() -> None:
    reader = Reader(10**6)
    watch = Watch(1, None, reader, 0)
    reader.is_slow = True
    watch.take(encoded(3), 0)
    reader.is_slow = False
    watch.take(encoded(1), 0)
    assert [(answer.missed, len(answer.events)) for answer in reader.said] == [(3, 1)]


# At the client


def test_a_consumer_that_is_too_slow_is_told_so() -> None:
    frames = Frames()
    for number in range(EVENTS_MAX // 100 + 5):
        frames.put(wire.Events(1, events(99 + number % 2), 0))
    taken = missed = 0
    while frames:
        for event in frames.take():
            taken += event.kind == "granted"
            missed += event.missed
    assert missed > 300
    assert taken + missed == sum(99 + n % 2 for n in range(EVENTS_MAX // 100 + 5))


def test_the_same_bytes_taken_twice_are_taken_once() -> None:
    frames = Frames()
    for _ in range(2):
        frames.put(wire.Events(1, events(3), 0))
    assert len(frames.take()) == 3
    assert not frames
