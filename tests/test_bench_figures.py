"""The bench's arithmetic, and how it is told: pure functions. No figure is judged here."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from math import ceil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.bound import Calls, too_many
from bench.cases.line import in_microseconds
from bench.cases.rates import percent_of_nominal, percent_of_windows
from bench.clients.worker import PAUSED
from bench.compare import compared, verdict
from bench.contenders import FAMILIES, Field
from bench.figures import (
    Contender,
    Role,
    Spread,
    Table,
    Want,
    at_least,
    at_most,
    faster,
    number,
)
from bench.host import machine
from bench.plot import length, plots
from bench.processes import Cores
from bench.published import disagreements, publish
from bench.told import BEGIN, END, joined, markdown, page, section, targets, with_section

SECOND = 1_000_000_000


def contender(rounds: list[float], *wants: Want, unit: str = "us") -> Contender:
    made = Contender("atmost", unit, Role.OURS, wants)
    for figure in rounds:
        made.add(figure)
    return made


def test_the_spread_is_the_middle_half() -> None:
    assert Spread.of([5, 1, 3, 2, 400]) == Spread(3, 2, 5)
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_a_ratio_is_taken_within_each_round() -> None:
    floor = contender([10, 20, 40])
    ours = contender([15, 30, 60])
    found = ours.compared(floor, speed=False)
    assert found is not None
    assert found.spread == Spread(1.5, 1.5, 1.5)
    assert at_most(1.5, floor).met(ours)
    assert not at_most(1.5, floor).met(contender([16, 32, 64]))


def test_speed_is_told_of_times_and_of_rates() -> None:
    assert faster(3, contender([30])).met(contender([10]))
    assert not faster(3, contender([29])).met(contender([10]))
    rate = contender([30], unit="a second")
    assert faster(3, contender([10], unit="a second")).met(rate)
    assert at_least(30).met(rate)
    assert not at_least(31).met(rate)


def test_an_interrupted_round_is_no_ratio() -> None:
    floor = contender([10, 10])
    assert at_most(2, floor).figure(contender([20])) == 2
    assert at_most(2, floor).met(contender([])) is None
    assert at_most(2).met(contender([])) is None


def some_table() -> Table:
    table = Table("a case")
    floor = table.line("C", "us", Role.FLOOR)
    slow = table.line("slow peer", "us", Role.PEER)
    quick = table.line("quick peer", "us", Role.PEER)
    elsewhere = table.line("peer of another scene", "us", Role.PEER, scene="other")
    ours = table.line("atmost", "us", Role.OURS, at_most(1.5, floor), faster(3, slow), None)
    table.line("not yet", "us")
    for line, figure in ((floor, 10), (slow, 120), (quick, 60), (elsewhere, 1), (ours, 30)):
        line.add(figure)
    table.note("a note")
    table.note("a note")
    return table


def some_record() -> dict[str, Any]:
    machine = {"processor": "P", "cores": 2, "kernel": "6.1", "python": "3.11"}
    return {
        "begun": "2030-01-02T03:04:05Z",
        "quick": False,
        "machine": machine,
        "versions": {"redis": "5.0"},
        "cases": {"one": some_table().record()},
    }


def test_a_table_shows_what_has_been_measured() -> None:
    text = "\n".join(some_table().lines())
    assert re.search(r"atmost +30\.0 us\n +3\.00 x C\n +2\.00 x the speed of quick peer\n", text)
    assert "4.00 x the speed of slow peer" in text
    assert "wanted: <= 1.5 x C: NO" in text
    assert "wanted: >= 3 x the speed of slow peer: yes" in text
    assert "not yet" not in text
    assert text.count("a note") == 1


def test_a_contender_that_starts_again_goes_on_with_its_line() -> None:
    table = some_table()
    assert table.line("atmost", "us").rounds == [30]


def test_a_record_says_what_was_wanted() -> None:
    ours = json.loads(json.dumps(some_table().record()))["figures"][-1]
    assert ours["wanted"][0] == {"what": "<= 1.5 x C", "figure": 3.0, "met": False}
    assert ours["compared"][0] == {"to": "C", "speed": False, "median": 3, "low": 3, "high": 3}


def test_the_targets_of_a_run() -> None:
    assert targets(some_record())[1:] == [
        "  NOT MET one: atmost: <= 1.5 x C; it is 3.00",
        "  met     one: atmost: >= 3 x the speed of slow peer; it is 4.00",
    ]
    assert targets({"cases": {}}) == ["No target was measured."]


@pytest.mark.parametrize(
    ("figure", "told"), [(0.0, "0.00"), (3.456, "3.46"), (34.56, "34.6"), (34567.8, "34,568")]
)
def test_numbers_are_told_shortly(figure: float, told: str) -> None:
    assert number(figure) == told


def test_a_hand_over_is_from_one_process_to_another_that_waited() -> None:
    ours = [(0, 1000, 2000), (6000, 7000, 8000), (7500, 9000, 10_000)]
    theirs = [(500, 5000, 6000), (9500, 12_000, 13_000)]
    assert in_microseconds([ours, theirs]) == [3.0, 2.0]


def test_who_was_held_up_and_who_came_later_are_no_hand_over() -> None:
    held_up = [(PAUSED, 3000, 4000)]
    later = [(4001, 5000, 6000)]
    assert in_microseconds([[(0, 1000, 2000)], held_up, later]) == []


def test_a_rate_is_judged_from_the_first_asking_to_the_last_answer() -> None:
    exact = [(0, number * SECOND) for number in range(5)]  # limit 1, 1 a second
    assert percent_of_nominal(exact, limit=1, a_second=1) == 100
    assert too_many(exact, limit=1, a_second=1) == 0
    assert too_many([*exact, (0, 3 * SECOND)], limit=1, a_second=1) == 1
    late = [(0, 2 * number * SECOND) for number in range(5)]
    assert percent_of_nominal(late, limit=1, a_second=1) == pytest.approx(100 * 5 / 9)
    assert (percent_of_nominal([], 1, 1), too_many([], 1, 1)) == (0, 0)


def test_a_burst_in_the_middle_is_seen() -> None:
    """Though the whole is below limit + rate * T."""
    quiet = [(number * SECOND, number * SECOND) for number in (0, 10, 20)]
    assert too_many(quiet, limit=1, a_second=1) == 0
    assert too_many([*quiet, *[(10 * SECOND, 11 * SECOND)] * 3], limit=1, a_second=1) == 2


@pytest.mark.parametrize("seed", range(20))
def test_the_worst_interval_is_that_of_all_intervals(seed: int) -> None:
    chance = random.Random(seed)
    begins = [chance.randrange(5 * SECOND) for _ in range(30)]
    calls = [(begin, begin + chance.randrange(SECOND)) for begin in begins]

    def above(begin: int, end: int) -> float:
        inside = sum(begin <= asked and there <= end for asked, there in calls)
        return inside - 2 - 3 * (end - begin) / SECOND

    worst = max(above(begin, end) for begin, _ in calls for _, end in calls if begin <= end)
    assert too_many(calls, limit=2, a_second=3) == ceil(max(0, worst))


def test_windows_are_judged_from_second_to_second() -> None:
    """Each lets 100 through at its begin; the first and the last of them are not counted."""
    calls: Calls = [(0, second * SECOND) for second in range(4) for _ in range(100)]
    assert percent_of_windows(calls, 100, 2) == 100
    assert percent_of_windows(calls[:150], 100, 2) == 25
    assert percent_of_windows([], 100, 2) == 0


# ---- Runs beside each other, and as README tells them


def spread(low: float, median: float, high: float, unit: str = "us") -> dict[str, Any]:
    return {"contender": "a", "unit": unit, "low": low, "median": median, "high": high}


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        (spread(9, 10, 11), spread(19, 20, 21), "WORSE"),
        (spread(19, 20, 21), spread(9, 10, 11), "better"),
        (spread(9, 10, 11, "a second"), spread(19, 20, 21, "a second"), "better"),
        (spread(9, 10, 15), spread(14, 20, 21), "="),
        (spread(10, 10, 10), spread(10.2, 10.2, 10.2), "="),
    ],
)
def test_a_difference_is_told_if_the_spreads_are_apart(
    was: dict[str, Any], now: dict[str, Any], told: str
) -> None:
    assert verdict(was, now) == told


def test_two_runs_are_compared_line_by_line() -> None:
    old, new = some_record(), some_record()
    new["cases"]["two"] = old["cases"]["one"]
    new["machine"] = {**old["machine"], "processor": "Q"}
    text = "\n".join(compared(old, new))
    assert "Another machine" in text
    assert re.search(r"atmost +30\.0 +30\.0 +1\.00 x  =", text)
    assert "two" not in text


def test_markdown_has_every_line_and_where_we_lose() -> None:
    record = some_record()
    line = record["cases"]["one"]["figures"][-1]
    line["compared"][1]["median"] = 0.5
    text = markdown(record)
    assert "| one | C | 10.0 us |" in text
    assert "|  | **atmost** | 30.0 us | 3.00 x | 0.50 x | <= 1.5 x C<br>>= 3 x" in text
    assert "- `one`: atmost has 0.50 x the speed of quick peer" in text
    assert "- `one`: atmost: wanted <= 1.5 x C, it is 3.00" in text
    assert "Of 2 targets 1 are met" in text
    short = section(record, ["one", "acquire"])
    assert "| one | C |" not in short
    assert "| one | **atmost** | 30.0 us | 3.00 x | 0.50 x | <= 1.5 x C<br>>= 3 x" in short
    assert "![acquire](bench/results/acquire.svg)" in short
    assert "![one](one.svg)" in page(record, ["one"])


def test_the_section_is_put_in_and_replaced() -> None:
    readme = "# a\n\nwords\n\n## Develop\n\nmore\n"
    once = with_section(readme, "## How fast\n\n1\n")
    assert once == f"# a\n\nwords\n\n{BEGIN}\n## How fast\n\n1\n{END}\n\n## Develop\n\nmore\n"
    assert with_section(once, "## How fast\n\n1\n") == once
    assert with_section(once, "2\n") == once.replace("## How fast\n\n1\n", "2\n")
    assert with_section("# a\n", "2\n") == f"# a\n\n{BEGIN}\n2\n{END}\n"


def test_a_plot_is_well_formed_and_reads_on_black_and_on_white() -> None:
    record = some_record()
    record["cases"]["one"]["figures"][1]["contender"] = "a <peer> & more"
    (text,) = plots(record).values()
    root = ElementTree.fromstring(text)
    assert len([bar for bar in root.findall("{*}rect") if bar.get("height") == "15"]) == 5
    assert "a <peer> & more" in [
        found.text for found in root.iter("{http://www.w3.org/2000/svg}text")
    ]
    assert "prefers-color-scheme: dark" in text


def test_a_case_with_one_line_has_no_plot() -> None:
    record = some_record()
    del record["cases"]["one"]["figures"][:-1]
    assert plots(record) == {}


def test_bars_are_in_proportion_or_in_tens() -> None:
    whole = length(10, 1, 10, tens=False)
    assert length(5, 1, 10, tens=False) == pytest.approx(whole / 2)
    steps = [length(figure, 1, 1000, tens=True) for figure in (1, 10, 100, 1000)]
    assert steps[-1] == pytest.approx(whole)
    assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0])


# ---- Who takes part


def test_who_is_not_there_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    field = Field(["redis", "flock"])
    assert not field.has("redis")
    assert field.has("atmost")
    told = "\n".join(field.told())
    assert "flock is left out: there is no flock; apt install util-linux" in told
    assert re.search(r"redis is left out: .*no redis-server.*apt install redis-server", told)
    assert set(field.versions()) == {"msgspec"}


def test_prefect_takes_part_only_if_it_is_named() -> None:
    assert "prefect" not in Field().asked
    assert set(Field().asked) | {"prefect"} == set(FAMILIES)


def test_on_a_machine_with_one_core_everything_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert Cores.choose() == Cores(3, 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7})
    assert Cores.choose() == Cores(2, 5)
    assert Cores.choose().together() == Cores(5, 5)


def test_runs_are_joined() -> None:
    soak = some_record()
    soak["cases"] = {"soak": soak["cases"]["one"]}
    assert list(joined([some_record(), soak])["cases"]) == ["one", "soak"]
    soak["machine"] = {**soak["machine"], "processor": "Q"}
    with pytest.raises(ValueError, match="different machines"):
        joined([some_record(), soak])


# ---- What is kept in the repository

ROOT = Path(__file__).parent.parent


def test_readme_and_plots_are_those_of_the_newest_results() -> None:
    """`dev.py bench --told FILE.json --publish` makes them so. Also while there are none."""
    assert disagreements(ROOT) == []


def test_a_published_run_agrees_until_somebody_changes_a_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# a\n\n## Develop\n")
    assert disagreements(tmp_path) == []
    record = some_record()
    record["cases"]["acquire"] = record["cases"]["one"]
    for begun in ("2030-01-02T03:04:05Z", "2030-02-02T03:04:05Z"):
        publish({**record, "begun": begun}, tmp_path)
        assert disagreements(tmp_path) == []
    readme, plot = tmp_path / "README.md", tmp_path / "bench" / "results" / "one.svg"
    readme.write_text(readme.read_text().replace("30.0 us", "29.0 us"))
    assert disagreements(tmp_path) == ["README.md"]
    plot.write_text("<svg/>")
    plot.with_name("old.svg").write_text("<svg/>")
    assert disagreements(tmp_path) == [
        "README.md",
        *(f"bench/results/{name}.svg" for name in ("old", "one")),
    ]
    publish(record, tmp_path)  # an older one: what is told is the newest
    assert "README.md" in disagreements(tmp_path)


def test_a_section_without_results_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    assert disagreements(tmp_path) == ["README.md"]


def test_what_is_published_names_no_place_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# a\n")
    record = some_record() | {"machine": machine(), "left_out": Field(["prefect"]).missing}
    publish(record, tmp_path)
    for path in tmp_path.rglob("*.*"):
        text = path.read_text()
        for place in (str(Path.home()), str(ROOT), sys.prefix, os.uname().nodename):
            assert place not in text, (path, place)


def test_kept_results_are_records_of_whole_runs() -> None:
    """Whatever is kept can be told, compared and drawn."""
    for path in (ROOT / "bench" / "results").glob("*.json"):
        record = json.loads(path.read_text())
        assert not record["quick"], path
        assert record["versions"], path
        assert path.name == f"{record['begun'][:10]}.json"
        assert markdown(record).startswith("## How fast"), path
        assert plots(record), path
