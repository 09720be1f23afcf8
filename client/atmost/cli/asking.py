"""Asking a person before something that cannot be undone."""

from __future__ import annotations

import sys

from atmost.cli.parser import Parser


def can_ask() -> bool:
    """Whether a person sees the question and can answer it."""
    ends = (sys.stdin, sys.stderr)
    return all(end is not None and end.isatty() for end in ends)


def confirmed(question: str) -> bool:
    """Ask. Only a yes is one: not the end of the input, nor Ctrl-C."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")


def yes_option(of: Parser) -> None:
    """-y"""
    of.add_argument("-y", "--yes", action="store_true", help="do not ask")
