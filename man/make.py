"""Writes the man pages, from the same tables that make `--help`: `.venv/bin/python man/make.py`.

They lie in the repository, so that building a wheel needs nothing but files; tests/test_man.py says if
they are stale.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from atmost import paths
from atmost.cli import parser
from atmostd import settings

FOLDER = Path(__file__).parent

ENVIRONMENT = {
    "ATMOST_SOCKET": "The path of the daemon's socket. No daemon is started for it by itself.",
    "ATMOST_AUTOSTART": "0: no daemon is started by itself.",
    "XDG_RUNTIME_DIR, XDG_STATE_HOME": "Where a user's own daemon has its socket, its state and its log.",
    "NO_COLOR, COLUMNS": "How tables are shown on a terminal.",
}
FILES = {
    f"{paths.SYSTEM_RUNTIME_DIR}/{paths.SOCKET_NAME}": "The socket of the system's daemon.",
    f"{paths.SYSTEM_STATE_DIR}": "Its state.",
    f"$XDG_RUNTIME_DIR/atmost/{paths.SOCKET_NAME}": "The socket of a user's own daemon; without that "
    "variable it is below /run/user, or in /tmp/atmost-UID.",
    "$XDG_STATE_HOME/atmost": f"Its state, and {paths.LOG_NAME}, where a daemon logs to that was started "
    "in the background; without that variable in ~/.local/state/atmost.",
}


def pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    return {"atmost.1": "\n".join(_atmost()) + "\n", "atmostd.8": "\n".join(_atmostd()) + "\n"}


def _atmost() -> Iterator[str]:
    yield from _title("atmost", 1, "at most N at once, at most R per second, across a host")
    yield from (".SH SYNOPSIS", ".B atmost", _escaped("[--socket PATH] COMMAND ..."))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(
        "A limit has a name, a number of slots, and perhaps a rate at which spent slots come back. The "
        "daemon atmostd keeps the limits of this host; this command makes and changes them, runs other "
        "commands inside of them, and shows who holds slots and who waits."
    )
    yield ".SH COMMANDS"
    for name in parser.every_command():
        command = parser.command_named(name)
        yield f".SS {_escaped(f'atmost {name}')}"
        yield f".B {_escaped(f'atmost {name}')}"
        if command.usage:
            yield _escaped(" ".join(command.usage.split()))
        yield from _paragraphs(command.about)
        yield from _options(parser.parser_of(name, command)._actions, besides={"help", "socket"})
    yield ".SH OPTIONS"
    yield from _tagged(
        {
            "--socket PATH": "The daemon's socket; also behind a command.",
            "--version": "The version.",
            "-h, --help": "Help; behind a command, that of the command.",
        }
    )
    yield ".SH EXIT STATUS"
    yield from _paragraphs(
        "0 done; 1 failed, and stderr says why; 2 wrong arguments. run, status, recover and doctor have "
        "codes of their own, named above."
    )
    yield from (".SH ENVIRONMENT", *_tagged(ENVIRONMENT), ".SH FILES", *_tagged(FILES))
    yield from (".SH SEE ALSO", ".BR atmostd (8)")


def _atmostd() -> Iterator[str]:
    of = settings.arguments_parser()
    yield from _title(
        "atmostd", 8, "the daemon that keeps the concurrency and rate limits of a host"
    )
    yield from (".SH SYNOPSIS", ".B atmostd", _escaped("[OPTION]..."), ".SH DESCRIPTION")
    yield from _paragraphs(of.description or "")
    yield from _paragraphs(
        "It stops at SIGTERM or SIGINT. However it ends, holders keep their slots and waiters their "
        "places until the next one is there."
    )
    yield from (".SH OPTIONS", *_options(of._actions, besides=set()))
    head, *rows = (of.epilog or "").splitlines()
    yield from (
        ".SH BOUNDS",
        _escaped(head[0].upper() + head[1:]),
        ".nf",
        *map(_escaped, rows),
        ".fi",
    )
    yield ".SH EXIT STATUS"
    yield from _paragraphs(
        "0 stopped as told, or nobody was there for --idle-seconds; 1 it could not start, and the last "
        "line says why; 2 wrong arguments; 70 a broken invariant."
    )
    yield from (".SH FILES", *_tagged(FILES), ".SH SEE ALSO", ".BR atmost (1)")


def _title(name: str, section: int, about: str) -> Iterator[str]:
    yield r".\" made by man/make.py from what --help says"
    yield f'.TH {name.upper()} {section} "" "atmost {paths.version()}"'
    yield from (".SH NAME", _escaped(f"{name} - {about}"))


def _paragraphs(text: str) -> Iterator[str]:
    """What is indented stays as it is; all else is filled."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        yield ".PP"
        fixed = False
        for line in block.splitlines():
            if line.startswith("  ") != fixed:
                fixed = not fixed
                yield ".nf" if fixed else ".fi"
            yield _escaped(line)
        if fixed:
            yield ".fi"


def _options(actions: Iterable[argparse.Action], besides: set[str]) -> Iterator[str]:
    told = {}
    for action in actions:
        if action.option_strings and action.dest not in besides:
            value = f" {action.metavar}" if action.metavar else ""
            told[", ".join(action.option_strings) + value] = action.help or ""
    return _tagged(told)


def _tagged(items: dict[str, str]) -> Iterator[str]:
    for tag, text in items.items():
        yield from (".TP", f".B {_escaped(tag)}", _escaped(text))


def _escaped(text: str) -> str:
    """As roff shows it."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    text = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)
    return f"\\&{text}" if text.startswith((".", " ")) else text


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
