"""The daemon's files: as narrow as they can be, and nobody else's in their place."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bounded import NOBODY, needs_root
from tests.support import PATIENCE_SECONDS, RunningDaemon
from tests.test_daemon import refusal

FILES = [
    "s",
    "s.lock",
    *("state/state", "state/state.previous", "state/state.new", "state/lock"),
    *("run/journal", "run/journal.new"),
]
FOLDERS = ["state", "run"]


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon that has run here, so that its files are there."""
    running = RunningDaemon(tmp_path).start()
    with running.client() as client:
        client.create_limit("db", 1)
    running.stop()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()


def is_refused(running: RunningDaemon, path: Path, words: str) -> None:
    said = refusal(running)
    assert str(path) in said
    assert words in said
    assert "move it away" in said


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("leads", ["to a file", "nowhere"])
def test_a_link_in_place_of_a_file(stopped: RunningDaemon, name: str, leads: str) -> None:
    path = stopped.folder / name
    path.unlink(missing_ok=True)
    target = stopped.folder / "somebody's"
    if leads == "to a file":
        target.write_text("notes")
    path.symlink_to(target)
    is_refused(stopped, path, "is a link")
    assert path.is_symlink()
    assert not target.exists() or target.read_text() == "notes"


@needs_root
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_somebody_else(stopped: RunningDaemon, name: str) -> None:
    path = stopped.folder / name
    if not path.exists():
        path.write_bytes(b"")
    os.chown(path, NOBODY, NOBODY)
    is_refused(stopped, path, f"belongs to uid {NOBODY}")
    assert path.exists()


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_at_all(stopped: RunningDaemon, name: str) -> None:
    """A pipe must not make the daemon wait."""
    path = stopped.folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    is_refused(stopped, path, "is no socket" if name == "s" else "is no file")


@needs_root
@pytest.mark.parametrize("name", [*FOLDERS, ""])
def test_a_folder_of_somebody_else(stopped: RunningDaemon, name: str) -> None:
    path = stopped.folder / name
    os.chown(path, NOBODY, NOBODY)
    is_refused(stopped, path, f"belongs to uid {NOBODY}")


@needs_root
@pytest.mark.parametrize("name", FOLDERS)
def test_somebody_elses_link_in_place_of_a_folder(stopped: RunningDaemon, name: str) -> None:
    path = stopped.folder / name
    path.rename(stopped.folder / "elsewhere")
    path.symlink_to("elsewhere")
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    is_refused(stopped, path, f"belongs to uid {NOBODY}")
    os.chown(path, 0, 0, follow_symlinks=False)  # one that we have made, systemd makes them, too
    stopped.start()
    with stopped.client() as client:
        assert client.read_limit("db").limit == 1


@pytest.mark.parametrize("name", [*FOLDERS, ""])
@pytest.mark.parametrize("others", [0o020, 0o002])
def test_a_folder_that_others_may_write(stopped: RunningDaemon, name: str, others: int) -> None:
    """They could put a state, or a socket, of theirs there."""
    path = stopped.folder / name
    before = mode(path)
    path.chmod(before | others)
    said = refusal(stopped)
    assert f"others may write to the folder {path} (its mode is {before | others:o})" in said
    assert f"chmod go-w {path}" in said
    subprocess.run(["chmod", "go-w", path], check=True)
    stopped.start()


def test_a_shared_folder_will_do_for_what_is_not_kept(stopped: RunningDaemon) -> None:
    """As /tmp is: nobody can take our files away."""
    for name in ("run", ""):
        (stopped.folder / name).chmod(0o1777)
    stopped.start()
    stopped.stop()
    (stopped.folder / "state").chmod(0o1777)
    assert "others may write" in refusal(stopped)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes(tmp_path: Path, umask: int) -> None:
    """Whatever the umask is. Only who has to pass finds a folder open."""
    running = RunningDaemon(tmp_path)
    running.socket = tmp_path / "open" / "s"
    before = os.umask(umask)
    try:
        running.start()
    finally:
        os.umask(before)
    with running.client() as client:
        client.create_limit("db", 1)
    everybody = os.geteuid() == 0
    assert mode(running.socket) == (0o666 if everybody else 0o600)
    assert mode(running.socket.parent) == (0o755 if everybody else 0o700)
    assert mode(tmp_path / "open" / "s.lock") == 0o600
    for folder in FOLDERS:
        assert mode(tmp_path / folder) == 0o700
        found = list((tmp_path / folder).rglob("*"))
        assert found
        for path in found:  # slates have a folder of their own
            assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert running.stop() == 0
    assert running.process is not None
    assert running.process.wait(PATIENCE_SECONDS) == 0


def test_the_runtime_folder_is_as_open_as_the_socket_in_it(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path)
    running.socket = tmp_path / "run" / "s"
    running.start()
    assert mode(tmp_path / "run") == (0o755 if os.geteuid() == 0 else 0o700)
    assert mode(tmp_path / "run" / "journal") == 0o600
    running.stop()
