"""bench/: it measures, leaves nothing behind, and its arithmetic is right. No figure is judged here:
how fast a machine is that also runs these tests, nobody can say."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import run
from bench.cases import CASES, in_microseconds
from bench.figures import Contender, Spread, Table, number
from bench.processes import Cores
from tests.support import wait_until

SCRIPT = Path(run.__file__)

# ---- Figures


def contender(rounds: list[float], **more: object) -> Contender:
    made = Contender("atmost", "us", **more)  # type: ignore[arg-type]
    for figure in rounds:
        made.add(figure)
    return made


def test_the_spread_is_the_middle_half() -> None:
    assert Spread.of([5, 1, 3, 2, 400]) == Spread(3, 2, 5)
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_a_ratio_is_taken_within_each_round() -> None:
    floor = contender([10, 20, 40])
    ours = contender([15, 30, 60], against=floor, at_most=1.5)
    assert ours.ratio == Spread(1.5, 1.5, 1.5)
    assert ours.met
    assert not contender([16, 32, 64], against=floor, at_most=1.5).met


def test_an_interrupted_round_is_no_ratio() -> None:
    floor = contender([10, 10])
    assert contender([20], against=floor).ratio == Spread(2, 2, 2)
    ours = contender([], against=floor, at_most=1)
    assert (ours.ratio, ours.met) == (None, None)


def test_without_a_floor_there_is_no_target_for_a_ratio() -> None:
    assert contender([3]).met is None
    assert contender([3], at_most=3).met


def test_a_table_shows_what_has_been_measured() -> None:
    table = Table("a case")
    floor = table.contender("C", "us")
    table.contender("atmost", "us", against=floor, at_most=1.5).add(30)
    table.contender("not yet", "us")
    table.contender("C", "us").add(10)
    table.note("a note")
    table.note("a note")
    text = "\n".join(table.lines())
    assert re.search(r"atmost +30\.0 us\n +3\.00 x C .*wanted: <= 1\.5 x: NO", text)
    assert "not yet" not in text
    assert text.count("a note") == 1
    assert table.record()["figures"][1]["ratio"] == {"to": "C", "median": 3, "low": 3, "high": 3}


@pytest.mark.parametrize(
    ("figure", "told"), [(0.0, "0.00"), (3.456, "3.46"), (34.56, "34.6"), (34567.8, "34,568")]
)
def test_numbers_are_told_shortly(figure: float, told: str) -> None:
    assert number(figure) == told


def test_a_hand_over_is_from_one_process_to_the_other() -> None:
    ours = [(1, 1000, 2000), (3, 7000, 8000), (4, 9000, 10_000)]
    theirs = [(2, 5000, 6000), (5, 0, 99_000)]  # the last one had to wait for `go`
    assert in_microseconds([ours, theirs]) == [3.0, 1.0]


def test_on_a_machine_with_one_core_everything_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert Cores.choose() == Cores(3, 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7})
    assert Cores.choose() == Cores(2, 5)
    assert Cores.choose().together() == Cores(5, 5)


# ---- The command


def bench(folder: Path, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environ,
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_over(folder: Path) -> list[str]:
    """Files in the folder, and processes that know of it."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder) in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:  # not ours, or gone by now
            continue
    return found


def test_an_unknown_case_lists_those_there_are(tmp_path: Path) -> None:
    with bench(tmp_path, "acquire", "speed") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert f"no such case: speed; there are: {', '.join(CASES)}" in err


def test_quick_measures_every_case(tmp_path: Path) -> None:
    temp, figures = tmp_path / "t", tmp_path / "figures.json"
    temp.mkdir()
    with bench(temp, "--quick", "--json", str(figures)) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    for case in CASES:
        assert re.search(rf"^{case}: \w", out, re.M), out
    ratio = r" x C ping-pong, 32 bytes +\(\d+\.\d\d \.\. \d+\.\d\d\)"
    assert len(re.findall(ratio, out)) == 5, out
    assert re.search(ratio + r"  wanted: <= 1\.5 x: (yes|NO)", out)
    assert re.search(r"10 in flight.* \d+\.\d us .*wanted: <= 15 us: (yes|NO)", out)
    record = json.loads(figures.read_text())
    assert set(record["cases"]) == set(CASES)
    assert all(figure["rounds"] for case in record["cases"].values() for figure in case["figures"])
    assert left_over(temp) == []


def test_without_a_compiler_it_says_so_and_goes_on(tmp_path: Path) -> None:
    with bench(tmp_path, "--quick", "acquire", CC="no-such-compiler") as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    assert "there is no C compiler (no-such-compiler), so no ping-pong and no ratio to it" in out
    assert re.search(r"atmost, blocking client +\d+\.\d us", out)
    assert "wanted" not in out


def test_an_interruption_prints_what_there_is(tmp_path: Path) -> None:
    with bench(tmp_path, "--quick", "one_core", "acquire") as process:
        assert process.stdout is not None
        seen = ""
        while "one_core:" not in seen:  # it has been measured, and the next one begins
            seen += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        seen += process.stdout.read()
    assert process.returncode == 128 + signal.SIGINT
    assert "atmost, blocking client" in seen
    assert "interrupted; the daemons and clients have been stopped" in seen
    wait_until(lambda: left_over(tmp_path) == [], "nothing is left")
