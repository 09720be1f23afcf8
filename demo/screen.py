"""Where the demo is seen: a picture that is redrawn in place, or plain lines now and then.

Rule 1: only a terminal gets escape sequences, and with NO_COLOR no colours (no-color.org).
Rule 2: a picture is at most WIDTH wide and keeps its height, so that nothing jumps.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

WIDTH = 80
PLAIN_SECONDS = 1.0  # between two lines where nothing can be redrawn

BOLD, DIM, GREEN, YELLOW, RED = "1", "2", "32", "33", "31"


class Screen:
    """Say something for good, or show a picture for now."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self.live = (
            stream.isatty()
            and environ.get("TERM", "dumb") != "dumb"
            and shutil.get_terminal_size().columns >= WIDTH
        )
        self._colours = self.live and not environ.get("NO_COLOR")
        self._height = 0  # of the picture that stands there now
        self._plain_due = 0.0

    def paint(self, text: str, style: str) -> str:
        """The text in a colour, if there are any."""
        return f"\033[{style}m{text}\033[0m" if self._colours and text else text

    def say(self, text: str = "") -> None:
        """Lines that stay. They come below the last picture."""
        self._height = 0
        self._plain_due = time.monotonic() + PLAIN_SECONDS / 2  # something has happened by then
        self._write(text + "\n")

    def show(self, picture: Sequence[str], words: str) -> None:
        """The picture in place of the last one; where that cannot be, its words as a line."""
        if self.live:
            up = f"\033[{self._height}A" if self._height else ""
            self._height = len(picture)
            self._write(up + "".join(f"\r\033[2K{line}\n" for line in picture))
        elif time.monotonic() >= self._plain_due:
            self._plain_due = time.monotonic() + PLAIN_SECONDS
            self._write(words + "\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def bar(part: float, width: int) -> str:
    """So much of a whole, from 0 to 1."""
    filled = round(max(0.0, min(1.0, part)) * width)
    return "█" * filled + "·" * (width - filled)


def standard_output() -> TextIO:
    """stdout, also where its encoding lacks a sign that we draw."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return sys.stdout
