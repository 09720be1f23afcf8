"""top: all limits at a glance, live, and who holds and waits at the one that is picked."""

from __future__ import annotations

import contextlib
import os
import time
from argparse import Namespace
from collections.abc import Iterator

from atmost.cli.parser import Command, no_options
from atmost.cli.screen import Screen, is_terminal
from atmost.cli.topview import HELP, Row, View, lines_of
from atmost.errors import DaemonUnavailable, LimitNotFound
from atmost.sync import Client

FRAME_SECONDS = 1.0  # between two looks; keys are answered at once
LOOK_SHARE_MAX = 0.1  # of the time that looking itself may take: there may be 100,000 limits
RECONNECT_SECONDS = 0.3  # keys wait for so long while the daemon is away


def top(given: Namespace) -> int:
    """Until q or Ctrl-C."""
    if not is_terminal():
        given.parser.error("top needs a terminal; elsewhere there are: atmost ls, atmost watch")
    view = View(colours=not os.environ.get("NO_COLOR"))
    with Client(given.socket, reconnect_seconds=RECONNECT_SECONDS) as client:
        eyes = _Eyes(client)
        eyes.look(view)  # without a daemon: an error, and no screen
        with Screen() as screen:
            while True:
                columns, rows = screen.size()
                screen.draw(lines_of(view, columns, rows))
                entered = False
                for key in screen.keys(None if view.paused else eyes.seconds_left()):
                    if not view.press(key):
                        return 0
                    entered = entered or key == "enter"
                with _trouble_told(view, eyes):
                    if entered:
                        eyes.look_inside(view)  # also while all else stands still
                    if not view.paused and eyes.seconds_left() <= 0:
                        eyes.look(view)


@contextlib.contextmanager
def _trouble_told(view: View, eyes: _Eyes) -> Iterator[None]:
    """A daemon that is away may come back."""
    try:
        yield
    except DaemonUnavailable as error:
        view.trouble = error.reason
        eyes.rest()


class _Eyes:
    """Look at the daemon, not more often than once in a while."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next = 0.0
        self._looked = 0.0
        self._grants: dict[str, int] = {}

    def seconds_left(self) -> float:
        return max(0.0, self._next - time.monotonic())

    def rest(self) -> None:
        self._next = time.monotonic() + FRAME_SECONDS

    def look(self, view: View) -> None:
        """Raises DaemonUnavailable."""
        began = time.monotonic()
        limits = self._client.list_statistics().limits
        elapsed = began - self._looked if self._grants else 0.0
        view.rows = [
            Row(limit, _rate(limit.grants - self._grants.get(limit.name, limit.grants), elapsed))
            for limit in limits
        ]
        self._grants = {limit.name: limit.grants for limit in limits}
        self.look_inside(view)
        view.trouble = ""
        self._looked = began
        took = time.monotonic() - began
        self._next = began + max(FRAME_SECONDS, took / LOOK_SHARE_MAX)

    def look_inside(self, view: View) -> None:
        """At the one limit, if there is one. Raises DaemonUnavailable."""
        if view.inside:
            try:
                view.tickets = self._client.list_tickets(view.picked)
            except LimitNotFound:
                view.inside = False


def _rate(count: int, seconds: float) -> float:
    return max(0, count) / seconds if seconds > 0 else 0.0


COMMANDS = {
    "top": Command(
        "",
        "Show all limits, live: slots used, requests waiting, the oldest wait, grants a second.\n"
        "A frame a second at most. Keys:\n\n  " + "\n  ".join(HELP),
        no_options,
        top,
    ),
}
