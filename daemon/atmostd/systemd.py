"""What systemd and the daemon tell each other, in the two protocols of sd_listen_fds(3) and sd_notify(3).

Rule 1: what was told to us is read once and taken out of the environment: it is for nobody else.
Rule 2: a socket that we were given is looked at before it is used; who gave it keeps its path.
Rule 3: we never wait for systemd: a message that is not taken at once is not sent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import MutableMapping
from typing import NamedTuple

from atmostd import config

_FIRST = 3  # SD_LISTEN_FDS_START
_MICROSECONDS = 1_000_000
_LISTEN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_WATCHDOG = ("WATCHDOG_USEC", "WATCHDOG_PID")


class NotUsable(Exception):
    """What we were given can't be used; the message says why and what to do."""


class Notifier:
    """Tells systemd what becomes of us; says nothing if nobody wants to hear it."""

    def __init__(self, address: str = "") -> None:
        """`address`: NOTIFY_SOCKET; a leading @ is the abstract one's NUL."""
        self.wanted = bool(address)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None

    def tell(self, *lines: str) -> bool:
        """Lines such as READY=1. Returns False if they were not taken now but would be later."""
        if not self.wanted:
            return True
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            data = "\n".join(lines).encode(errors="replace")
            self._socket.sendto(data, socket.MSG_DONTWAIT, self._address)
        except BlockingIOError:
            return False
        except (OSError, ValueError):  # nobody is there any more; we go on without
            return True
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Manager(NamedTuple):
    """What whoever started us has said."""

    listening: socket.socket | None  # None: we make our own
    notifier: Notifier
    watchdog_seconds: float | None  # we are shot if we say nothing for so long; None: never

    def cannot_start(self, reason: str) -> None:
        """Say why. We are started again at once, for a crash must cost nobody time; so it is here that
        what goes on failing is kept from taking all of a processor, and all of a log."""
        self.notifier.tell(f"STATUS=it cannot start: {reason}".replace("\n", " "))
        if self.notifier.wanted:
            signal.sigtimedwait((), config.CANNOT_START_SECONDS)

    def will_not_start(self) -> None:
        """Nothing but a change by a person will help. Whoever waits on the socket is sent away: we would
        be started for them again and again, though systemd was told not to restart us."""
        if self.listening is None:
            return
        with contextlib.suppress(OSError):
            while True:
                self.listening.accept()[0].close()


NOBODY = Manager(None, Notifier(), None)


def manager(environ: MutableMapping[str, str] = os.environ) -> Manager:
    """Read the environment, and take out of it what was for us. Raises NotUsable."""
    listen = {name: environ.pop(name, "") for name in _LISTEN}
    watchdog = {name: environ.pop(name, "") for name in _WATCHDOG}
    notifier = Notifier(environ.pop("NOTIFY_SOCKET", ""))
    return Manager(_listening(listen), notifier, _watchdog_seconds(watchdog))


def _listening(told: dict[str, str]) -> socket.socket | None:
    if told["LISTEN_PID"] != str(os.getpid()):
        return None  # it was for the process that started us
    count = _whole(told["LISTEN_FDS"])
    if not count:
        return None
    if count > 1:
        names = told["LISTEN_FDNAMES"] or "no names"
        raise NotUsable(
            f"{count} sockets were handed to atmostd ({names}), and it listens on one: leave one "
            "ListenStream= in atmostd.socket"
        )
    try:
        given = socket.socket(fileno=_FIRST)
    except OSError as error:
        raise NotUsable(
            f"LISTEN_FDS says that descriptor {_FIRST} is a socket to listen on: {error.strerror}"
        ) from error
    wrong = _what_is_wrong(given)
    if wrong:
        given.close()
        raise NotUsable(
            f"the socket that was handed to atmostd {wrong}: it takes a ListenStream= with an "
            "absolute path"
        )
    given.set_inheritable(False)
    given.setblocking(False)
    return given


def _what_is_wrong(given: socket.socket) -> str:
    """In words; empty if it can be used."""
    if given.family != socket.AF_UNIX:
        return "is no Unix socket"
    if given.type != socket.SOCK_STREAM:
        return "is no stream socket"
    if not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen"
    name = given.getsockname()
    if not isinstance(name, str) or not name:
        # Whoever comes first takes an abstract name: no folder says whose it may be.
        return "has no path"
    return ""


def _watchdog_seconds(told: dict[str, str]) -> float | None:
    if told["WATCHDOG_PID"] not in ("", str(os.getpid())):
        return None
    microseconds = _whole(told["WATCHDOG_USEC"])
    return microseconds / _MICROSECONDS if microseconds else None


def _whole(text: str) -> int:
    with contextlib.suppress(ValueError):
        return max(0, int(text))
    return 0
