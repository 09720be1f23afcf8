"""Bytes of a terminal become keys. Pure.

Rule 1: what is no key that we know is no key at all: of an unknown sequence no part is taken for another.
Rule 2: a sequence may come in pieces, over a slow line. `Keys.unfinished` says so; whoever reads then
waits a moment for the rest, and says `finish()` if there is none: the escape key itself is one byte.
"""

from __future__ import annotations

import codecs
import re

_NAMED = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "back",
    "\x08": "back",
    "\x04": "end of input",
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    **dict.fromkeys(("\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~"), "home"),
    **dict.fromkeys(("\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~"), "end"),
}
# CSI and SS3 of ECMA-48, the function keys of the Linux console, and Alt with a key.
_SEQUENCE = re.compile(r"\x1b(?:\[\[.|\[[0-?]*[ -/]*[@-Z\\^-~]|O.|[^\[O\x1b])", re.DOTALL)
_BEGUN = re.compile(r"\x1b(?:\[\[?|\[[0-?]*[ -/]*|O)?", re.DOTALL)
_SEQUENCE_CHARS_MAX = 32  # longer than any that a terminal sends


class Keys:
    """What was typed, in order."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._typed = ""

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with these bytes: names, or single characters."""
        self._typed += self._decoder.decode(data)
        keys = []
        while self._typed and not self.unfinished:
            sequence = _SEQUENCE.match(self._typed)
            typed = sequence[0] if sequence else self._typed[0]
            self._typed = self._typed[len(typed) :]
            keys.append("escape" if typed == "\x1b" else _NAMED.get(typed, typed))
        return [key for key in keys if key in _NAMES or (len(key) == 1 and key.isprintable())]

    @property
    def unfinished(self) -> bool:
        """Whether more may belong to what came last."""
        short = len(self._typed) < _SEQUENCE_CHARS_MAX
        return short and bool(self._typed) and _BEGUN.fullmatch(self._typed) is not None

    def finish(self) -> list[str]:
        """Nothing more has come: the escape key, or no key at all."""
        typed, self._typed = self._typed, ""
        return ["escape"] if typed == "\x1b" else []


_NAMES = {*_NAMED.values(), "escape"}
