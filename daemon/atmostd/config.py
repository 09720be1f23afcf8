"""What can be set, and what it is when nobody sets it. Every default is a named constant, unit last."""

from __future__ import annotations

import argparse
import grp
import math
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from atmost import paths
from atmost.wire import FRAME_BYTES_MAX

# Bounds against abuse: an administrator can set them (Bounds).
CONNECTIONS_MAX = 10_000  # each takes two descriptors
CONNECTIONS_PER_UID_MAX = 1_024  # ten users can't shut out all others
CONNECTIONS_KEPT = 16  # so that somebody can still look and mend when all the others are taken
HELLO_SECONDS = 10.0  # a connection that says nothing is closed: it takes a descriptor from others
REQUESTS_IN_FLIGHT_MAX = 1_024  # not answered yet; then no more are read
REQUESTS_PER_CONNECTION_MAX = 100_000  # each takes about a kilobyte for as long as it has something
WAITERS_PER_CONNECTION_MAX = 10_000
WAITERS_PER_LIMIT_MAX = 100_000
IMPLICIT_LIMITS_MAX = 10_000  # all limits are written with every change
IMPLICIT_LIMITS_PER_UID_MAX = 1_000
OUTPUT_BYTES_MAX = 1024 * 1024  # unread replies of one client; who reads never has so many
OUTPUT_BYTES_LEAST = 2 * FRAME_BYTES_MAX  # below, a page of a listing alone could be too much

WATCHES_MAX = 64  # each is told everything that happens, so all together cost so many times that

# Bounds that are part of how the daemon works.
EVENTS_A_TURN_MAX = 10_000  # those who watch are told how many more there were
EVENTS_UNREAD_BYTES_MAX = 256 * 1024  # of events that a client has not read; then it misses some
RETURNED_TOLD_SECONDS = 10.0  # after a start: who came back is told to those who watch later, too
RETURNED_TOLD_MAX = 1_000
LOOP_DELAY_PROBE_SECONDS = 0.25  # while somebody asks how late the event loop is ...
LOOP_DELAY_ASKED_SECONDS = 90.0  # ... and so long after that: Prometheus asks once a minute or more
EXPLAINED_MAX = 20  # requests in one answer: more than a person reads
EXPLAINED_HOLDERS_MAX = 3  # of each limit that they lack
ANSWER_NANOSECONDS_A_TURN = 2_000_000  # then others have their turn; questions can be expensive
REFUSED_AT_ONCE_MAX = 64  # connections that are refused and may still read why
COMPLAINT_SECONDS = 60.0  # between two lines of the log about the same bound
DESCRIPTORS_PER_CLIENT = 2  # its connection, and the pidfd of its process
DESCRIPTORS_OWN = 128  # files, the loop, who is refused
CLOSE_SECONDS = 1.0  # for a refused client to read why, before its connection is cut
STOP_SECONDS = 1.0  # for what clients have sent to be read, when the daemon stops
LEVELS_SAVE_SECONDS = 30.0  # spent levels on disk are at most so old after a power cut
STATE_RETRY_SECONDS = 5.0  # after a save that failed; the whole state is written each time
# Fencing tokens set aside on disk: so many are skipped by a crash, and so many can be given while the
# disk refuses. 2**53, which every JSON reader keeps exactly, lasts for millions of crashes.
TOKENS_RESERVED = 1_000_000_000
TOKENS_SHARE = 100_000  # of them, for a life that can't save: there are 2,500 such shares
JOURNAL_BYTES_MAX = 8 * 1024 * 1024  # the journal is replaced by a checkpoint then, but not before
JOURNAL_GROWTH = 4  # it is so many times the last one: the work stays a small part of all
JOURNAL_LOOK_SECONDS = 10.0  # whether it is there still: a write to a deleted file succeeds
JOURNAL_RETRY_SECONDS = 1.0  # after a write that failed
RECLAIM_SECONDS = (
    1.0  # for holders to say so, if the journal was lost; clients come back in half of it
)
SPENT_KEPT_MAX = 1024  # outcomes kept for a client that never says that it has seen them
BACKLOG = 4096  # connections that wait for accept; the kernel caps it at somaxconn
IMPLICIT_LIMIT = 1  # semantics.md 2: a limit made by the request that names it
HOLDERS_TOLD_MAX = 5  # with a time-out; `atmost ps` tells them all
USER_CHARS_MAX = 32  # as useradd(8) has it
MESSAGE_CHARS_MAX = 500  # of an error as a frame carries it; its fields have it all
BOUND_MAX = 1_000_000_000  # a bound so high is none
GID_MAX = 2**32 - 1  # (gid_t)-1 is no group
WAIT_SECONDS_MAX = 1e9  # a longer time-out (30 years) is no time-out


def _bound(default: float, meaning: str, least: float = 1) -> Any:
    return field(default=default, metadata={"meaning": meaning, "least": least})


@dataclass(frozen=True, slots=True)
class Bounds:
    """What anybody may take, so that enough is left for others. The names are those of `--bound` and
    of the error that says that a bound was reached."""

    connections: int = _bound(CONNECTIONS_MAX, "connections, and clients, in all")
    connections_per_uid: int = _bound(CONNECTIONS_PER_UID_MAX, "the same, of one user")
    connections_kept: int = _bound(
        CONNECTIONS_KEPT, "of them, kept for root and the admin group", least=0
    )
    hello_seconds: float = _bound(HELLO_SECONDS, "until a client says who it is", least=0.001)
    requests_in_flight: int = _bound(
        REQUESTS_IN_FLIGHT_MAX, "unanswered ones, until no more of a client's are read"
    )
    requests_per_connection: int = _bound(
        REQUESTS_PER_CONNECTION_MAX, "grants and waiting requests of one client"
    )
    waiters_per_connection: int = _bound(
        WAITERS_PER_CONNECTION_MAX, "waiting requests of one client"
    )
    waiters_per_limit: int = _bound(WAITERS_PER_LIMIT_MAX, "requests in the line of one limit")
    implicit_limits: int = _bound(IMPLICIT_LIMITS_MAX, "limits made by requests, in all")
    implicit_limits_per_uid: int = _bound(IMPLICIT_LIMITS_PER_UID_MAX, "the same, of one user")
    watches: int = _bound(WATCHES_MAX, "streams of events, in all")
    output_bytes: int = _bound(
        OUTPUT_BYTES_MAX, "of answers that a client leaves unread", least=OUTPUT_BYTES_LEAST
    )

    def within(self, descriptors: int) -> Bounds:
        """The same, with no more connections than there are descriptors for."""
        most = max(1, (descriptors - DESCRIPTORS_OWN) // DESCRIPTORS_PER_CLIENT)
        if self.connections <= most:
            return self
        return replace(
            self, connections=most, connections_kept=min(self.connections_kept, most // 2)
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """Where this daemon listens and keeps its files, who may change limits, and who may take what."""

    socket: Path
    state_dir: Path
    runtime_dir: Path
    socket_mode: int  # who may connect
    bounds: Bounds
    admin_gid: int | None  # who may change limits, besides root and the daemon's own user

    @classmethod
    def from_arguments(cls, arguments: list[str] | None = None) -> Settings:
        """Read the command line. Exits with 2 and the usage line if it is wrong."""
        parser = argparse.ArgumentParser(
            prog="atmostd",
            description="Keep the concurrency and rate limits of this host. Runs in the foreground.",
            epilog=_bounds_told(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--socket", metavar="PATH", type=_path, help="listen here")
        parser.add_argument(
            "--state-dir", metavar="DIR", type=_path, help="limits and levels, kept over reboots"
        )
        parser.add_argument(
            "--runtime-dir", metavar="DIR", type=_path, help="the socket's folder, unless --socket"
        )
        parser.add_argument(
            "--admin-group",
            metavar="GROUP",
            type=_gid,
            help="its members may change limits, as root and the daemon's own user may",
        )
        parser.add_argument(
            "--bound",
            metavar="NAME=NUMBER",
            type=_bound_given,
            action="append",
            default=[],
            help="how much anybody may take; the names are below",
        )
        parser.add_argument("--version", action="version", version=f"atmostd {paths.version()}")
        given = parser.parse_args(arguments)
        bounds = Bounds(**dict(given.bound))
        if bounds.connections_kept >= bounds.connections:
            parser.error(
                f"argument --bound: connections_kept={bounds.connections_kept} leaves nobody else "
                f"any of connections={bounds.connections}"
            )
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
            # Anyone on the host may use a system daemon's limits; not change them.
            socket_mode=0o666 if root else 0o600,
            bounds=bounds,
            admin_gid=given.admin_group,
        )


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("expected a path")
    return Path(os.path.abspath(text))


def _gid(text: str) -> int:
    """Of a group's name, or of its number: that one need have no name."""
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        if text.isascii() and text.isdigit() and int(text) < GID_MAX:
            return int(text)
    raise argparse.ArgumentTypeError(
        f"there is no group {text!r}; make it, or name another by its name or number"
    )


def _bound_given(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    for bound in fields(Bounds):
        if bound.name == name:
            return name, _number(name, number, bound.default, bound.metadata["least"])
    raise argparse.ArgumentTypeError(f"no bound is named {name!r}; there are {_bound_names()}")


def _number(name: str, text: str, default: Any, least: float) -> float:
    """What is given for a bound; a whole number where its default is one."""
    kind = type(default)
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not least <= number <= BOUND_MAX:
        what = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(
            f"{name} takes a {what} from {least} to {BOUND_MAX}, not {text!r}"
        )
    return float(number) if kind is float else int(number)


def _bound_names() -> str:
    return ", ".join(bound.name for bound in fields(Bounds))


def _bounds_told() -> str:
    width = max(len(bound.name) for bound in fields(Bounds))
    rows = [
        f"  {bound.name:{width}}  {bound.default:>9,}  {bound.metadata['meaning']}"
        for bound in fields(Bounds)
    ]
    return "bounds, and what they are when they are not set:\n" + "\n".join(rows)
