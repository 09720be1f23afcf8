"""What a client says after a lost connection, and what an answer means then: without any I/O."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from atmost import errors, wire
from atmost.asked import Asked, asked_of_concurrency, asked_of_rate_limit
from atmost.errors import AtmostError, GrantLost, LimitExists, ProtocolError
from atmost.exchange import SEEN_MAX, AskedTwice, Exchange
from atmost.reconnecting import PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN, Reconnecting
from atmost.slate import SLATE_BYTES, Slate


def messages(data: bytes) -> list[wire.Message]:
    return [wire.decode_client_message(body) for body in wire.FrameReader().feed(data)]


def asked(*names: str, timeout: float | None = None, **more: Any) -> Asked:
    return asked_of_concurrency(names, 1, timeout, more.get("rate_limit"), False)


def acquire(
    exchange: Exchange, what: Asked, ends: float | None = None, caller: str = ""
) -> wire.Acquire:
    (message,) = messages(exchange.acquire(exchange.number(), what, caller, ends))
    assert isinstance(message, wire.Acquire)
    return message


def hear(exchange: Exchange, *told: wire.Message) -> list[Any]:
    return exchange.receive(b"".join(map(wire.encode, told)))


def resumed(exchange: Exchange, now: float = 0.0) -> list[wire.Message]:
    """What is said after a loss, between hello and resume."""
    exchange.disconnected()
    first, *between, last = messages(exchange.resume(now))
    assert isinstance(first, wire.Hello)
    assert isinstance(last, wire.Resume)
    return between


@pytest.fixture
def exchange() -> Exchange:
    return Exchange(["test"])


# ---- What is said again


def test_a_session_keeps_its_name_and_its_numbers_rise(exchange: Exchange) -> None:
    (first,) = messages(exchange.hello())
    acquire(exchange, asked("db"))
    exchange.disconnected()
    again, _, last = messages(exchange.resume(0))
    assert first == again
    assert isinstance(last, wire.Resume)
    assert last.request == 2
    assert acquire(exchange, asked("db")).request == 3
    assert Exchange()._session != exchange._session


def test_who_waits_is_named_with_what_is_left_of_its_time(exchange: Exchange) -> None:
    patient = acquire(exchange, asked("db", "gpu", rate_limit={"api": 3}))
    timed = acquire(exchange, asked("db", timeout=10.0), ends=110.0)
    late = acquire(exchange, asked("db", timeout=1.0), ends=101.0)
    again = resumed(exchange, now=104.0)
    assert again[0] == patient
    told = [(message.timeout_seconds, message.late) for message in again]  # type: ignore[attr-defined]
    assert told == [(None, False), (6.0, False), (1.0, True)]  # of the last, only what became of it
    assert [message.request for message in again] == [1, timed.request, late.request]  # type: ignore[attr-defined]


def test_who_waits_inside_a_block_says_so_again(exchange: Exchange) -> None:
    outer = acquire(exchange, asked("db"), caller="me")
    hear(exchange, wire.Granted(outer.request, 7, 0))
    exchange.enter("me", outer.request)
    inner = acquire(exchange, asked("gpu"), caller="me")
    assert inner.inside == [outer.request]
    assert resumed(exchange) == [wire.Keep(outer.request, {"db": 1}, 7), inner]


def test_what_is_held_is_kept_until_it_is_released(exchange: Exchange) -> None:
    one = acquire(exchange, asked("db"))
    other = acquire(exchange, asked("gpu").by_the_process())
    hear(exchange, wire.Granted(other.request, 8, 0), wire.Granted(one.request, 9, 0))
    keep = wire.Keep(other.request, {"gpu": 1}, 8, True)
    assert resumed(exchange) == [keep, wire.Keep(one.request, {"db": 1}, 9)]
    assert messages(exchange.release(one.request)) == [wire.Release(one.request)]
    assert resumed(exchange) == [keep]
    exchange.release(other.request)
    assert resumed(exchange) == []


def test_what_was_given_up_is_not_named_and_its_grant_ignored(exchange: Exchange) -> None:
    given_up = acquire(exchange, asked("db"))
    exchange.release(given_up.request)
    hear(exchange, wire.Granted(given_up.request, 9, 0))
    assert resumed(exchange) == []


def test_a_refused_request_is_over(exchange: Exchange) -> None:
    refused = acquire(exchange, asked("db"))
    hear(exchange, wire.Failed(refused.request, "limit_deleted", "", {"name": "db"}))
    assert resumed(exchange) == []


def test_questions_are_asked_again(exchange: Exchange) -> None:
    exchange.ask(exchange.number(), wire.ReadLimit, "db")
    exchange.ask(exchange.number(), wire.Status)
    hear(exchange, wire.Done(2))
    assert resumed(exchange) == [wire.ReadLimit(1, "db")]
    assert not exchange.unsettled  # nothing was held, so the daemon knows nothing that is not so


# ---- What was only spent


def test_what_was_spent_is_told_as_seen_once(exchange: Exchange) -> None:
    spend = asked_of_rate_limit("api", 1, None, False)
    for number in (1, 2):
        assert acquire(exchange, spend).request == number
    hear(exchange, wire.Granted(1, 5, 0), wire.Granted(2, 6, 0))
    assert acquire(exchange, spend).seen == [1, 2]
    assert acquire(exchange, spend).seen == []


def test_seen_is_forgotten_by_a_resume_and_not_told_twice(exchange: Exchange) -> None:
    spend = asked_of_rate_limit("api", 1, None, False)
    acquire(exchange, spend)
    hear(exchange, wire.Granted(1, 5, 0))
    waits = acquire(exchange, asked("db"))
    assert waits.seen == [1]
    unanswered = acquire(exchange, spend)
    again = resumed(exchange)
    assert [message.request for message in again] == [2, 3]  # type: ignore[attr-defined]
    assert not any(message.seen for message in again)  # type: ignore[attr-defined]
    hear(exchange, wire.Granted(unanswered.request, 6, 0))
    assert acquire(exchange, asked("db")).seen == [unanswered.request]


def test_seen_is_told_in_frames_that_are_not_too_long(exchange: Exchange) -> None:
    spend = asked_of_rate_limit("api", 1, None, False)
    numbers = [acquire(exchange, spend).request for _ in range(SEEN_MAX + 10)]
    hear(exchange, *(wire.Granted(number, 1, 0) for number in numbers))
    assert len(acquire(exchange, spend).seen) == SEEN_MAX
    assert len(acquire(exchange, spend).seen) == 10


# ---- What is reconciled


def test_a_loss_is_settled_by_the_answer_to_its_own_resume(exchange: Exchange) -> None:
    held = acquire(exchange, asked("db"))
    hear(exchange, wire.Granted(held.request, 9, 0))
    assert not exchange.unsettled
    exchange.release(held.request)  # it may not have arrived
    exchange.disconnected()
    (*_, first) = messages(exchange.resume(0))
    exchange.disconnected()
    (*_, second) = messages(exchange.resume(0))
    assert isinstance(first, wire.Resume)
    assert isinstance(second, wire.Resume)
    hear(exchange, wire.Welcome(wire.PROTOCOL_VERSION, "", 1), wire.Done(first.request))
    assert exchange.unsettled
    hear(exchange, wire.Done(second.request))
    assert not exchange.unsettled


def test_a_session_that_ends_keeps_what_is_the_processs(exchange: Exchange) -> None:
    acquire(exchange, asked("db"))
    acquire(exchange, asked("gpu").by_the_process())
    acquire(exchange, asked("db"))
    exchange.ask(exchange.number(), wire.Status)
    hear(exchange, wire.Granted(1, 8, 0), wire.Granted(2, 9, 0))
    exchange.end()
    assert resumed(exchange) == [wire.Keep(2, {"gpu": 1}, 9, True)]


def test_half_a_message_of_the_lost_connection_is_forgotten(exchange: Exchange) -> None:
    acquire(exchange, asked("db"))
    assert exchange.receive(wire.encode(wire.Granted(1, 8, 0))[:7]) == []
    assert len(resumed(exchange)) == 1
    assert hear(exchange, wire.Granted(1, 8, 0)) == [(1, wire.Granted(1, 8, 0))]


# ---- Grants that are lost


def test_what_is_let_go_of_before_the_welcome_is_on_the_slate_that_comes_with_it() -> None:
    """The one before may be looked at no more: its session may have been forgotten meanwhile."""
    exchange = Exchange(["test"], wants_slate=True)
    first, second = (Slate.of(memoryview(bytearray(SLATE_BYTES)).cast("Q")) for _ in range(2))
    exchange.hello()
    exchange.borrow(first)
    exchange.welcomed = True
    numbers = [acquire(exchange, asked("db")).request for _ in range(3)]
    exchange.release(numbers[0])
    exchange.disconnected()
    exchange.release(numbers[1])
    named = [message.request for message in resumed(exchange) if isinstance(message, wire.Acquire)]
    assert named == numbers[2:]
    exchange.release(numbers[2])
    exchange.borrow(second)
    assert set(first.ring) == {0, *numbers}
    assert set(second.ring) == {0, numbers[2]}


def test_a_grant_that_is_lost(exchange: Exchange) -> None:
    acquire(exchange, asked("db"))
    hear(exchange, wire.Granted(1, 8, 0))
    error = GrantLost(["db"], "an operator has released it")
    hear(exchange, wire.Failed(1, error.code, str(error), error.fields))
    assert str(exchange.lost_grants[1]) == str(error)
    assert resumed(exchange) == []


def test_a_session_that_is_over_has_lost_its_grants(exchange: Exchange) -> None:
    acquire(exchange, asked("db"))
    hear(exchange, wire.Granted(1, 8, 0))
    exchange.lose_all("the daemon sent nonsense")
    assert exchange.lost_grants[1].names == ["db"]
    assert "nonsense" in exchange.lost_grants[1].reason


# ---- Changes that were asked for twice


@pytest.mark.parametrize("repeated", [True, False])
def test_delete_that_finds_nothing(exchange: Exchange, repeated: bool) -> None:
    exchange.ask(number := exchange.number(), wire.DeleteLimit, "db")
    if repeated:
        resumed(exchange)
    error = errors.LimitNotFound(["db"])
    ((request, answer),) = hear(exchange, wire.Failed(number, error.code, str(error), error.fields))
    assert request == number
    assert isinstance(answer, wire.Done if repeated else errors.LimitNotFound)


@pytest.mark.parametrize("repeated", [True, False])
def test_create_that_finds_the_name_taken(exchange: Exchange, repeated: bool) -> None:
    exchange.ask(number := exchange.number(), wire.CreateLimit, "db", 1)
    if repeated:
        resumed(exchange)
    error = LimitExists("db")
    ((_, answer),) = hear(exchange, wire.Failed(number, error.code, str(error), error.fields))
    assert isinstance(answer, LimitExists)
    assert isinstance(answer.__cause__, AskedTwice) == repeated
    assert answer.name == "db"


@pytest.mark.parametrize("repeated", [True, False])
def test_update_that_could_not_be_saved(exchange: Exchange, repeated: bool) -> None:
    """What it asks for may be so, by the first try; then it is not said that nothing was changed."""
    exchange.ask(number := exchange.number(), wire.UpdateLimit, "db", 1, None, None)
    if repeated:
        resumed(exchange)
    error = errors.StateNotSaved("/state", "No space left on device")
    ((_, answer),) = hear(exchange, wire.Failed(number, error.code, str(error), error.fields))
    assert isinstance(answer, errors.StateNotSaved)
    assert (answer.path, answer.reason) == (error.path, error.reason)
    assert ("nothing was changed" in str(answer)) == (not repeated)


# ---- The end of a conversation


def test_what_ends_a_conversation_for_good(exchange: Exchange) -> None:
    for told in (wire.Failed(0, "protocol_error", "", {"problem": "bad"}), wire.Welcome(9, "", 1)):
        with pytest.raises(ProtocolError):
            hear(exchange, told)


def test_a_refusal_for_now_takes_no_answer_with_it(exchange: Exchange) -> None:
    acquire(exchange, asked("db"))
    error = errors.TooMany("connections", 5, "connections_max")
    answers = hear(
        exchange,
        wire.Granted(1, 8, 0),
        wire.Failed(0, error.code, str(error), error.fields),
    )
    assert [number for number, _ in answers] == [1]
    assert isinstance(exchange.refusal, AtmostError)
    assert len(resumed(exchange)) == 1
    hear(exchange, wire.Welcome(wire.PROTOCOL_VERSION, "", 1))
    assert exchange.refusal is None


# ---- When to try


def test_tries_are_at_once_and_then_rarer() -> None:
    away = Reconnecting(30.0, chance=lambda: 1.0)
    away.lost(100.0, "gone")
    assert away.next == 100.0
    tries = []
    while not away.gave_up(away.next):
        tries.append(away.next)
        away.trying(away.next)
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses[:3] == pytest.approx([PAUSE_SECONDS_MIN * factor for factor in (1, 2, 4)])
    assert max(pauses) == pytest.approx(PAUSE_SECONDS_MAX)
    assert away.next == 130.0  # the last one comes in the last moment
    for _ in range(3):
        away.trying(away.next)
    assert away.next == pytest.approx(130.0 + (1 + 2 + 4) * PAUSE_SECONDS_MAX)


def test_pauses_are_drawn_at_random() -> None:
    aways = [Reconnecting(30.0) for _ in range(20)]
    for away in aways:
        away.lost(0.0, "")
        away.trying(0.0)
        assert 0.5 * PAUSE_SECONDS_MIN <= away.next <= PAUSE_SECONDS_MIN
    assert len({away.next for away in aways}) > 1


def test_a_call_that_comes_late_gets_one_try_at_once() -> None:
    away = Reconnecting(1.0)
    away.lost(0.0, "gone")
    away.trying(0.0)
    assert not away.hurry(0.5)
    away.trying(2.0)
    assert away.hurry(2.0)
    assert away.next == 2.0
    assert "did not come back within 1 s (gone)" in away.not_back()


def test_a_daemon_that_hangs_up_after_its_welcome_is_not_asked_in_a_hurry() -> None:
    away = Reconnecting(30.0, chance=lambda: 1.0)
    away.lost(0.0, "")
    for _ in range(20):
        away.trying(now := away.next)
        away.back()
        away.lost(now, "")
    assert away.next - now == pytest.approx(PAUSE_SECONDS_MAX)
    away.trying(now := away.next)
    away.back()
    away.lost(now + 60.0, "")
    assert away.next == now + 60.0
