"""One box for all tests of a run: it boots once, and each test begins with a fresh service."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support_tools import leave_out
from tests.systemd import box as boxes
from tests.systemd import host as hosts
from tests.systemd.box import DROP_INS, STATE, USERS, Box, Python
from tests.systemd.host import Host


@pytest.fixture(scope="session")
def pythons() -> dict[str, Python | str]:
    """Filled as the box is made: each Python by its version, or why it is left out."""
    return {}


@pytest.fixture(scope="session")
def machine(
    tmp_path_factory: pytest.TempPathFactory, pythons: dict[str, Python | str]
) -> Iterator[Box]:
    """The box, up, with the daemon installed and its socket listening."""
    leave_out(boxes.why_there_is_no_box())
    folder = tmp_path_factory.mktemp("box")
    binds = boxes.install(folder)

    def install_for(python: Python) -> list[str]:
        try:
            found = boxes.install_for(python, folder)
            pythons[python.version] = python
        except subprocess.CalledProcessError as error:
            pythons[python.version] = f"its packages cannot be installed: {error.stderr!r:.300}"
            return []
        return found

    with ThreadPoolExecutor() as at_once:
        for found in at_once.map(install_for, boxes.other_pythons()):
            binds += found
    box = Box(folder / "box", binds)
    try:
        box.up()
        box.atmost("daemon", "install")
        box.write("/etc/sysusers.d/users.conf", USERS)
        box.sh("systemd-sysusers")
        yield box
    finally:
        box.down()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip` installs from, on a host without a network."""
    leave_out(boxes.why_there_is_no_box() or hosts.why_there_is_no_venv())
    return hosts.fill(tmp_path_factory.mktemp("wheels"))


@pytest.fixture
def host(tmp_path: Path, wheels: Path) -> Iterator[Host]:
    """A fresh one, of a test's own."""
    with hosts.fresh(tmp_path / "box", wheels) as up:
        yield up


@pytest.fixture
def box(machine: Box) -> Iterator[Box]:
    """The same, as on its first day: no state, no settings but ours, nobody there."""
    machine.sh("systemctl", "reset-failed")
    machine.atmost("daemon", "install", "--force", "--now")
    yield machine
    machine.ran("sh", "-c", "systemctl stop 'test-*'")
    machine.ran("systemctl", "stop", "atmostd.socket", "atmostd.service")
    clean = (
        f"rm -rf {STATE} /run/atmost {DROP_INS} /etc/systemd/system/atmostd.socket.d /etc/atmost"
    )
    machine.sh("sh", "-c", clean)
    machine.sh("systemctl", "daemon-reload")
