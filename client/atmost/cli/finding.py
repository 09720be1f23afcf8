"""What `doctor` finds, and the scene that its checks look at."""

from __future__ import annotations

import os
from typing import NamedTuple

from atmost.cli.status import listening
from atmost.errors import AtmostError
from atmost.paths import SocketPath, socket_paths
from atmost.sync import Client
from atmost.wire import DaemonStatus


class Finding(NamedTuple):
    """Something that is wrong, or worth to know."""

    finding: str  # its name, for a program
    serious: bool  # the promise does not hold, or will soon not
    text: str  # what is wrong, with path or limit
    mend: str  # the command that mends it, or what to do


class Place(NamedTuple):
    """A socket that a client of this user may try."""

    at: SocketPath
    there: bool  # the socket, or something in its place
    status: DaemonStatus | None  # of who answers there
    error: AtmostError | None  # why nobody does

    listens: bool  # somebody does, whether or not there is an answer

    @property
    def refuses(self) -> bool:
        """Something is there, but does not answer as a daemon of ours does."""
        return self.listens and self.status is None


class Scene(NamedTuple):
    """All of them, and the one that is used."""

    places: list[Place]
    used: Place | None  # the daemon that clients talk to, if one answers
    given: str | None  # the path that was named, if one was

    @property
    def named(self) -> bool:
        return len(self.places) == 1


def look(given: str | None) -> Scene:
    """Ask at each place who is there. Starts nothing."""
    places = [_place(at) for at in socket_paths(given)]
    used = next((place for place in places if place.status or place.refuses), None)
    return Scene(places, used if used and used.status else None, given)


def _place(at: SocketPath) -> Place:
    try:
        os.lstat(at.path)
        there = True
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except OSError:
        there = True
    listens = listening(at.path) is not None
    try:
        with Client(at.path, _start=False) as client:
            return Place(at, there, client.status(), None, True)
    except AtmostError as error:
        return Place(at, there, None, error, listens)
