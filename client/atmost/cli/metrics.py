"""metrics: what the daemon has counted, for Prometheus."""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace

from atmost.cli import output
from atmost.cli.parser import Command, Parser
from atmost.errors import DaemonUnavailable
from atmost.prometheus import render, unreachable
from atmost.sync import Client

TEXTFILE_MODE = 0o644  # node_exporter is another user


def metrics(given: Namespace) -> int:
    """Write the page, or have a file be it."""
    try:
        with Client(given.socket) as client:
            page = render(client.list_statistics())
    except DaemonUnavailable:
        if given.textfile is not None:
            _replace(given.textfile, unreachable())
        raise
    if given.textfile is None:
        output.write_text(page, encoding="utf-8")
    else:
        _replace(given.textfile, page)
    return 0


def _replace(path: str, page: str) -> None:
    """Whoever reads the file finds the page before or this one, whole. Raises OSError."""
    folder, name = os.path.split(path)
    # node_exporter reads what ends in .prom alone.
    new = os.path.join(folder, f".{name}.{os.getpid()}.new")
    try:
        with open(new, "x", encoding="utf-8") as file:
            os.fchmod(file.fileno(), TEXTFILE_MODE)
            file.write(page)
        os.replace(new, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def _options(of: Parser) -> None:
    of.add_argument(
        "--textfile", metavar="PATH", help="replace this file, for node_exporter, in one step"
    )


COMMANDS = {
    "metrics": Command(
        "[--textfile PATH]",
        "Write what was counted since the daemon started in Prometheus' text format: for each limit\n"
        "its slots held, spent and waited for, grants, refusals by reason, time-outs, deaths of holders,\n"
        "histograms of waits and holds; and the daemon's own delay, journal, state and clients.\n\n"
        "With --textfile, and no daemon, the file says `atmost_up 0`, and the exit code is 1.",
        _options,
        metrics,
    ),
}
