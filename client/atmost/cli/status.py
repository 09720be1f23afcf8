"""status and sockname: whether the daemon runs, and where it is to be found."""

from __future__ import annotations

import os
import socket
from argparse import Namespace

from atmost.cli import output
from atmost.cli.parser import Command, json_option, no_options
from atmost.connecting import check_owner
from atmost.errors import AtmostError, DaemonUnavailable
from atmost.paths import SocketPath, socket_paths
from atmost.sync import Client

EXIT_RUNS = 0  # the exit codes of `status` are those of the LSB
EXIT_NOT_RUNNING = 3
EXIT_NO_ANSWER = 4

FIELDS = (
    "version",
    "pid",
    "uptime_seconds",
    "socket",
    "state_dir",
    "runtime_dir",
    "limits",
    "sessions",
    "held",
    "waiting",
    "trouble",
)


def status(given: Namespace) -> int:
    """Whether the daemon runs, and what it says of itself."""
    try:
        with Client(given.socket, _start=False) as client:
            record = client.status()
    except AtmostError as error:
        return _no_status(given, error)
    fields = {"state": "running"} | {name: getattr(record, name) for name in FIELDS}
    if given.json:
        output.write_json(fields)
    else:
        output.write_fields(fields, {})
    return EXIT_RUNS


def sockname(given: Namespace) -> int:
    """The path of the socket that a client uses."""
    at = listening(given.socket)
    output.write_lines([[at.path if at else _where_a_daemon_would_listen(given.socket)]])
    return 0


def _no_status(given: Namespace, error: AtmostError) -> int:
    there = not isinstance(error, DaemonUnavailable) or listening(given.socket) is not None
    if given.json:
        state = "no_answer" if there else "not_running"
        output.write_json({"state": state, "reason": str(error)})
    output.talk(str(error))
    return EXIT_NO_ANSWER if there else EXIT_NOT_RUNNING


def listening(given: str | None) -> SocketPath | None:
    """The first of the paths to try where somebody listens, whether or not they answer us."""
    for at in socket_paths(given):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(at.path)
                check_owner(at, probe)
            except (BlockingIOError, PermissionError):
                return at
            except OSError:
                continue
        return at
    return None


def _where_a_daemon_would_listen(given: str | None) -> str:
    """The path that an `atmostd` takes which this user starts now."""
    system_or_named, *users = socket_paths(given)
    return (users[0] if users and os.geteuid() else system_or_named).path


COMMANDS = {
    "status": Command(
        "[--json]",
        "Say whether the daemon runs, and what it says of itself: a line for each field; in a pipe\n"
        "a tab between its name and its value. --json has the same fields, in one object:\n  state"
        + "".join(f"\n  {name}" for name in FIELDS)
        + "\nstate is running, not_running or no_answer; with the last two, reason is the only other\n"
        "field. trouble is what an operator has to mend.\n\n"
        "Exit code: 0 it runs, 3 it does not, 4 something is there but gives no answer.",
        json_option,
        status,
    ),
    "sockname": Command(
        "",
        "Write the path of the socket that is used: --socket, else $ATMOST_SOCKET, else the system's\n"
        "or the user's own, the first where a daemon listens. If none does: where the daemon would\n"
        "listen if this user started it.",
        no_options,
        sockname,
    ),
}
