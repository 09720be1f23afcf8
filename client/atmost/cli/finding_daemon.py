"""Findings about the daemon and its limits."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from atmost import paths
from atmost.cli.finding import Finding, Scene
from atmost.connecting import next_step
from atmost.errors import DaemonUnavailable
from atmost.sync import Client, Limit

NAMES_TOLD_MAX = 5  # `atmost ls` has them all


def not_there(scene: Scene) -> Iterator[Finding]:
    """No daemon, and none that a client would start."""
    from atmost import starting

    if any(place.status or place.refuses for place in scene.places):
        return
    last = scene.places[-1].at
    start = "atmost daemon start"
    if scene.named:
        yield Finding(
            "not_running",
            True,
            f"no daemon answers at {last.path} ({last.source})",
            f"{start} --socket {shlex.quote(last.path)}",
        )
        return
    try:
        starting.check_may_start()
    except starting.NotStarted as why:
        yield Finding("not_running", True, f"no daemon runs: {why}", why.advice or start)
        return
    try:
        starting.daemon_command()  # the next command starts one
    except starting.NotStarted as why:
        yield Finding("not_running", True, f"no daemon can be started: {why}", why.advice)


def no_answer(scene: Scene) -> Iterator[Finding]:
    """Something listens, and does not answer, or refuses us."""
    for place in scene.places:
        if not place.refuses:
            continue
        error = place.error
        path = shlex.quote(place.at.path)
        if isinstance(error, DaemonUnavailable):
            reason = error.reason
            mend = f"atmost daemon restart --socket {path}"
            mend = next_step(place.at, reason) or mend
        else:
            reason, mend = str(error), f"atmost daemon restart --socket {path}"
        yield Finding("no_answer", True, f"at {place.at.path} ({place.at.source}): {reason}", mend)


def two(scene: Scene) -> Iterator[Finding]:
    """One of the system and one of the user: each has limits that the other does not know."""
    pids = [place.status.pid for place in scene.places if place.status]
    if len(set(pids)) > 1:
        used, other = (place.at for place in scene.places)
        yield Finding(
            "two_daemons",
            True,
            f"two daemons run: clients use that of the system (pid {pids[0]}, {used.path}), and limits "
            f"of your own one (pid {pids[1]}, {other.path}) hold nobody back",
            f"atmost daemon stop --socket {shlex.quote(other.path)}",
        )


def stale_socket(scene: Scene) -> Iterator[Finding]:
    """A socket that nobody listens on. The next daemon there replaces it; but a user's own one does
    not start beside one of the system."""
    for number, place in enumerate(scene.places):
        if not place.there or place.status or place.refuses:
            continue
        of_system = number == 0 and not scene.named
        path = shlex.quote(place.at.path)
        yield Finding(
            "stale_socket",
            of_system,
            f"nobody listens on {place.at.path} ({place.at.source}): its daemon was killed, or it is "
            "no socket",
            f"start that daemon again, or as root: rm {path}"
            if of_system
            else f"atmost daemon start --socket {path}",
        )


def trouble(scene: Scene) -> Iterator[Finding]:
    """What the daemon itself says is wrong."""
    if scene.used and scene.used.status and scene.used.status.trouble:
        text = scene.used.status.trouble
        mend = "atmost recover" if "atmost recover" in text else "mend that; the daemon tries again"
        yield Finding("trouble", True, f"the daemon says: {text}", mend)


def other_version(scene: Scene) -> Iterator[Finding]:
    """The daemon runs on with what was installed when it started."""
    status = scene.used and scene.used.status
    if status and status.version != paths.version():
        yield Finding(
            "other_version",
            False,
            f"the daemon (pid {status.pid}) is version {status.version}, and this command "
            f"{paths.version()}",
            "atmost daemon restart",
        )


def unguarded(scene: Scene) -> Iterator[Finding]:
    """Limits that code names and that nobody has ever created: everybody gets through."""
    names = [limit.name for limit in _limits(scene) if limit.implicit and not limit.active]
    if names:
        yield Finding(
            "unguarded",
            False,
            f"in use, but never created, so that nothing is enforced: {_told(names)}",
            f"atmost update {shlex.quote(names[0])} --limit N --enable",
        )


def drift(scene: Scene) -> Iterator[Finding]:
    """Limits of the configuration file that somebody has changed since: the newest word counts."""
    names = [limit.name for limit in _limits(scene) if limit.declared]
    if names:
        yield Finding(
            "drift",
            False,
            f"changed by hand since the configuration file had its say: {_told(names)}",
            f"atmost inspect {shlex.quote(names[0])}; then change it or the file, or have the file put "
            "in force with: atmost apply -f FILE",
        )


def _limits(scene: Scene) -> list[Limit]:
    if scene.used is None:
        return []
    with Client(scene.used.at.path, _start=False) as client:
        return client.list_limits()


def _told(names: list[str]) -> str:
    told = ", ".join(repr(name) for name in names[:NAMES_TOLD_MAX])
    more = f" and {len(names) - NAMES_TOLD_MAX} more" if len(names) > NAMES_TOLD_MAX else ""
    return told + more
