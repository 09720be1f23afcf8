"""dev.py bench: it measures, says who is not there, stops when it is told, and leaves nothing behind.
No figure is judged here: how fast a machine is that also runs these tests, nobody can say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import run
from bench.cases import CASES
from bench.contenders import FAMILIES, Field
from tests.support import wait_until

SCRIPT = Path(run.__file__)
NEED_NOTHING = [name for name in CASES if name != "redis_benchmark"]
PEERS = [name for name in Field().asked if name not in ("c", "uvloop")]


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


def in_memory() -> set[Path]:
    """What benches keep in memory now."""
    return set(Path("/dev/shm").glob("atmost-bench-*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["acquire", "speed"], f"no such case: speed; there are: {', '.join(CASES)}"),
        (["--against", "c,zookeeper"], f"zookeeper; there are: {', '.join(FAMILIES)}"),
        (["--compare", "/no/such.json"], "No such file or directory: '/no/such.json'"),
        (["--told", os.devnull], "Expecting value"),
        (["--json", "/no/such/folder/f"], "No such file or directory: '/no/such/folder/f'"),
    ],
)
def test_what_is_unknown_is_refused_with_what_there_is(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    with bench(tmp_path, *arguments) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert told in " ".join(err.split())
    assert left_over(tmp_path) == []


def test_quick_measures_every_case_that_needs_nothing(tmp_path: Path) -> None:
    temp, figures = tmp_path / "t", tmp_path / "figures.json"
    temp.mkdir()
    before = in_memory()
    arguments = [*NEED_NOTHING, "--quick", "--against", "c,uvloop", "--json", str(figures)]
    with bench(temp, *arguments) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    record = json.loads(figures.read_text())
    assert list(record["cases"]) == NEED_NOTHING
    for case in NEED_NOTHING:
        assert re.search(rf"^{case}: \w", out, re.M), out
        found = record["cases"][case]["figures"]
        assert found, case
        assert all(figure["rounds"] for figure in found), case
    ratios = (
        r"\d x C ping-pong, 32 bytes\n(.*\d x the speed of .*\n)* +wanted: <= 1\.4 x C .*: (yes|NO)"
    )
    assert re.search(ratios, out)
    assert re.search(r"^Targets:\n  (met|NOT MET) +acquire: atmost, blocking client: ", out, re.M)
    assert left_over(temp) == []
    assert in_memory() <= before | in_memory_of_others(before)


def in_memory_of_others(before: set[Path]) -> set[Path]:
    """Made since then by a bench that still runs: another test's, or a person's."""
    found = set()
    for folder in in_memory() - before:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.fsencode(folder) in (process / "cmdline").read_bytes():
                    found.add(folder)
            except OSError:
                continue
    return found


@pytest.mark.parametrize("peer", [name for name in PEERS if Field([name]).has(name)])
def test_quick_measures_a_peer_that_is_there(tmp_path: Path, peer: str) -> None:
    cases = {"redis": ["acquire", "redis_benchmark", "tasks", "jobs"], "flock": ["command"]}
    cases |= {"limits": ["rate_limit"], "pyrate-limiter": ["rate_limit"], "sem": ["command"]}
    arguments = [*cases.get(peer, ["acquire", "hand_over"]), "--quick", "--against", peer]
    figures = tmp_path / "figures.json"
    temp = tmp_path / "t"
    temp.mkdir()
    with bench(temp, *arguments, "--json", str(figures)) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, ""), out
    record = json.loads(figures.read_text())
    assert set(FAMILIES[peer].packages) | set(FAMILIES[peer].programs) <= set(record["versions"])
    for table in record["cases"].values():
        assert [line for line in table["figures"] if line["role"] == "peer"], table
    assert left_over(temp) == []


def test_who_is_not_there_is_named_and_left_out(tmp_path: Path) -> None:
    arguments = ("acquire", "--quick", "--against", "c,redis")
    with bench(tmp_path, *arguments, CC="no-such-compiler", PATH="/nowhere") as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    assert "c is left out: there is no no-such-compiler; apt install gcc" in out
    assert re.search("redis is left out: there is .*no redis-server", out)
    assert re.search(r"atmost, blocking client +[\d.,]+ us", out)
    assert "wanted" not in out
    assert "No target was measured." in out


def test_a_server_that_does_not_start_ends_the_run(tmp_path: Path) -> None:
    temp, python = tmp_path / "t", tmp_path / "python"
    temp.mkdir()
    python.write_text("#!/bin/sh\ntest $1 = -c && echo 1.0 && exit\necho it breaks; exit 3\n")
    python.chmod(0o755)
    arguments = ("one_core", "jobs", "--quick", "--against", "c", "--prefect", str(python))
    with bench(temp, *arguments) as process:
        out, err = process.communicate()
    assert process.returncode == 1
    assert err == f"bench: {python} does not answer: it breaks\n\n"
    assert re.search(r"atmost, blocking client +\d", out)
    assert left_over(temp) == []


def test_the_readme_names_every_case_and_contender() -> None:
    text = (SCRIPT.parent / "README.md").read_text()
    for name in (*CASES, *FAMILIES):
        assert f"`{name}`" in text, name


def test_two_runs_are_compared_and_a_run_is_told(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    with bench(tmp_path, "rest", "--quick", "--json", str(old)) as process:
        process.communicate()
    with bench(tmp_path, "rest", "--quick", "--compare", str(old), "--json", str(new)) as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    assert re.search(r"\nrest\n(.*\n)*?  resident memory +\d\d\.\d +\d\d\.\d +\d\.\d\d x", out)
    with bench(tmp_path, "--told", str(new), "--publish") as process:
        process.communicate()
    assert process.returncode == 2  # a quick one
    with bench(tmp_path, "--told", str(new)) as process:
        out, _ = process.communicate()
    assert (process.returncode, out.partition("\n")[0]) == (0, "## How fast")
    assert "**resident memory**" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_prints_what_there_is(tmp_path: Path, number: signal.Signals) -> None:
    temp, figures = tmp_path / "t", tmp_path / "figures.json"
    temp.mkdir()
    with bench(temp, "--quick", "one_core", "acquire", "soak", "--json", str(figures)) as process:
        assert process.stdout is not None
        seen = ""
        while "one_core:" not in seen:  # it has been measured, and the next one begins
            seen += process.stdout.readline()
        process.send_signal(number)
        seen += process.stdout.read()
    assert process.returncode == 128 + signal.SIGINT
    assert "atmost, blocking client" in seen
    assert run.INTERRUPTED in seen
    assert "one_core" in json.loads(figures.read_text())["cases"]
    wait_until(lambda: left_over(temp) == [], "nothing is left")


def test_an_interrupted_soak_tells_what_it_saw(tmp_path: Path) -> None:
    with bench(tmp_path, "soak", "--seconds", "600") as process:
        wait_until(lambda: any("bench.clients\0churn" in line for line in left_over(tmp_path)))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert re.search(r"resident memory after 600 s +\d", out)
    wait_until(lambda: left_over(tmp_path) == [], "nothing is left")
