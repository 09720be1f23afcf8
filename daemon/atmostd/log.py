"""The daemon's log: a line for each event worth knowing, to journald or to stderr.

Rule 1: a line never waits: whoever reads the log and hangs costs lines, not grants.
Rule 2: a storm can't fill a disk: of one kind of line so many come at once, and then one a second.
Rule 3: what was left out is counted, and told with the next line of its kind.
Rule 4: a line whose number is bounded by what it tells of (`extra={"bounded": True}`) always comes through.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

JOURNALD = "/run/systemd/journal/socket"
AT_ONCE_MAX = 20  # lines of one kind
SECONDS_A_LINE = 1.0  # after that
PIPE_BYTES = 4096  # a pipe that poll(2) calls writable takes so many without waiting (PIPE_BUF)
FIELDS = ("limit", "path", "pid_of_client", "uid_of_client")  # what a line may carry besides text
FORMATS = ("text", "json")

_PRIORITIES = {  # of syslog(3)
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}

Write = Callable[[logging.LogRecord, str], bool]  # whether the line is out


def begin(level: int = logging.INFO, form: str = "text") -> None:
    """Send what is logged to journald if systemd has connected stderr to it, else to stderr.

    level: of the logging module; form: of a line on stderr, one of FORMATS. Called again, it changes
    both.
    """
    write = _journald(os.environ, JOURNALD) or _stderr(_FORMS[form])
    logging.basicConfig(level=level, handlers=[Lines(write)], force=True)


class Storms:
    """Says which lines come through: a bucket of tokens for each kind."""

    def __init__(self) -> None:
        self._kinds: dict[object, tuple[float, float, int]] = {}  # tokens, since when, left out

    def let_through(self, kind: object, now: float) -> int | None:
        """How many of this kind were left out before this one; None if it is left out too.

        now: seconds, of any clock that only rises.
        """
        tokens, since, left_out = self._kinds.get(kind, (float(AT_ONCE_MAX), now, 0))
        tokens = min(AT_ONCE_MAX, tokens + (now - since) / SECONDS_A_LINE)
        if tokens < 1:
            self._kinds[kind] = tokens, now, left_out + 1
            return None
        self._kinds[kind] = tokens - 1, now, 0
        return left_out

    def not_out(self, kind: object, left_out: int) -> None:
        """That line could not be written after all, nor what it told of those before it."""
        tokens, since, more = self._kinds[kind]
        self._kinds[kind] = tokens, since, more + left_out + 1


class Lines(logging.Handler):
    """Writes what comes through."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write
        self._storms = Storms()

    def emit(self, record: logging.LogRecord) -> None:
        # The place in the code and not the text, which may be different each time.
        kind = record.pathname, record.lineno
        try:
            bounded = getattr(record, "bounded", False)
            left_out = 0 if bounded else self._storms.let_through(kind, record.created)
            if left_out is None:
                return
            text = record.getMessage()
            if left_out:
                text += f" ({left_out} more like this were left out)"
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            if not self._write(record, text) and not bounded:
                self._storms.not_out(kind, left_out)
        except Exception:
            self.handleError(record)


# stderr


def _stderr(form: Callable[[logging.LogRecord, str], str]) -> Write:
    def write(record: logging.LogRecord, text: str) -> bool:
        data = form(record, text).encode("utf-8", "backslashreplace")
        while data:
            if not _takes_more(2):
                return False
            try:
                data = data[os.write(2, data[:PIPE_BYTES]) :]
            except OSError:  # a full disk, say
                return False
        return True

    return write


def _takes_more(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def _as_text(record: logging.LogRecord, text: str) -> str:
    return f"{_when(record):%Y-%m-%d %H:%M:%S},{record.msecs:03.0f} {record.levelname} {text}\n"


def _as_json(record: logging.LogRecord, text: str) -> str:
    line: dict[str, object] = {
        "time": _when(record).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "message": text,
        **dict(_fields(record)),
    }
    return json.dumps(line) + "\n"


_FORMS = {"text": _as_text, "json": _as_json}


def _when(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created).astimezone()


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    for name in FIELDS:
        value = getattr(record, name, None)
        if value is not None:
            yield name, value


# journald: https://systemd.io/JOURNAL_NATIVE_PROTOCOL


def _journald(environ: Mapping[str, str], path: str) -> Write | None:
    """How to write to journald, if that is where stderr goes."""
    if environ.get("JOURNAL_STREAM") != _stream_of(sys.stderr):
        return None
    try:
        to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        to.connect(path)
    except OSError:
        return None
    as_text = _stderr(_as_text)

    def write(record: logging.LogRecord, text: str) -> bool:
        try:
            to.send(_datagram(record, text), socket.MSG_DONTWAIT)
            return True
        except BlockingIOError:
            return False
        except OSError:  # too long for a datagram, or journald was restarted
            return as_text(record, text)

    return write


def _stream_of(file: object) -> str | None:
    try:
        found = os.fstat(file.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None
    return f"{found.st_dev}:{found.st_ino}"


def _datagram(record: logging.LogRecord, text: str) -> bytes:
    fields = {
        "MESSAGE": text,
        "PRIORITY": _PRIORITIES.get(record.levelno, 5),
        "SYSLOG_IDENTIFIER": "atmostd",
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        **{f"ATMOST_{name.upper()}": value for name, value in _fields(record)},
    }
    return b"".join(_field(name, str(value)) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
