"""watch: what happens at the limits, a line for each event, until Ctrl-C."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import NoReturn

from atmost.cli import ending, output
from atmost.cli.parser import Command, Parser
from atmost.cli.words import duration, slots_text
from atmost.errors import DaemonUnavailable
from atmost.sync import Client, Event

RECONNECT_SECONDS = 1.0  # then it says that the daemon is away, and goes on waiting for it
AWAY_LOOK_SECONDS = 0.5
KIND_COLUMNS = 11


def watch(given: Namespace) -> int:
    """Until Ctrl-C or the end of the pipe."""
    try:
        output.write_text("")  # or that nobody can read it would be told with the first event
        ending.watch_reader()
        _watch(given)
    except ending.ReaderGone:
        return ending.die_of_broken_pipe()


def _watch(given: Namespace) -> NoReturn:
    name = given.names[0] if given.names else None
    write = _write_json if given.json else _write_text
    daemon: tuple[int, float] | None = None  # the one that was there last
    away = False
    while True:
        try:
            with (
                Client(given.socket, reconnect_seconds=RECONNECT_SECONDS) as client,
                client.watch(name) as events,
            ):
                if away:
                    output.talk("the daemon is back")
                away = False
                for event in events:
                    before = daemon
                    if event.kind == "daemon_started":
                        daemon = event.pid, event.at
                    write(event, before)
                    output.flush()
        except DaemonUnavailable as error:
            if daemon is None:
                raise
            if not away:
                output.talk(f"{error.reason}; waiting for the daemon to come back")
            away = True
            time.sleep(AWAY_LOOK_SECONDS)


def _write_json(event: Event, _: tuple[int, float] | None) -> None:
    output.write_json_line(event)


def _write_text(event: Event, daemon: tuple[int, float] | None) -> None:
    if event.kind != "daemon_started":
        output.write_text(_line(event.at, event.kind, _told(event)))
    elif daemon is None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
        output.talk(f"watching; the daemon (pid {event.pid}) has been running since {since}")
    elif daemon == (event.pid, event.at):
        text = "the connection was lost for a moment; what happened then is not known"
        output.write_text(_line(time.time(), "missed", text))
    else:
        text = f"the daemon was restarted (pid {event.pid}); who holds and waits still does"
        output.write_text(_line(event.at, "restarted", text))


def _line(at: float, kind: str, told: str) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    return f"{clock}.{int(at * 1000) % 1000:03} {kind:<{KIND_COLUMNS}}{told}\n"


def _told(event: Event) -> str:
    """What there is to say, in one line."""
    if event.kind == "missed":
        return f"{event.missed} events, for this reader was too slow"
    words = [output.shown(event.limit)]
    if event.slots:
        words.append(slots_text(event.slots))
    if event.pid:
        words.append(output.shown(f"pid {event.pid} ({event.user}, {event.command})"))
    if event.waited_seconds is not None and event.kind not in ("released", "died"):
        words.append(f"waited {duration(event.waited_seconds)}")
    if event.held_seconds is not None:
        words.append(f"held {duration(event.held_seconds)}")
    if event.token and event.kind == "granted":
        words.append(f"grant {event.token}")
    if event.reason:
        words.append(output.shown(event.reason))
    return ", ".join(filter(None, words))


def _options(of: Parser) -> None:
    of.add_argument("--json", action="store_true", help="write NDJSON: an object a line")


COMMANDS = {
    "watch": Command(
        "[NAME] [--json]",
        "Show what happens at all limits or at one, a line for each event, until Ctrl-C: created,\n"
        "changed, deleted; queued, granted, released, refused, timed_out, cancelled; died (a holder\n"
        "was killed), reconnected (a client is back after a restart of the daemon), restarted, and\n"
        "missed, with how many: a reader that is too slow is not waited for.\n\n"
        "--json writes an object for each, flushed at once, with the fields\n  "
        + "\n  ".join(Event.__struct_fields__)
        + "\nwhere daemon_started is the first, and comes again whenever the connection was lost.",
        _options,
        watch,
        names_max=1,
    ),
}
