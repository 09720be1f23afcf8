"""The daemon's log: it never waits, can't be flooded, and journald gets fields."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmostd import log
from tests.protocol_client import Client as Foreign
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

PROGRAM = """
import logging, sys
from atmostd import log
log.JOURNALD = sys.argv[1]
log.begin(form=sys.argv[2])
logger = logging.getLogger("atmostd")
"""


def run(code: str, form: str = "text", journald: str = "/nowhere", **given: str) -> str:
    """What a program that logs writes to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + code, journald, form],
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
        env={**os.environ, **given},
    )
    return done.stderr


def test_a_line_has_its_time_and_level() -> None:
    line = run('logger.warning("limit %r is %s", "db", "here")')
    assert line.endswith(" WARNING limit 'db' is here\n")
    assert time.strptime(line[:19], "%Y-%m-%d %H:%M:%S")


def test_debug_is_left_out_unless_asked_for() -> None:
    assert run('logger.debug("no")') == ""
    assert "yes" in run('log.begin(logging.DEBUG); logger.debug("yes")')


def test_json_has_the_fields() -> None:
    line = run('logger.error("gone", extra={"limit": "d\\nb", "pid_of_client": 7})', form="json")
    found = json.loads(line)
    assert line.count("\n") == 1
    assert found.pop("time").count("-") >= 2
    assert found == {"level": "error", "message": "gone", "limit": "d\nb", "pid_of_client": 7}


def test_an_error_brings_its_traceback() -> None:
    text = run('try: 1 / 0\nexcept ZeroDivisionError: logger.exception("oh")')
    assert text.splitlines()[0].endswith("ERROR oh")
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")


# Storms


def test_of_a_storm_some_lines_come_through_and_the_rest_is_counted() -> None:
    storms = log.Storms()
    through = [storms.let_through("a", 5.0) for _ in range(log.AT_ONCE_MAX + 7)]
    assert through == [0] * log.AT_ONCE_MAX + [None] * 7
    assert storms.let_through("b", 5.0) == 0, "another kind is not in its way"
    assert storms.let_through("a", 5.0 + log.SECONDS_A_LINE) == 7
    assert storms.let_through("a", 5.0 + log.SECONDS_A_LINE) is None
    calm = 6.0 + log.SECONDS_A_LINE * (log.AT_ONCE_MAX + 2)
    assert storms.let_through("a", calm) == 1
    assert [storms.let_through("a", calm) for _ in range(log.AT_ONCE_MAX - 1)] == [0] * (
        log.AT_ONCE_MAX - 1
    )
    assert storms.let_through("a", calm) is None


def test_what_could_not_be_written_is_counted_too() -> None:
    lines: list[str] = []
    stuck = [True]

    def write(record: logging.LogRecord, text: str) -> bool:
        if not stuck[0]:
            lines.append(text)
        return not stuck[0]

    handler = log.Lines(write)
    record = logging.LogRecord("x", logging.INFO, "here.py", 1, "a line", None, None)
    handler.emit(record)
    handler.emit(record)
    stuck[0] = False
    handler.emit(record)
    assert lines == ["a line (2 more like this were left out)"]


def test_a_flood_writes_few_lines() -> None:
    lines = run('for n in range(10_000): logger.info("line %d", n)').splitlines()
    assert log.AT_ONCE_MAX <= len(lines) < 1000


def test_what_is_bounded_by_itself_is_no_storm() -> None:
    code = 'for n in range(100): logger.warning("limit %d", n, extra={"bounded": True})'
    assert len(run(code).splitlines()) == 100


# A reader that hangs


def test_a_full_pipe_stops_nobody() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    code = 'for n in range(30):\n    eval("\\n" * n + "logger.info(\'%s\', \'x\' * 3000)")\nprint("done")'
    # Each from a line of its own: of one kind only some would come through.
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM + code, "/nowhere", "text"],
            stderr=writing,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
    finally:
        os.close(writing)
        os.close(reading)
    assert done.stdout == "done\n"


def test_a_daemon_whose_log_nobody_reads_goes_on(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(daemon.arguments, stderr=writing) as process:
        os.close(writing)
        try:
            daemon.process = process
            wait_until(daemon._answers)
            with daemon.client() as client:
                for number in range(100):  # each is logged
                    with client.concurrency(f"never-made-{number}-{'x' * 150}"):
                        pass
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
            os.close(reading)


def test_a_full_disk_costs_lines_and_their_number_is_told(tmp_path: Path) -> None:
    code = """
import resource, signal
def one(): logger.info("a line")
one()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
one(), one()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
one()
"""
    path = tmp_path / "log"
    with path.open("wb") as log_file:
        command = [sys.executable, "-c", PROGRAM + code, "/nowhere", "text"]
        subprocess.run(command, stderr=log_file, check=True)
    first, second = path.read_text().splitlines()
    assert first.endswith("INFO a line")
    assert second.endswith("INFO a line (2 more like this were left out)")


# journald


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind(str(tmp_path / "journal"))
        here.settimeout(PATIENCE_SECONDS)
        yield here


def run_under_systemd(code: str, at: socket.socket, tmp_path: Path) -> str:
    """Like run, with stderr as systemd connects it; JOURNAL_STREAM names that very file."""
    with (tmp_path / "stderr").open("w+") as stderr:
        found = os.fstat(stderr.fileno())
        subprocess.run(
            [sys.executable, "-c", PROGRAM + code, at.getsockname(), "text"],
            stderr=stderr,
            timeout=PATIENCE_SECONDS,
            check=True,
            env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
        )
        stderr.seek(0)
        return stderr.read()


def test_journald_gets_priority_and_fields(journald: socket.socket, tmp_path: Path) -> None:
    code = 'logger.warning("limit %r", "db", extra={"limit": "db", "uid_of_client": 3})'
    assert run_under_systemd(code, journald, tmp_path) == ""
    lines = journald.recv(65536).decode().splitlines()
    assert {
        "MESSAGE=limit 'db'",
        "PRIORITY=4",
        "SYSLOG_IDENTIFIER=atmostd",
        "ATMOST_LIMIT=db",
        "ATMOST_UID_OF_CLIENT=3",
    } <= set(lines)


def test_what_has_several_lines_is_one_entry(journald: socket.socket, tmp_path: Path) -> None:
    run_under_systemd('logger.error("one\\ntwo", extra={"path": "/a=b"})', journald, tmp_path)
    data = journald.recv(65536)
    assert b"MESSAGE\n" + (7).to_bytes(8, "little") + b"one\ntwo\nPRIORITY=3\n" in data
    assert b"ATMOST_PATH=/a=b\n" in data


def test_what_is_too_long_for_a_datagram_goes_to_stderr(
    journald: socket.socket, tmp_path: Path
) -> None:
    text = run_under_systemd('logger.info("x" * 1_000_000)', journald, tmp_path)
    assert "INFO xxx" in text


def test_a_journald_that_hangs_stops_nobody(journald: socket.socket, tmp_path: Path) -> None:
    code = "for n in range(3000): eval(\"\\n\" * n + \"logger.info('%s', 'x' * 1000)\")"
    run_under_systemd(code, journald, tmp_path)
    assert journald.recv(65536).startswith(b"MESSAGE=xxx")


def test_another_stderr_is_no_journald(journald: socket.socket) -> None:
    at = journald.getsockname()
    assert "INFO here" in run('logger.info("here")', journald=at, JOURNAL_STREAM="1:2")


def test_who_has_changed_a_limit_is_in_the_log(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path).start()
    with daemon.client() as client:
        client.create_limit("db", 2)
        client.update_limit("db", limit=3, active=False)
        client.delete_limit("db")
    assert daemon.stop() == 0
    lines = [line for line in daemon.log_text().splitlines() if "limit 'db': " in line]
    said = [line.partition("limit 'db': ")[2].partition(", by ")[0] for line in lines]
    assert said == ["limit 2, active", "limit 3, inactive", "deleted"]
    who = f"(uid {os.getuid()}, pid {os.getpid()})"
    assert all(line.endswith(who) for line in lines)


def test_who_has_gone_before_the_change_was_made_is_in_the_log_too(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path).start()
    foreign = Foreign(str(daemon.socket))
    foreign.ask("status")
    foreign.request("create_limit", "db", 2)
    foreign.close()
    with daemon.client() as client:
        wait_until(client.list_limits)
    assert daemon.stop() == 0
    assert f"limit 'db': limit 2, active, by ada (uid {os.getuid()}" in daemon.log_text()
