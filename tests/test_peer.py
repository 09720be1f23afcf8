"""A process is known again, and no other one is taken for it: by its pidfd, and by when it was started."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from atmostd import peer
from atmostd.peer import Peer, Processes


def test_known_again_while_it_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        seen = Peer(other.pid, 0, os.pidfd_open(other.pid))
        assert seen.started > 0
        found = Processes().again(other.pid, 0, seen.started, seen.inode)
        assert found is not None
        assert found.is_same(seen)
        assert Processes().again(other.pid, 0, seen.started + 1, seen.inode) is None
        assert Processes().again(other.pid, 0, seen.started, seen.inode + 1) is None
        found.close()
        seen.close()
        other.communicate(b"\n")
    assert Processes().again(other.pid, 0, seen.started, seen.inode) is None


@pytest.mark.parametrize("unique", [True, False])
def test_when_it_was_started_cannot_be_seen(monkeypatch: pytest.MonkeyPatch, unique: bool) -> None:
    """By one of two daemons, as ProtectProc= of a service has it. Then the inode has to say it, and it
    says it only if no other process ever has the same."""
    monkeypatch.setattr(peer, "inodes_are_unique", lambda: unique)
    seen = Peer(os.getpid(), 0, os.pidfd_open(os.getpid()))
    assert seen.was(seen.started, seen.inode)
    assert seen.was(0, seen.inode) is unique
    monkeypatch.setattr(peer, "_started", lambda pid: 0)
    assert peer.can_tell_processes_apart() is unique
    hidden = Peer(os.getpid(), 0, os.pidfd_open(os.getpid()))
    assert hidden.was(seen.started, seen.inode) is unique
    assert hidden.was(0, hidden.inode)  # no better is known; the daemon has said so in its log
    assert not hidden.was(0, seen.inode + 1)
    hidden.close()
    seen.close()


def test_what_this_kernel_does() -> None:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release >= (6, 9):
        assert peer.inodes_are_unique()
    assert peer.can_tell_processes_apart()
