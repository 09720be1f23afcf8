"""chaos/: the real command. That its judge can see what is wrong stands in test_chaos_judge.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from chaos import run
from tests.support import wait_until
from tests.test_demo import environment, left_over

SCRIPT = Path(run.__file__)
PATIENCE = ["--within", "20"]  # where many tests share a processor, no second can be promised


def chaos(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Whatever it makes lies in this folder."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *PATIENCE, *arguments],
        cwd="/",
        env=environment(folder),
        capture_output=True,
        text=True,
    )


def verdict(folder: Path, *arguments: str) -> dict[str, Any]:
    """Of a run in which everything was kept."""
    done = chaos(folder, "--json", *arguments)
    found = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["kept"]
    assert not any(found["violations"].values())
    assert found["figures"]["clients killed"] > 0
    assert found["figures"]["clients stopped"] > 0
    assert left_over(folder) == []
    figures: dict[str, Any] = found["figures"]
    return figures


def test_a_hundred_cycles_keep_everything(tmp_path: Path) -> None:
    figures = verdict(tmp_path, "--cycles", "100", "--seed", "ci")
    assert figures["daemon SIGKILL"] > 30
    assert figures["daemon SIGTERM"] > 0
    assert figures["held through a restart"] > 0
    assert figures["... across a restart"] > 0


def test_the_daemon_can_be_spared(tmp_path: Path) -> None:
    figures = verdict(tmp_path, "--cycles", "10", "--seed", "ci", "--spare-daemon")
    assert figures["daemon SIGKILL"] == figures["daemon SIGTERM"] == 0


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "--cycles", "1000", "--spare-daemon"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "cycle" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == run.EXIT_INTERRUPTED
    assert "are gone" in said
    wait_until(lambda: left_over(tmp_path) == [], "nothing is left")
