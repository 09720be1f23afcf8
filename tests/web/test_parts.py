"""The pure parts: what is known, pages of the list, previews, words, bounds."""

from __future__ import annotations

import random
import stat
import subprocess
from pathlib import Path

import pytest

from atmost import wire
from atmost.asked import Limit
from atmost.watching import Event
from atmost.web import bounds, preview
from atmost.web.known import Known, Lines, Waits
from atmost.web.listing import Query, page_of, query_of
from atmost.web.preview import Wanted
from atmost.web.problems import Problem
from atmost.web.rows import Holder, Lacked, Snippets, Waiter, decay_words, row_of, version_of
from atmost.web.security import Hosts, is_loopback
from atmost.web.throttle import Throttle
from atmost.web.tokens import BadTokenFile, is_same, token_of

NOW = 1_800_000_000.0


def a_limit(name: str = "db", **given: object) -> Limit:
    fields: dict[str, object] = {
        "limit": 5,
        "slot_decay_per_second": 0.0,
        "active": True,
        "active_slots": 0,
        "held": 0,
        "spent": 0.0,
        "waiting": 0,
        "implicit": False,
        "origin": "hand",
    }
    return Limit(name=name, **fields | given)  # type: ignore[arg-type]


# Known


def test_a_spent_level_comes_back_without_being_asked() -> None:
    known = Known()
    known.read([a_limit(slot_decay_per_second=0.5, spent=2.0, held=1)], NOW)
    row = known.row("db", NOW + 1)
    assert row is not None
    assert (row.spent, row.active_slots) == (1.5, 3)
    assert known.decayed(NOW + 1) == []
    assert known.decayed(NOW + 2.5) == ["db"]
    assert known.decayed(NOW + 10) == ["db"]
    assert known.decayed(NOW + 11) == []
    row = known.row("db", NOW + 11)
    assert row is not None
    assert (row.spent, row.active_slots) == (0.0, 1)


def test_who_waits_longest_is_known_from_events() -> None:
    known = Known()
    known.lines.begin_reading()
    known.lines.read_all([], True, NOW)
    for number, at in ((7, NOW - 5), (8, NOW - 3)):
        known.happened(Event("queued", at, "db", number, 1, 42, "ada", "job"), NOW)
    known.read([a_limit(waiting=2)], NOW)
    row = known.row("db", NOW)
    assert row is not None
    assert row.oldest_wait_at == NOW - 5
    assert [waits.number for waits in known.lines.longest(5)] == [7, 8]
    known.happened(Event("granted", NOW, "db", 7, 1, waited_seconds=5.0), NOW)
    row = known.row("db", NOW)
    assert row is not None
    assert row.oldest_wait_at == NOW - 3
    known.happened(Event("timed_out", NOW, "db", 8, 1), NOW)
    assert known.lines.oldest("db") is None


def test_a_line_that_is_not_what_was_told_is_read_anew() -> None:
    known = Known()
    known.lines.begin_reading()
    known.lines.read_all([], True, NOW)
    assert not known.lines.doubtful
    known.read([a_limit(waiting=2)], NOW)
    assert known.lines.doubtful


def ticket(number: int, limit: str = "db", age: float = 1.0) -> wire.TicketRecord:
    return wire.TicketRecord(limit, "waiting", 1, 42, "ada", "job", age, 1, number)


def test_what_happens_while_the_lines_are_read_is_not_lost() -> None:
    """The answer and the events may be looked at in either order."""
    lines = Lines(100)
    lines.begin_reading()
    lines.left("db", 1)  # was in the answer, and has gone since
    lines.joined(Waits("db", 3, 1, 42, "ada", "job", NOW))  # came after the answer
    lines.read_all([ticket(1, age=9), ticket(2, age=5)], True, NOW)
    assert [waits.number for waits in lines.longest(9)] == [2, 3]


def test_more_waiters_than_are_kept_are_not_guessed() -> None:
    lines = Lines(3)
    lines.begin_reading()
    lines.read_all([ticket(n, "a") for n in (1, 2)], True, NOW)
    for number in (3, 4):
        lines.joined(Waits("b", number, 1, 42, "ada", "job", NOW))
    assert lines.oldest("a") == NOW - 1
    assert lines.oldest("b") is None
    lines.forget("b")  # nobody waits there: so it is known again
    lines.joined(Waits("b", 5, 1, 42, "ada", "job", NOW))
    assert lines.oldest("b") == NOW
    lines.begin_reading()
    lines.read_all([ticket(1, "a"), ticket(2, "b")], False, NOW)
    assert (lines.oldest("a"), lines.oldest("b")) == (NOW - 1, None)


def test_events_are_kept_within_bounds() -> None:
    known = Known()
    for number in range(3 * bounds.EVENTS_LIMITS_MAX):
        known.happened(Event("refused", NOW, f"limit {number}", reason="never_fits"), NOW)
    for _ in range(3 * bounds.EVENTS_OF_LIMIT_MAX):
        known.happened(Event("refused", NOW, "db", reason="never_fits"), NOW)
    assert len(known.events) == bounds.EVENTS_KEPT_MAX
    assert len(known.troubles) == bounds.TROUBLES_KEPT_MAX
    assert len(known.events_of("db")) == bounds.EVENTS_OF_LIMIT_MAX
    assert known.events_of("limit 0") == []


def test_all_that_was_read_replaces_what_was_known() -> None:
    known = Known()
    known.read_all([a_limit("a"), a_limit("b")], NOW)
    changed, gone = known.read_all([a_limit("b", held=1), a_limit("c")], NOW)
    assert (sorted(changed), gone) == (["b", "c"], ["a"])
    assert known.row("a", NOW) is None


# Pages


@pytest.fixture
def ten_thousand() -> Known:
    known = Known()
    chance = random.Random(1)
    known.read_all(
        [
            a_limit(
                f"limit {number:05}",
                limit=number,
                waiting=chance.randrange(3) if number % 100 == 0 else 0,
                active=number % 10 != 0,
                held=number % 7,
            )
            for number in range(10_000)
        ],
        NOW,
    )
    return known


def test_a_page_of_many(ten_thousand: Known) -> None:
    page = page_of(ten_thousand, Query(offset=9_990, count=100), NOW, 5, False)
    assert (page.total, page.matching, page.sequence) == (10_000, 10_000, 5)
    assert [row.name for row in page.limits] == [f"limit {n:05}" for n in range(9_990, 10_000)]
    page = page_of(ten_thousand, Query(q="LIMIT 0123", sort="limit", order="desc"), NOW, 5, False)
    assert [row.limit for row in page.limits] == list(range(1239, 1229, -1))
    page = page_of(ten_thousand, Query(filters=("waiting", "inactive")), NOW, 5, False)
    assert page.matching == page.counts["waiting"] > 0
    assert all(row.waiting and not row.active for row in page.limits)
    assert page.counts["inactive"] == 1_000


@pytest.mark.parametrize("sort", ["name", "limit", "used", "waiting", "oldest", "rate"])
def test_every_order(ten_thousand: Known, sort: str) -> None:
    ten_thousand.lines.begin_reading()
    ten_thousand.lines.read_all(
        [ticket(1, "limit 00200", 3), ticket(2, "limit 00100", 2)], True, NOW
    )
    up = page_of(ten_thousand, Query(sort=sort, count=500), NOW, 0, False).limits
    down = page_of(ten_thousand, Query(sort=sort, order="desc", count=500), NOW, 0, False).limits
    if sort == "oldest":
        assert [row.name for row in down[:2]] == ["limit 00200", "limit 00100"]
    assert up[0] != down[0] or sort == "rate"


@pytest.mark.parametrize(
    "given",
    [
        ("sort", "x"),
        ("order", ""),
        ("offset", "-1"),
        ("count", "0"),
        ("count", "501"),
        ("filter", "?"),
    ],
)
def test_a_wrong_parameter_is_named(given: tuple[str, str]) -> None:
    with pytest.raises(Problem, match="expected") as refused:
        query_of([given])
    assert refused.value.fields["field"] == given[0]


# Rows


@pytest.mark.parametrize(
    ("decay", "words"),
    [
        (0.0, ""),
        (0.5, "1 every 2 s"),
        (1.0, "1 a second"),
        (5.0, "5 a second"),
        (100 / 60, "100 a minute"),
        (0.1, "1 every 10 s"),
        (1 / 3600, "1 every 60 min"),
        (1 / 86400, "1 every 24 h"),
        (1e-9, "1 every 1.16e+04 days"),
        (2.345, "2.35 a second"),
        (7 / 60, "7 a minute"),
    ],
)
def test_a_decay_in_words(decay: float, words: str) -> None:
    assert decay_words(decay) == words


def test_the_version_is_that_of_the_settings() -> None:
    was = a_limit()
    assert version_of(was) == version_of(a_limit(held=3, waiting=2))
    for other in (
        a_limit(limit=6),
        a_limit(active=False),
        a_limit(slot_decay_per_second=0.1),
        a_limit(origin="file"),
    ):
        assert version_of(other) != version_of(was)


@pytest.mark.parametrize(
    "name", ["db", "it's", 'a "b"', "-x", "$(reboot)", "`id`", "a b", "\\", "🦆"]
)
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_snippets_are_of_this_limit_whatever_its_name(name: str, decay: float) -> None:
    found = Snippets.of(a_limit(name, slot_decay_per_second=decay))
    for code in (found.sync, found.asyncio):
        indented = "".join(f"    {line}\n" for line in code.splitlines())
        compile(f"async def snippet():\n{indented}", "snippet", "exec")
        assert repr(name) in code
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {found.command}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert any(name in word for word in words[2:])
    assert words[:2] == ["atmost", "run"]


def test_a_row_has_the_record_and_what_a_list_shows() -> None:
    row = row_of(a_limit(waiting=1, implicit=True, active=False), NOW, NOW, NOW - 3)
    assert (row.state, row.oldest_wait_at, row.version) == ("implicit", NOW - 3, "5-0-0-hand")
    assert row_of(a_limit(), NOW, NOW, NOW - 3).oldest_wait_at is None


# Previews


def waiter(place: int, slots: int = 1, *elsewhere: str) -> Waiter:
    lacks = [Lacked(name, 1) for name in elsewhere]
    return Waiter(place, place, slots, 42, "ada", "job", NOW, lacks, None, False, None)


def holder(slots: int = 1) -> Holder:
    return Holder(1, 1, slots, 42, "ada", "job", NOW)


def edit(limit: Limit, wanted: Wanted, *line: Waiter, more: int = 0) -> preview.Preview:
    return preview.of_edit(limit, wanted, [holder()] * limit.held, list(line), more)


def test_a_raise_lets_the_first_ones_go() -> None:
    full = a_limit(limit=2, held=2, waiting=5)
    told = edit(full, Wanted(limit=5), *(waiter(place) for place in range(1, 6)))
    assert (told.starts, told.waiting, told.exact) == (3, 5, True)
    assert told.words == "3 of 5 waiters would start at once"


def test_a_big_one_at_the_head_holds_back_those_behind() -> None:
    full = a_limit(limit=2, held=2, waiting=2)
    told = edit(full, Wanted(limit=3), waiter(1, 2), waiter(2, 1))
    assert told.words == "none of 2 waiters would start at once"


def test_one_that_lacks_another_limit_holds_back_nobody() -> None:
    full = a_limit(limit=1, held=1, waiting=2)
    assert edit(full, Wanted(limit=2), waiter(1, 1, "api"), waiter(2)).starts == 1


def test_lowering_evicts_nobody_and_refuses_who_never_fits() -> None:
    told = edit(a_limit(limit=3, held=3, waiting=2), Wanted(limit=1), waiter(1, 2), waiter(2, 1))
    assert (told.over, told.fails, told.starts) == (2, 1, 0)
    assert "3 hold more than that and keep it until done" in told.words
    assert "1 of 2 would fail" in told.words


def test_disabling_lets_everybody_through() -> None:
    told = edit(a_limit(limit=1, held=1, waiting=2), Wanted(active=False), waiter(1, 9), waiter(2))
    assert (told.starts, told.fails) == (2, 0)


def test_nobody_waits() -> None:
    told = edit(a_limit(limit=1, held=1), Wanted(limit=3))
    assert told.words == "nobody waits; 2 slots would be free"


def test_what_is_not_known_is_not_called_exact() -> None:
    full = a_limit(limit=1, held=1, waiting=30)
    line = [waiter(place) for place in range(1, 31)]
    assert not edit(full, Wanted(limit=9), *line).exact
    rate = a_limit(slot_decay_per_second=1.0, spent=5.0, waiting=1)
    assert not edit(rate, Wanted(slot_decay_per_second=0.0), waiter(1)).exact


def test_delete_says_how_many() -> None:
    assert preview.of_delete([holder(), holder()], 5).words == (
        "2 hold it and run on, 5 wait and fail"
    )
    assert preview.of_delete([], 1).words == "nobody holds it, 1 waits and fails"


# Bounds and tokens


def test_a_throttle() -> None:
    throttle = Throttle(2.0, 3.0)
    assert [throttle.wait(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert throttle.wait(100.25) == pytest.approx(0.25)
    assert throttle.wait(100.5) == 0
    assert [throttle.wait(1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


@pytest.mark.parametrize(
    ("host", "header", "ours"),
    [
        ("127.0.0.1", "127.0.0.1:8640", True),
        ("127.0.0.1", "LocalHost:8640", True),
        ("127.0.0.1", "[::1]:8640", True),
        ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1:80", False),
        ("127.0.0.1", "evil.example:8640", False),
        ("127.0.0.1", "127.0.0.1.evil.example:8640", False),
        ("127.0.0.1", "10.0.0.1:8640", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "10.0.0.1:8640", True),
        ("0.0.0.0", "[fe80::1]:8640", True),
        ("0.0.0.0", "evil.example:8640", False),
        ("127.0.0.1", "proxy.example", True),
        ("127.0.0.1", "proxy.example:8640", True),
    ],
)
def test_hosts(host: str, header: str, ours: bool) -> None:
    assert Hosts(host, 8640, ["Proxy.example"]).is_ours(header) is ours


def test_what_loopback_is() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "example.org")))


def test_a_token_file_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = token_of(str(path))
    assert len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_of(str(path)) == token
    assert is_same(token, token)
    assert not is_same(token, "")
    assert not is_same(token, token[:-1] + "é")


@pytest.mark.parametrize("text", ["", "short", "x" * 201, "a b" * 20, "é" * 40])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BadTokenFile, match="has no token"):
        token_of(str(path))


def test_a_token_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token_of(str(path))
    path.chmod(0o604)
    with pytest.raises(BadTokenFile, match="chmod o="):
        token_of(str(path))


def test_a_token_file_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(BadTokenFile, match="cannot make"):
        token_of(str(tmp_path / "none" / "token"))
    with pytest.raises(BadTokenFile):
        token_of(str(tmp_path))
