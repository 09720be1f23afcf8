"""A broken invariant: the daemon says what it saw and ends with 70, and the next one has exact state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atmostd.__main__ import EXIT_BROKEN
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

# A daemon with a bug: what is broken happens at the first request for the limit "broken".
BROKEN = """
import sys
from atmostd import limit, registry, __main__ as daemon
from atmostd.ticket import Granted

right = limit.Limit.apply

def apply(self, event, now):
    effects = right(self, event, now)
    if self.name == "broken" and effects:
        {bug}
    return effects

limit.Limit.apply = apply
sys.exit(daemon.main(sys.argv[1:]))
"""

BUGS = {
    "an error in the rules": ("raise ZeroDivisionError", "ZeroDivisionError"),
    "granted twice": ("effects = effects * 2", "was granted twice"),
    "over the limit": ("self.held += 1", "2 slots of 'broken' are held, of 1"),
}


class BrokenDaemon(RunningDaemon):
    """A daemon with one of these bugs."""

    def __init__(self, folder: Path, bug: str) -> None:
        super().__init__(folder)
        self._bug = bug

    @property
    def arguments(self) -> list[str]:
        options = super().arguments[3:]
        return [sys.executable, "-c", BROKEN.format(bug=self._bug), *options]


@pytest.mark.parametrize(("bug", "said"), BUGS.values(), ids=BUGS)
def test_a_broken_invariant_ends_the_daemon_and_loses_nothing(
    tmp_path: Path, bug: str, said: str
) -> None:
    broken = BrokenDaemon(tmp_path, bug).start()
    sound = RunningDaemon(tmp_path)
    client = broken.client()
    client.create_limit("db", 2)
    client.create_limit("broken", 1)
    grant = client.acquire("db")
    with subprocess.Popen(
        [sys.executable, "-m", "atmost", "run", "broken", "--", "true"],
        env=broken.environment(),
    ) as asks:
        assert broken.process is not None
        assert broken.process.wait(PATIENCE_SECONDS) == EXIT_BROKEN
        assert said in broken.log_text()
        assert "a broken invariant" in broken.log_text()
        sound.start()
        assert asks.wait(PATIENCE_SECONDS) == 0  # nobody had been told anything: it is asked again
    with sound.client() as looks:
        assert looks.read_limit("db").held == 1
        wait_until(lambda: looks.read_limit("broken").active_slots == 0)
        grant.release()
        wait_until(lambda: looks.read_limit("db").held == 0)
    client.close()
    sound.stop()


def test_nothing_is_said_of_what_is_broken(tmp_path: Path) -> None:
    """The turn in which it broke is not written down, and nobody hears of it."""
    broken = BrokenDaemon(tmp_path, BUGS["granted twice"][0]).start()
    with broken.client() as client:
        client.create_limit("broken", 1)
        size = journal_size(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "atmost", "run", "broken", "--", "true"],
        env=broken.environment(),
    ) as asks:
        assert broken.process is not None
        broken.process.wait(PATIENCE_SECONDS)
        assert journal_size(tmp_path) == size
        asks.kill()


def journal_size(folder: Path) -> int:
    return os.stat(folder / "run" / "journal").st_size
