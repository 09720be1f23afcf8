"""What may come next on a command line that is not finished, from the tables of the parser itself."""

from __future__ import annotations

import argparse
import contextlib
import signal
from argparse import Namespace
from collections.abc import Iterable, Iterator
from types import FrameType

from atmost.cli import parser
from atmost.cli.parser import COMMANDS, GROUPS, Command
from atmost.errors import AtmostError

NAMES_SECONDS = 1.0  # for the daemon to say its limits' names: somebody waits at a prompt
FILE = "/"  # no word of ours: a file, or a command

_PLAIN = frozenset("-_./,+@%^")  # and letters and digits: they mean nothing to bash


def words_of(given: Namespace) -> list[str]:
    """The words for what the script of a shell has said; quoted for bash, which does not do that."""
    if given.line is None:
        *before, current = given.behind
        return next_words([*before, split(current, "")[0][-1]], given.socket)  # as it is typed
    words, head, quote = split(given.line, given.breaks)
    found = next_words(words, given.socket)
    return found if found == [FILE] else [quoted(word[len(head) :], quote) for word in found]


def next_words(words: list[str], socket: str | None = None) -> list[str]:
    """What can stand in place of the last of these words, of which the first is `atmost`."""
    *before, current = words[1:] or [""]
    at = 0
    while at < len(before) and before[at].startswith("-"):
        if before[at] == "--socket" and at + 1 < len(before):
            socket = before[at + 1]
            at += 1
        at += 1
    if before[-1:] == ["--socket"]:
        return [FILE]
    if at == len(before):
        first = ["--socket", "--version", "--help"] if current.startswith("-") else _commands()
        return _matching(first, current)
    return _of_command(before[at], before[at + 1 :], current, socket)


def _commands() -> list[str]:
    return [*COMMANDS, "help"]


def _of_command(name: str, before: list[str], current: str, socket: str | None) -> list[str]:
    if name == "help":
        name, before = (before[0], before[1:]) if before else ("", [])
        if not name:
            return _matching(COMMANDS, current)
        return _matching(parser.subcommands(name), current) if not before else []
    if name not in COMMANDS:
        return []
    if name in GROUPS:
        words = parser.subcommands(name)
        if not before:
            return _matching(words, current)
        if before[0] not in words:
            return []
        name, before = f"{name} {before[0]}", before[1:]
    command = parser.command_named(name)
    if "--" in before:
        return [FILE] if command.becomes else []
    return _of_options(name, command, before, current, socket)


def _of_options(
    name: str, command: Command, before: list[str], current: str, socket: str | None
) -> list[str]:
    options = parser.parser_of(name, command)._option_string_actions
    given = [word.partition("=")[0] for word in before if word.startswith("-")]
    last = options.get(before[-1]) if before else None
    if last is not None and last.nargs is None:  # its value comes
        return _values(last, current, socket)
    if current.startswith("-"):
        free = [
            word
            for word, action in options.items()
            if isinstance(action, argparse._AppendAction) or word not in given
        ]
        return _matching(free if len(current) > 1 else [w for w in free if w[:2] == "--"], current)
    if command.choices:
        return _matching([word for word in command.choices if word not in before], current)
    if command.names_max == 0:
        return []
    return _matching([name for name in _names(socket) if name not in before], current)


def _values(action: argparse.Action, current: str, socket: str | None) -> list[str]:
    """What an option takes."""
    if action.choices is not None:
        return _matching(map(str, action.choices), current)
    if action.dest == "socket" or action.metavar in ("PATH", "FILE", "DIR"):
        return [FILE]
    if action.type is parser.limit_name:
        return _matching(_names(socket), current)
    if "NAME=" in str(action.metavar):
        return _matching((f"{name}=" for name in _names(socket)), current)
    return []


def _matching(words: Iterable[str], current: str) -> list[str]:
    return [word for word in words if word.startswith(current)]


def _names(socket: str | None) -> list[str]:
    """Of the limits there are; none if that cannot be had soon."""
    from atmost.sync import Client

    with (
        contextlib.suppress(AtmostError, TimeoutError, ValueError),
        _in_time(),
        Client(socket, _start=False) as client,
    ):
        return [limit.name for limit in client.list_limits()]
    return []


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, NAMES_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# bash


def split(line: str, breaks: str) -> tuple[list[str], str, str]:
    """The words of an unfinished line as a shell reads them; what of the last one bash does not
    replace (what stands before a quote or one of `breaks`); and the quote that it is in."""
    words, word, head, quote = [], "", "", ""
    escaped = begun = False
    for char in line:
        if escaped:
            kept = quote == '"' and char not in '"\\$`'
            word += f"\\{char}" if kept else char
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            if char == quote:
                quote = ""
            else:
                word += char
        elif char in "'\"":
            quote, head, begun = char, word, True
        elif char.isspace():
            if begun:
                words.append(word)
            word, head, begun = "", "", False
        else:
            word += char
            begun = True
            if char in breaks:
                head = word
    return [*words, word], head, quote


def quoted(text: str, quote: str) -> str:
    """The text as it has to stand in a line of bash, behind an open quote or none."""
    if quote == "'":
        return text.replace("'", "'\\''")
    if quote:
        return "".join(f"\\{char}" if char in '"\\$`' else char for char in text)
    body = text.removesuffix("=")
    return "".join(c if c.isalnum() or c in _PLAIN else f"\\{c}" for c in body) + text[len(body) :]
