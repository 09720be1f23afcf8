"""A daemon and a web process for each test module; limits that a test made are gone at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import RunningDaemon, wait_until
from tests.support_cli import shared
from tests.web.support import RunningWeb


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningDaemon, RunningWeb]]:
    running = RunningDaemon(tmp_path_factory.mktemp("web")).start()
    try:
        with RunningWeb(running) as web:
            web.wait_for_daemon()
            yield running, web
            assert web.process.poll() is None, "the process lives"
            log = web.log.read_text()
            assert "bug" not in log, log
            assert "Traceback" not in log, log
    finally:
        running.stop()


@pytest.fixture
def daemon(both: tuple[RunningDaemon, RunningWeb]) -> Iterator[RunningDaemon]:
    with shared(both[0]) as running:
        yield running
    wait_until(lambda: not both[1].get("/api/limits")["total"], "it knows that they are gone")


@pytest.fixture
def web(both: tuple[RunningDaemon, RunningWeb], daemon: RunningDaemon) -> RunningWeb:
    return both[1]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon that a test may end."""
    running = RunningDaemon(tmp_path).start()
    yield running
    if running.process is not None:
        running.stop()
