"""Where the daemon's words go, and how they look: lines of text, or of JSON."""

from __future__ import annotations

import logging
import sys

import msgspec

TEXT = "%(asctime)s %(levelname)s %(message)s"


def set_up(level: str, form: str) -> None:
    """Log to stderr from now on. Called again, it changes how."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stderr))
    formatter = _Json() if form == "json" else logging.Formatter(TEXT)
    for handler in root.handlers:
        handler.setFormatter(formatter)
    root.setLevel(level.upper())


class _Json(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        fields = {
            "time": record.created,
            "level": record.levelname.lower(),
            "message": text,
            "logger": record.name,
            "pid": record.process,
        }
        return msgspec.json.encode(fields).decode()
