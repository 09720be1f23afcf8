"""How much hypothesis tries.

quick: every property test, unless it says otherwise.
ci: the rules against their model, 2,000 examples. The same ones in every run, so that a commit which is
    green stays green.
nightly: the same test, other examples each time and as many as the environment says:
    `ATMOST_EXAMPLES=50000 python3 dev.py test tests/test_limit_model.py`. A failure prints the line
    that repeats it.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from atmost.sync import Client
from tests.support import RunningDaemon

# A shell that has started us in the background has us ignore Ctrl-C, which many tests send, and Ctrl-\.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

settings.register_profile("quick", deadline=None, derandomize=True)
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=2_000)
settings.register_profile(
    "nightly",
    deadline=None,
    print_blob=True,
    max_examples=int(os.environ.get("ATMOST_EXAMPLES", "50000")),
)
settings.load_profile("quick")

# No test starts a daemon that it does not know of; those of autostart take this away.
os.environ["ATMOST_AUTOSTART"] = "0"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A real daemon, ended after the test."""
    running = RunningDaemon(tmp_path).start()
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    """A session with that daemon."""
    with daemon.client() as connected:
        yield connected
