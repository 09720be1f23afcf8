"""The page for Prometheus: against a strict reader of its format, and promtool where there is one."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from atmost import prometheus, wire
from atmost.errors import NeverFits
from tests.support import RunningDaemon
from tests.support_cli import client_of, ran
from tests.support_tools import needs

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
VALUE = r"(?:[^\\\"\n]|\\\\|\\\"|\\n)*"
SAMPLE = re.compile(rf'({NAME})(?:\{{({NAME}="{VALUE}"(?:,{NAME}="{VALUE}")*)\}})? (\S+)')

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(page: str) -> Samples:
    """Every sample by name and labels; asserts what the format demands."""
    assert page.endswith("\n")
    samples: Samples = {}
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    family = ""
    for line in page.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            assert family not in helped, "a family is told once, in one piece"
            helped.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family
            kinds[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            name, labels, value = found.groups()
            kind = kinds[family]
            if kind == "histogram":
                assert name in (f"{family}_bucket", f"{family}_sum", f"{family}_count")
            else:
                assert name == family
                assert (kind == "counter") == name.endswith("_total")
            pairs = tuple(re.findall(rf'({NAME})="({VALUE})"', labels or ""))
            assert (name, pairs) not in samples, "no series twice"
            samples[name, pairs] = float(value)
    check_histograms(samples, [name for name, kind in kinds.items() if kind == "histogram"])
    return samples


def check_histograms(samples: Samples, names: list[str]) -> None:
    for name in names:
        limits = {pairs[0][1] for (found, pairs) in samples if found == f"{name}_count"}
        for limit in limits:
            buckets = [
                (float(dict(pairs)["le"]), value)
                for (found, pairs), value in samples.items()
                if found == f"{name}_bucket" and dict(pairs)["limit"] == limit
            ]
            assert buckets == sorted(buckets)
            assert [count for _, count in buckets] == sorted(count for _, count in buckets)
            assert buckets[-1] == (float("inf"), samples[f"{name}_count", (("limit", limit),)])


def of(limit: str, samples: Samples, name: str) -> float:
    return samples[f"atmost_{name}", (("limit", limit),)]


def test_the_page_of_a_real_daemon(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    name = 'na "me\\'
    with daemon.client() as client:
        client.create_limit(name, 3)
        client.create_limit("rate", 5, slot_decay_per_second=0.001)
        client.rate_limit("rate", 2)
        with client.concurrency(name, 2), pytest.raises(TimeoutError):
            client.acquire(name, 2, timeout_seconds=0)
        with pytest.raises(NeverFits):
            client.acquire(name, 4)
        grant = client.acquire(name)
        page = client_of(daemon, capsys)("metrics")
        grant.release()
    assert page.code == 0
    samples = parsed(page.out)
    escaped = 'na \\"me\\\\'
    assert samples["atmost_up", ()] == 1
    assert of(escaped, samples, "limit_slots") == 3
    assert of(escaped, samples, "held_slots") == 1
    assert of(escaped, samples, "grants_total") == 2
    assert of(escaped, samples, "releases_total") == 1
    assert of(escaped, samples, "timeouts_total") == 1
    assert of(escaped, samples, "hold_seconds_count") == 1
    assert of("rate", samples, "grants_total") == 1
    assert 1.5 < of("rate", samples, "spent_slots") <= 2
    refused = (("limit", escaped), ("reason", "never_fits"))
    assert samples["atmost_refusals_total", refused] == 1
    assert samples["atmost_daemon_starts_total", ()] == 1
    assert samples["atmost_daemon_sessions", ()] >= 2
    assert samples["atmost_daemon_journal_bytes", ()] > 0


def test_promtool_has_nothing_against_it(daemon: RunningDaemon) -> None:
    needs("promtool")
    with daemon.client() as client:
        client.create_limit("db", 3)
        client.acquire("db").release()
    page = ran(daemon, "metrics").out
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page, text=True, capture_output=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_textfile_is_replaced_in_one_step(daemon: RunningDaemon, tmp_path: Path) -> None:
    path = tmp_path / "atmost.prom"
    path.write_text("old")
    inode = path.stat().st_ino
    before = set(os.listdir(tmp_path))
    assert ran(daemon, "metrics", "--textfile", str(path), umask=0o077).code == 0
    assert parsed(path.read_text())["atmost_up", ()] == 1
    assert path.stat().st_ino != inode
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert set(os.listdir(tmp_path)) == before


def test_without_a_daemon_the_textfile_says_so(daemon: RunningDaemon, tmp_path: Path) -> None:
    daemon.stop()
    path = tmp_path / "atmost.prom"
    ended = ran(daemon, "metrics", "--textfile", str(path))
    assert ended.code == 1
    assert "no atmost daemon" in ended.err
    assert parsed(path.read_text()) == {("atmost_up", ()): 0}


def test_a_textfile_that_cannot_be_written_is_named(daemon: RunningDaemon, tmp_path: Path) -> None:
    ended = ran(daemon, "metrics", "--textfile", str(tmp_path / "none" / "a.prom"))
    assert ended.code == 1
    assert str(tmp_path / "none" / "a.prom") in ended.err


DAEMON = wire.DaemonStatistics(1.5, 1, 1, 1, 0, 0, 0.0, 0.0, 1, 1, 1, 0.5, 1)


def limit(name: str, origin: str = "hand") -> wire.LimitStatistics:
    return wire.LimitStatistics(
        *(name, 2, True, False, 1, 0.5, 1, 3.5, 5, 4, {"never_fits": 1}, 1, 1, 1),
        *(1.5, [3, 2], 2.5, [3, 1], 0.5),
        origin,
    )


def test_the_number_of_series_is_bounded() -> None:
    limits = [limit(f"hand {n}") for n in range(10)] + [
        limit(f"t{n}", "template") for n in range(50)
    ]
    limits.append(limit("i", "implicit"))
    told = prometheus.bounded(limits, 8)
    assert [one.name for one in told][:8] == [f"hand {n}" for n in range(8)]
    sums = {one.name: one for one in told[8:]}
    assert {name: one.grants for name, one in sums.items()} == {
        "<others>": 10,
        "<template>": 250,
        "<implicit>": 5,
    }
    assert sums["<template>"].wait_buckets == [150, 100]
    assert sums["<template>"].refusals == {"never_fits": 50}
    assert sums["<template>"].oldest_wait_seconds == 3.5
    parsed(prometheus.render(wire.Statistics(1, limits, False, [0.5], DAEMON), 8))
    assert prometheus.bounded(limits, 100) == limits


# What stands on these metrics

DOCS = Path(__file__).parent.parent / "docs"


def metrics_told() -> set[str]:
    """Every name that the page could have."""
    page = prometheus.render(wire.Statistics(1, [limit("a")], False, [0.5], DAEMON))
    return {name for name, _ in parsed(page)}


def metrics_used(text: str) -> set[str]:
    return set(re.findall(r"\batmost_[a-z_]+", text))


def test_the_alerts_and_the_dashboard_use_what_there_is() -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = (DOCS / "alerts.yml").read_text()
    told = metrics_told()
    assert metrics_used("\n".join(asked)) <= told
    rules = re.findall(r"^ +expr: (.*)$", alerts, re.MULTILINE)
    assert len(rules) == alerts.count("- alert: ")
    assert metrics_used("\n".join(rules)) <= told
    for text in (*rules, *asked):
        for opening, closing in ("()", "{}", "[]"):
            assert text.count(opening) == text.count(closing), text


def test_promtool_takes_the_alerts() -> None:
    needs("promtool")
    subprocess.run(["promtool", "check", "rules", DOCS / "alerts.yml"], check=True)
