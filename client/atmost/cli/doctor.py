"""doctor: what is wrong here, and the command that mends it.

Rule: it changes nothing, starts nothing, and looks at everything that it can, whatever else is wrong.
"""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator

from atmost.cli import finding_daemon, finding_host, output
from atmost.cli.finding import Finding, Scene, look
from atmost.cli.parser import Command, json_option
from atmost.errors import AtmostError

EXIT_SERIOUS = 1

# In the order in which they are told. A check that cannot look, because of what another one finds, is
# silent.
CHECKS: tuple[Callable[[Scene], Iterator[Finding]], ...] = (
    finding_daemon.not_there,
    finding_daemon.no_answer,
    finding_daemon.two,
    finding_daemon.stale_socket,
    finding_daemon.trouble,
    finding_daemon.other_version,
    finding_daemon.unguarded,
    finding_daemon.drift,
    finding_daemon.deleted,
    finding_host.folders,
    finding_host.disk,
    finding_host.descriptors,
    finding_host.kernel,
)


def doctor(given: Namespace) -> int:
    """Look, and tell."""
    found = findings(given.socket)
    if given.json:
        output.write_json([finding._asdict() for finding in found])
    elif output.on_terminal():
        output.write_text("".join(map(_told, found)))
    else:
        output.write_lines(finding for finding in found)
    if not found and not given.json:
        output.talk("nothing is wrong")
    return EXIT_SERIOUS if any(finding.serious for finding in found) else 0


def findings(socket: str | None) -> list[Finding]:
    """What is wrong with the daemon at this socket, or where a client looks for one."""
    scene = look(socket)
    found: list[Finding] = []
    for check in CHECKS:
        with contextlib.suppress(AtmostError, OSError):
            found += check(scene)
    return found


def _told(finding: Finding) -> str:
    kind = "serious" if finding.serious else "to know"
    return f"{kind}: {output.shown(finding.text)}\n    {output.shown(finding.mend)}\n"


COMMANDS = {
    "doctor": Command(
        "[--json]",
        "Look for what is wrong with the daemon, its socket and folders, its limits and this host, and\n"
        "name the command that mends it. It changes nothing and starts nothing.\n\n"
        "A line for each finding, and below it what to do. In a pipe a line of four fields, separated by\n"
        "tabs; --json has the same fields by name, in a list:\n  "
        + "\n  ".join(Finding._fields)
        + "\n\nExit code: 0 nothing serious, 1 something is.",
        json_option,
        doctor,
    ),
}
