"""demo/: the judge sees what is wrong, and the demo itself keeps what it promises."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo import demo, judge
from demo.judge import Mark, Stay
from demo.screen import GREEN, WIDTH, Screen, bar
from demo.verdict import Promised, Verdict, verdict
from tests.support import wait_until

SCRIPT = Path(demo.__file__)
MS = 1_000_000  # nanoseconds


def stay(
    job: str,
    entered: int | None,
    ended: int | None,
    *,
    asked: int = 0,
    in_line: int | None = None,
    killed: bool = False,
) -> Stay:
    return Stay(job, asked, in_line, entered, ended, killed)


# ---- Marks


def test_marks_become_stays() -> None:
    marks = [
        Mark(7, "killed", "b"),
        Mark(1, "asked", "a"),
        Mark(3, "inside", "a"),
        Mark(2, "asked", "b"),
        Mark(4, "in_line", "b"),
        Mark(6, "inside", "b"),
        Mark(5, "left", "a"),
    ]
    assert judge.stays(marks) == [
        Stay("a", 1, None, 3, 5, False),
        Stay("b", 2, 4, 6, 7, True),
    ]


def test_a_job_that_left_before_its_process_was_killed_was_not_killed() -> None:
    marks = [Mark(1, "asked", "a"), Mark(2, "inside", "a"), Mark(3, "left", "a")]
    assert not judge.stays([*marks, Mark(4, "killed", "a")])[0].killed


# ---- At once


def test_four_at_once_are_found() -> None:
    jobs = [stay("a", 0, 10), stay("b", 1, 5), stay("c", 2, 9), stay("d", 4, 6), stay("e", 5, 8)]
    assert judge.most_inside(jobs) == 4


def test_who_enters_as_another_leaves_is_not_at_once_with_it() -> None:
    assert judge.most_inside([stay("a", 0, 5), stay("b", 5, 9), stay("c", 9, 12)]) == 1


def test_a_job_that_never_left_is_still_inside() -> None:
    assert judge.most_inside([stay("a", 0, None), stay("b", 50, 60), stay("c", None, 70)]) == 2


# ---- Order


def test_an_inverted_order_is_found() -> None:
    jobs = [
        stay("holds", 0, 10),
        stay("waited", 20, 30, asked=1, in_line=2),
        stay("came", 10, 20, asked=3, in_line=4),
    ]
    assert judge.order(jobs, limit=1) == judge.Order(1, 0, [("waited", "came")])


def test_order_kept_is_kept() -> None:
    jobs = [
        stay("holds", 0, 10),
        stay("first", 10, 20, asked=1, in_line=2),
        stay("second", 20, 30, asked=3, in_line=4),
    ]
    assert judge.order(jobs, limit=1) == judge.Order(1, 0, [])


def test_two_that_came_together_are_no_pair() -> None:
    jobs = [stay("a", 20, 30, asked=1, in_line=4), stay("b", 10, 20, asked=3, in_line=5)]
    assert judge.order(jobs, limit=1).pairs == 0


def test_with_a_slot_to_spare_the_first_may_only_have_woken_later() -> None:
    jobs = [
        stay("waited", 12, 30, asked=1, in_line=2),
        stay("came", 10, 30, asked=3, in_line=4),
    ]
    assert judge.order(jobs, limit=2) == judge.Order(1, 1, [])
    assert judge.order(jobs, limit=1).passed == [("waited", "came")]


def test_one_that_is_still_waiting_at_the_end_was_passed() -> None:
    jobs = [stay("waits", None, None, asked=1, in_line=2), stay("came", 10, 20, asked=3)]
    assert judge.order(jobs, limit=1).passed == [("waits", "came")]


def test_one_that_was_killed_in_line_is_passed_by_nobody() -> None:
    jobs = [
        stay("died", None, 9, asked=1, in_line=2, killed=True),
        stay("came", 10, 20, asked=3, in_line=4),
    ]
    assert judge.order(jobs, limit=1) == judge.Order(0, 0, [])


# ---- Rate


def calls(*at_ms: float) -> list[Stay]:
    """Calls that come back at once."""
    return [stay(str(at), int(at * MS), None, asked=int(at * MS)) for at in at_ms]


def test_a_burst_and_then_the_rate_is_kept() -> None:
    rate = judge.rate(calls(0, 0, 0, 100, 200, 300, 400), limit=3, per_second=10)
    assert rate.kept
    assert (rate.calls, rate.per_second) == (7, 10.0)


def test_one_call_too_many_is_found_wherever_it_is() -> None:
    late = calls(0, 0, 0, 1000, 1100, 1200, 1300, 1400)
    assert judge.rate(late, limit=3, per_second=10).kept
    overrun = judge.rate([*late, *calls(5000, 5000, 5000, 5000)], limit=3, per_second=10)
    assert not overrun.kept
    assert (overrun.fullest, overrun.allowed) == (4, 3.0)


def test_a_rate_a_little_too_high_is_found_in_time() -> None:
    assert not judge.rate(calls(*(90 * n for n in range(60))), limit=3, per_second=10).kept


def test_a_call_that_waited_long_is_not_held_against_the_moment_it_came_back() -> None:
    waited = [stay(f"w{n}", 1000 * MS, None, asked=0) for n in range(4)]
    assert judge.rate(waited, limit=3, per_second=10).kept


# ---- A slot used again


def test_the_time_until_a_slot_is_used_again() -> None:
    jobs = [stay("dies", 0, 10, killed=True), stay("holds", 0, 90), stay("next", 14, 20)]
    assert judge.reuses(jobs) == [judge.Reuse("dies", "next", 4)]


@pytest.mark.parametrize(
    "others",
    [
        [],
        [stay("leaves", 0, 12), stay("next", 14, 20)],  # whose slot was it?
        [stay("was there before", 9, 20)],
    ],
)
def test_no_guess_at_a_slot_that_may_be_anothers(others: list[Stay]) -> None:
    assert judge.reuses([stay("dies", 0, 10, killed=True), *others]) == []


# ---- A daemon that was killed


def test_what_the_jobs_noticed_of_a_dead_daemon() -> None:
    jobs = [
        stay("through", 0, 300 * MS),
        stay("killed then", 0, 120 * MS, killed=True),
        stay("before", 0, 90 * MS),
        stay("next", 260 * MS, 400 * MS),
    ]
    absences = [(100 * MS, 250 * MS), (500 * MS, 600 * MS)]
    assert judge.restarts(jobs, absences) == [
        judge.Restart(1, 0, 10 * MS),
        judge.Restart(0, 0, None),
    ]


def test_a_job_that_came_in_without_a_daemon_is_found() -> None:
    jobs = [stay("through", 0, 300 * MS), stay("slipped in", 200 * MS, 300 * MS)]
    assert judge.restarts(jobs, [(100 * MS, 250 * MS)])[0].entered_without == 1


# ---- The verdict

PROMISED = Promised(limit=1, jobs=2, burst=1, per_second=10.0, kills=1, restarts=1)
JOBS = [
    stay("one", 10 * MS, 20 * MS, asked=1),
    stay("dies", 20 * MS, 30 * MS, asked=2, in_line=3, killed=True),
    stay("two", 34 * MS, 40 * MS, asked=4, in_line=5),
]
CALLS = calls(0, 100, 200, 300)
ABSENCES = [(12 * MS, 13 * MS)]


def test_all_is_well() -> None:
    assert verdict(JOBS, CALLS, ABSENCES, PROMISED) == Verdict(
        [
            ("at once", "1 inside at the most, of 1 allowed; 2 jobs ran to their end"),
            ("order", "kept: first come, first served in 1 pairs"),
            (
                "daemon",
                "killed 1 times; 1 inside noticed nothing; next one in after 7 ms",
            ),
            ("rate", "10.0 calls a second of 10, never above 1 + 10 T (4 calls)"),
            ("kill -9", "slot in use again 4.0 ms after the kill"),
        ],
        [],
    )


@pytest.mark.parametrize(
    ("jobs", "calls", "violation"),
    [
        ([*JOBS, stay("x", 15 * MS, 18 * MS)], CALLS, "2 jobs were inside at once; the limit is 1"),
        (JOBS[:2], CALLS, "1 jobs ran to their end; there were 2"),
        (
            [*JOBS, stay("late", 50 * MS, 60 * MS, asked=2, in_line=3)],
            CALLS,
            "two went before late, which stood in line when it came",
        ),
        (JOBS[:1], CALLS, "no two jobs stood in line so that their order could be judged"),
        (JOBS, [*CALLS, *CALLS[2:]], "6 calls where 1 + 10 T allowed 4.0"),
        (JOBS, calls(0, 200, 400), "5.0 calls a second; 10 are to be had"),
        (JOBS[1:], CALLS, "nobody was inside when the daemon was killed"),
        (JOBS[:1], CALLS, "nobody came in after the daemon was started again"),
        (
            [*JOBS[:1], stay("two", 6030 * MS, 6040 * MS)],
            CALLS,
            "nobody came in for 6017 ms after the daemon's start",
        ),
        (JOBS[:2], CALLS, "1 were killed, and 0 slots used again"),
        (
            [*JOBS[:2], stay("two", 2030 * MS, 2040 * MS)],
            CALLS,
            "a slot lay idle for 2000 ms after its holder was killed",
        ),
        ([], CALLS, "only 0 jobs were ever inside at once; 1 may be"),
    ],
)
def test_a_violation_is_named(jobs: list[Stay], calls: list[Stay], violation: str) -> None:
    found = verdict(jobs, calls, ABSENCES, PROMISED)
    assert violation in found.violations
    stream = io.StringIO()
    assert demo.say_verdict(Screen(stream, {}), found) == 1
    assert f"VIOLATED {violation}" in stream.getvalue()


# ---- The screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def test_a_pipe_gets_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    screen = Screen(stream, {"TERM": "xterm"})
    screen.say(screen.paint("hello", GREEN))
    for _ in range(3):
        screen.show(["a picture"], "words")
    assert stream.getvalue() in ("hello\n", "hello\nwords\n")


@pytest.mark.usefixtures("columns")
def test_a_terminal_gets_one_picture_over_the_other() -> None:
    stream = Terminal()
    screen = Screen(stream, {"TERM": "xterm"})
    for _ in range(2):
        screen.show([screen.paint("one", GREEN), "two"], "words")
    picture = "\r\033[2K\033[32mone\033[0m\n\r\033[2Ktwo\n"
    assert stream.getvalue() == f"{picture}\033[2A{picture}"


@pytest.mark.usefixtures("columns")
@pytest.mark.parametrize(
    ("environ", "redraws"),
    [({"TERM": "xterm", "NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False), ({}, False)],
)
def test_no_colours_where_there_shall_be_none(environ: dict[str, str], redraws: bool) -> None:
    screen = Screen(Terminal(), environ)
    assert screen.live == redraws
    assert screen.paint("plain", GREEN) == "plain"


@pytest.mark.parametrize(("part", "drawn"), [(-1, "····"), (0.5, "██··"), (7, "████")])
def test_a_bar_stays_within_its_width(part: float, drawn: str) -> None:
    assert bar(part, 4) == drawn


# ---- The real thing


def environment(folder: Path) -> dict[str, str]:
    """Whatever the demo makes lies in this folder, and its processes can be told by it."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}


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


def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"],
        cwd="/",
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    said = done.stdout
    assert "\033" not in said
    assert re.search(r"^   at once  3 inside at the most, of 3 allowed; 25 jobs ran", said, re.M)
    assert re.search(r"^   order    kept: first come, first served in \d+ pairs", said, re.M)
    assert re.search(
        r"^   rate     \d+\.\d calls a second of 20, never above 5 \+ 20 T", said, re.M
    )
    assert re.search(
        r"^   daemon   killed 1 times; [1-3] inside noticed nothing; next one in", said, re.M
    )
    assert re.search(r"^   kill -9  slot in use again \d+\.\d ms after the kill", said, re.M)
    assert max(map(len, said.splitlines())) <= WIDTH
    assert left_over(tmp_path) == []


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        env={**environment(tmp_path), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        stdin=its,
        stdout=its,
        stderr=its,
    ) as process:
        os.close(its)
        seen = b""
        while b"worker-1" not in seen:  # it stands in a picture, so it runs
            seen += os.read(ours, 65536)
        assert len(left_over(tmp_path)) > 3
        process.send_signal(signal.SIGINT)
        while b"are gone" not in seen:
            seen += os.read(ours, 65536)
        process.wait()
    os.close(ours)
    assert process.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in seen
    wait_until(lambda: left_over(tmp_path) == [], "nothing is left")
