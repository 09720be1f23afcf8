"""What the daemon has counted, in Prometheus' text format (version 0.0.4). Pure.

Rule 1: names end in their unit, counters in _total; HELP and TYPE stand once, before their samples.
Rule 2: the number of series is bounded. Limits that nobody has declared (made by a template or by a
request) are told one by one as long as there are few, else summed, those of each template by themselves;
so are declared ones beyond the bound. The names of the sums are such that no limit can have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec.structs import replace

from atmost.wire import DaemonStatistics, LimitStatistics, Statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LIMITS_MAX = 1_000  # each is about 45 series
TEMPLATES_MAX = 100  # so many have a sum of their own; the others one for all together
UNDECLARED = ("template", "implicit")
REST = "others"

Value = float | int | bool
_Of = Callable[[LimitStatistics], Value]

_GAUGES: list[tuple[str, str, _Of]] = [
    ("limit_slots", "Slots that can be occupied at the same time.", lambda of: of.limit),
    ("limit_active", "Whether the limit is enforced.", lambda of: of.active),
    ("held_slots", "Slots held now.", lambda of: of.held),
    ("spent_slots", "Slots spent now, with the fraction that is left.", lambda of: of.spent),
    ("waiting_requests", "Requests in line now.", lambda of: of.waiting),
    (
        "oldest_wait_seconds",
        "For how long the first in line waits; 0 if nobody does.",
        lambda of: of.oldest_wait_seconds,
    ),
]
_COUNTERS: list[tuple[str, str, _Of]] = [
    ("grants_total", "Requests that got their slots.", lambda of: of.grants),
    ("releases_total", "Holders that gave their slots back.", lambda of: of.releases),
    ("timeouts_total", "Requests whose time was up while they waited.", lambda of: of.timeouts),
    ("cancels_total", "Requests that left the line by themselves.", lambda of: of.cancels),
    (
        "holder_deaths_total",
        "Holders whose process ended without a release.",
        lambda of: of.deaths,
    ),
]
_DAEMON: list[tuple[str, str, str, Callable[[DaemonStatistics], Value]]] = [
    ("uptime_seconds", "gauge", "Since the daemon started.", lambda of: of.uptime_seconds),
    (
        "starts_total",
        "counter",
        "Daemons here since the host started, this one included.",
        lambda of: of.starts,
    ),
    ("connections", "gauge", "Connections now.", lambda of: of.connections),
    ("sessions", "gauge", "Clients now.", lambda of: of.sessions),
    ("watchers", "gauge", "Streams of events now.", lambda of: of.watchers),
    (
        "events_missed_total",
        "counter",
        "Events that watchers were too slow for.",
        lambda of: of.events_missed,
    ),
    (
        "loop_delay_max_seconds",
        "gauge",
        "How late the event loop was at worst, since this was last asked.",
        lambda of: of.loop_delay_seconds_max,
    ),
    (
        "loop_delay_mean_seconds",
        "gauge",
        "How late the event loop was on average, since this was last asked.",
        lambda of: of.loop_delay_seconds_mean,
    ),
    ("journal_bytes", "gauge", "Size of the journal.", lambda of: of.journal_bytes),
    (
        "journal_records_total",
        "counter",
        "Records written to the journal.",
        lambda of: of.journal_records,
    ),
    (
        "journal_replacements_total",
        "counter",
        "Times the journal was replaced by a checkpoint.",
        lambda of: of.journal_replacements,
    ),
    ("state_age_seconds", "gauge", "Since the state was saved.", lambda of: of.state_age_seconds),
    ("state_saves_total", "counter", "Times the state was saved.", lambda of: of.state_saves),
]


def render(statistics: Statistics, limits_max: int = LIMITS_MAX) -> str:
    """All that was counted, as a page for Prometheus."""
    limits = bounded(statistics.limits, limits_max)
    return "".join(_lines(statistics, limits))


def unreachable() -> str:
    """The page when there is no daemon to ask."""
    return "".join([*_head("atmost_up", "gauge", _UP), "atmost_up 0\n"])


def bounded(limits: Sequence[LimitStatistics], limits_max: int) -> list[LimitStatistics]:
    """The limits to tell one by one, and sums of the others."""
    if len(limits) <= limits_max:
        return list(limits)
    told: list[LimitStatistics] = []
    sums: dict[str, LimitStatistics] = {}
    patterns = sorted({limit.template for limit in limits if limit.template})
    own = {pattern: f"template {pattern}" for pattern in patterns[:TEMPLATES_MAX]}
    for limit in limits:
        origin = limit.origin or ("implicit" if limit.implicit else "")
        kind = own.get(limit.template, origin) if origin in UNDECLARED else REST
        if kind == REST and len(told) < limits_max:
            told.append(limit)
        else:
            known = sums.get(kind)
            sums[kind] = replace(limit, name=f"<{kind}>") if known is None else _sum(known, limit)
    return [*told, *sums.values()]


def _sum(one: LimitStatistics, other: LimitStatistics) -> LimitStatistics:
    reasons = one.refusals.keys() | other.refusals.keys()
    return replace(
        one,
        limit=one.limit + other.limit,
        active=one.active or other.active,
        held=one.held + other.held,
        spent=one.spent + other.spent,
        waiting=one.waiting + other.waiting,
        oldest_wait_seconds=max(one.oldest_wait_seconds, other.oldest_wait_seconds),
        grants=one.grants + other.grants,
        releases=one.releases + other.releases,
        refusals={
            code: one.refusals.get(code, 0) + other.refusals.get(code, 0) for code in reasons
        },
        timeouts=one.timeouts + other.timeouts,
        cancels=one.cancels + other.cancels,
        deaths=one.deaths + other.deaths,
        wait_seconds=one.wait_seconds + other.wait_seconds,
        wait_buckets=_added(one.wait_buckets, other.wait_buckets),
        hold_seconds=one.hold_seconds + other.hold_seconds,
        hold_buckets=_added(one.hold_buckets, other.hold_buckets),
        mean_hold_seconds=None,
    )


def _added(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


_UP = "Whether the daemon answers."


def _lines(statistics: Statistics, limits: list[LimitStatistics]) -> Iterator[str]:
    yield from _head("atmost_up", "gauge", _UP)
    yield "atmost_up 1\n"
    for name, kind, about, of_daemon in _DAEMON:
        yield from _head(f"atmost_daemon_{name}", kind, about)
        yield f"atmost_daemon_{name} {_number(of_daemon(statistics.daemon))}\n"
    if not limits:
        return
    for kind, metrics in (("gauge", _GAUGES), ("counter", _COUNTERS)):
        for name, about, of_limit in metrics:
            yield from _head(f"atmost_{name}", kind, about)
            for limit in limits:
                yield f"atmost_{name}{_labels(limit=limit.name)} {_number(of_limit(limit))}\n"
    if any(limit.refusals for limit in limits):
        yield from _head("atmost_refusals_total", "counter", "Requests refused, by the error.")
        for limit in limits:
            for code, count in sorted(limit.refusals.items()):
                yield f"atmost_refusals_total{_labels(limit=limit.name, reason=code)} {count}\n"
    bounds = statistics.bucket_seconds
    yield from _head("atmost_wait_seconds", "histogram", "How long granted requests waited.")
    for limit in limits:
        yield from _histogram(
            "atmost_wait_seconds", limit.name, bounds, limit.wait_buckets, limit.wait_seconds
        )
    yield from _head("atmost_hold_seconds", "histogram", "How long holders kept their slots.")
    for limit in limits:
        yield from _histogram(
            "atmost_hold_seconds", limit.name, bounds, limit.hold_buckets, limit.hold_seconds
        )


def _histogram(
    name: str, limit: str, bounds: Iterable[float], counts: Sequence[int], seconds: float
) -> Iterator[str]:
    total = 0
    for bound, count in zip((*map(_number, bounds), "+Inf"), counts, strict=True):
        total += count
        yield f"{name}_bucket{_labels(limit=limit, le=bound)} {total}\n"
    yield f"{name}_sum{_labels(limit=limit)} {_number(seconds)}\n"
    yield f"{name}_count{_labels(limit=limit)} {total}\n"


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}\n"
    yield f"# TYPE {name} {kind}\n"


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: Value) -> str:
    return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(int(value))
