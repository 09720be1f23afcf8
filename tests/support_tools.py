"""Programs that are not ours, which some tests need: left out visibly, but in CI that is a failure."""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {  # of Debian; .ci/run installs them
    "fish": "fish",
    "groff": "groff-base",
    "man": "man-db",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
    "zsh": "zsh",
}


def leave_out(reason: str) -> None:
    """End this test, if there is a reason."""
    if reason and (os.environ.get("CI") or os.environ.get("ATMOST_CI")):
        pytest.fail(f"in CI this is not left out: {reason}")
    if reason:
        pytest.skip(reason)


def needs(name: str) -> None:
    """End this test where there is no such program."""
    found = shutil.which(name) is not None
    leave_out("" if found else f"there is no {name} (Debian: apt install {PACKAGES[name]})")
