"""What can be set, and what it is when nobody sets it. Every default is a named constant, unit last."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from atmost import paths

HELLO_SECONDS = 10.0  # a connection that says nothing is closed: it takes a descriptor from others
CLOSE_SECONDS = 1.0  # for a refused client to read why, before its connection is cut
STOP_SECONDS = 1.0  # for what clients have sent to be read, when the daemon stops
OUTPUT_BYTES_MAX = 1024 * 1024  # unread replies of one client; who reads never has so many
LEVELS_SAVE_SECONDS = 30.0  # spent levels on disk are at most so old after a power cut
# Fencing tokens set aside on disk: so many are skipped by a crash, and so many can be given while the
# disk refuses. 2**53, which every JSON reader keeps exactly, lasts for millions of crashes.
TOKENS_RESERVED = 1_000_000_000
JOURNAL_BYTES_MAX = 8 * 1024 * 1024  # the journal is replaced by a checkpoint then, but not before
JOURNAL_GROWTH = 4  # it is so many times the last one: the work stays a small part of all
JOURNAL_LOOK_SECONDS = 10.0  # whether it is there still: a write to a deleted file succeeds
JOURNAL_RETRY_SECONDS = 1.0  # after a write that failed
SPENT_KEPT_MAX = 1024  # outcomes kept for a client that never says that it has seen them
BACKLOG = 4096  # connections that wait for accept; the kernel caps it at somaxconn
IMPLICIT_LIMIT = 1  # semantics.md 2: a limit made by the request that names it
HOLDERS_TOLD_MAX = 5  # with a time-out; `atmost ps` tells them all
USER_CHARS_MAX = 32  # as useradd(8) has it
MESSAGE_CHARS_MAX = 500  # of an error as a frame carries it; its fields have it all
WAIT_SECONDS_MAX = 1e9  # a longer time-out (30 years) is no time-out


@dataclass(frozen=True, slots=True)
class Settings:
    """Where this daemon listens and keeps its files."""

    socket: Path
    state_dir: Path
    runtime_dir: Path
    socket_mode: int  # who may connect

    @classmethod
    def from_arguments(cls, arguments: list[str] | None = None) -> Settings:
        """Read the command line. Exits with 2 and the usage line if it is wrong."""
        parser = argparse.ArgumentParser(
            prog="atmostd",
            description="Keep the concurrency and rate limits of this host. Runs in the foreground.",
        )
        parser.add_argument("--socket", metavar="PATH", type=_path, help="listen here")
        parser.add_argument(
            "--state-dir", metavar="DIR", type=_path, help="limits and levels, kept over reboots"
        )
        parser.add_argument(
            "--runtime-dir", metavar="DIR", type=_path, help="the socket's folder, unless --socket"
        )
        parser.add_argument("--version", action="version", version=f"atmostd {paths.version()}")
        given = parser.parse_args(arguments)
        root = os.geteuid() == 0
        runtime_dir = given.runtime_dir or Path(
            paths.SYSTEM_RUNTIME_DIR if root else paths.user_runtime_dir()
        )
        state_dir = given.state_dir or Path(
            paths.SYSTEM_STATE_DIR if root else paths.user_state_dir()
        )
        return cls(
            socket=given.socket or runtime_dir / paths.SOCKET_NAME,
            state_dir=state_dir,
            runtime_dir=runtime_dir,
            # Anyone on the host may use a system daemon's limits; only root may change them.
            socket_mode=0o666 if root else 0o600,
        )


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("expected a path")
    return Path(os.path.abspath(text))
