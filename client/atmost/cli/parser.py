"""Arguments: what the command line says, checked before anything is sent.

Rule: only the parser of the subcommand in use is built.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, NoReturn, TypeVar

from atmost import paths
from atmost.cli import output
from atmost.errors import InvalidValue
from atmost.rates import RATE_WORDS, slots_per_second
from atmost.values import check_decay, check_limit, check_name

COMMANDS = {
    "create": "changing",
    "ls": "reading",
    "inspect": "reading",
    "update": "changing",
    "enable": "changing",
    "disable": "changing",
    "delete": "changing",
    "ps": "reading",
    "explain": "explain",
    "watch": "watch",
    "top": "top",
    "release": "operating",
    "reset": "operating",
    "run": "run",
    "status": "status",
    "metrics": "metrics",
    "web": "web",
    "recover": "recover",
    "sockname": "status",
    "apply": "apply",
    "export": "apply",
    "templates": "apply",
    "daemon": "daemon",
    "doctor": "doctor",
    "completion": "completion",
}
GROUPS = {"daemon"}  # whose module has SUBCOMMANDS, word -> module, and HELP

HELP = """\
usage: atmost [--socket PATH] COMMAND ...

At most N at once, at most R per second, across every process on this host.

limits
  create NAME --limit N     make a limit
  ls                        list all limits
  inspect NAME              show one limit
  update NAME               change what is given of a limit
  enable NAME...            enforce limits
  disable NAME...           let everyone through, until enabled again
  delete NAME...            delete limits
  apply -f FILE             make limits and templates what a file says
  export                    write limits and templates as such a file
  templates                 list what is made of names on their first use
  reset NAME...             have nothing spent any more

slots
  run NAME... -- COMMAND    wait for slots, then become COMMAND and hold them until it ends
  ps [NAME]                 who holds slots, who waits for them
  explain NAME|PID          why something waits, and when it will go
  watch [NAME]              what happens, as it happens
  top                       all of it at a glance, live
  release GRANT...          take slots back from who holds them

the daemon
  daemon COMMAND            start, stop, reload, install, ...: see atmost daemon --help
  status                    whether it runs, and what it says of itself
  metrics                   counters and histograms, for Prometheus
  web                       a page to look at all of it and change it, in a browser
  sockname                  the path of its socket
  recover                   what it kept and cannot trust, and going on without that
  doctor                    what is wrong here, and the command that mends it

the shell
  completion SHELL          the script that completes commands and limits in bash, zsh or fish

options
  --socket PATH             the daemon's socket; else $ATMOST_SOCKET, /run/atmost/atmost.sock,
                            or the user's own, whichever is there first
  --version                 the version
  -h, --help                this, and after a command what there is to know about it
"""

T = TypeVar("T")

_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Command(NamedTuple):
    """A subcommand."""

    usage: str  # behind its name
    about: str
    options: Callable[[Parser], None]
    perform: Callable[[argparse.Namespace], int]
    names_min: int = 0
    names_max: int | None = 0  # None: any number
    failure: int = 1  # the exit code of an error that is not one of usage
    becomes: bool = False  # what stands behind `--` is a command to run
    takes_rest: bool = False  # what stands behind `--` is for something else, and may be nothing
    choices: tuple[str, ...] = ()  # what a name can be, where it is none of a limit


class Parser(argparse.ArgumentParser):
    """argparse, quick to build: without looking for translations or the terminal's size."""

    def __init__(self, prog: str, usage: str, about: str) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=about,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.add_argument("--socket", metavar="PATH", type=_path, help="the daemon's socket")

    def print_help(self, file: Any = None) -> None:
        """Write the help. Raises OSError if that can't be."""
        output.write_text(self.format_help())

    def error(self, message: str) -> NoReturn:
        """Say the usage and what is wrong. Exits with 2."""
        super().error(output.shown(message))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exit when what was written is out. Raises OSError if it can't be."""
        output.flush()
        super().exit(status, message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **given: Any) -> None:
        given.update(width=min(100, output.terminal_columns()) - 2, max_help_position=32)
        super().__init__(prog, **given)


def parse(arguments: list[str]) -> tuple[Command, argparse.Namespace]:
    """The command and what was given to it. Exits with 2 if that is wrong, with 0 after help.

    Every Namespace has socket, names, parser, and what stood behind `--` if the command becomes that.
    """
    socket, name, rest = _before_the_command(arguments)
    if name == "help":
        return parse([*rest[:2], "--help"])
    if name in GROUPS:
        name, rest = _of_group(name, rest)
    command = command_named(name)
    parser = parser_of(name, command)
    given = _parse(parser, command, rest)
    given.socket = given.socket or socket
    given.parser = parser
    return command, given


def command_named(name: str) -> Command:
    """The subcommand of this name, such as `ls` or `daemon start`."""
    group, _, word = name.partition(" ")
    module = _module(group).SUBCOMMANDS[word] if word else COMMANDS[group]
    command: Command = import_module(f"atmost.cli.{module}").COMMANDS[name]
    return command


def parser_of(name: str, command: Command) -> Parser:
    """What reads its options."""
    parser = Parser(f"atmost {name}", f"atmost {name} {command.usage}".rstrip(), command.about)
    command.options(parser)
    return parser


def subcommands(group: str) -> list[str]:
    """The words that can stand behind this command; none if it is no group."""
    return list(_module(group).SUBCOMMANDS) if group in GROUPS else []


def every_command() -> list[str]:
    """The names of all."""
    return [
        name
        for command in COMMANDS
        for name in [f"{command} {word}" for word in subcommands(command)] or [command]
    ]


def _module(command: str) -> Any:
    return import_module(f"atmost.cli.{COMMANDS[command]}")


def _before_the_command(arguments: list[str]) -> tuple[str | None, str, list[str]]:
    """The socket if it is named there, the command's name, and what is behind it."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 2 if arguments[at] == "--socket" else 1
    name = arguments[at] if at < len(arguments) else None
    if at == 0 and (name in COMMANDS or name == "help"):  # nearly every call needs no parser here
        return None, name, arguments[1:]
    parser = Parser("atmost", "atmost [--socket PATH] COMMAND ...", "")
    parser.format_help = lambda: HELP  # type: ignore[method-assign]
    parser.add_argument("--version", action="version", version=f"atmost {paths.version()}")
    socket: str | None = parser.parse_args(arguments[:at]).socket
    if name is None:
        parser.exit(2, HELP)
    if name not in COMMANDS and name != "help":
        parser.error(f"there is no command {name!r}; see: atmost --help")
    return socket, name, arguments[at + 1 :]


def _of_group(group: str, rest: list[str]) -> tuple[str, list[str]]:
    """The full name of the subcommand, and what is behind it."""
    of = _module(group)
    if rest and rest[0] in of.SUBCOMMANDS:
        return f"{group} {rest[0]}", rest[1:]
    parser = Parser(f"atmost {group}", f"atmost {group} COMMAND ...", "")
    parser.format_help = lambda: of.HELP  # type: ignore[method-assign]
    if not rest:
        parser.exit(2, of.HELP)
    parser.parse_known_args(rest[:1])  # it may be --help
    parser.error(f"there is no command {rest[0]!r}; see: atmost {group} --help")


def _parse(parser: Parser, command: Command, arguments: list[str]) -> argparse.Namespace:
    """argparse reads the options; what it leaves are the names, wherever they stand."""
    behind: list[str] | None = None
    if "--" in arguments:
        at = arguments.index("--")
        arguments, behind = arguments[:at], arguments[at + 1 :]
    given, names = parser.parse_known_args(arguments)
    if command.becomes and not behind:
        parser.error("a command to run is missing; it goes behind `--`: NAME -- COMMAND")
    for word in names:
        if word.startswith("-") and word != "-":
            escape = "is said as --slots=NAME=1" if command.becomes else "goes behind `--`"
            parser.error(f"there is no option {word}; a NAME that begins with - {escape}")
    if command.becomes or command.takes_rest:
        given.behind = behind or []
    elif behind:
        names += behind
    given.names = _names(parser, command, names)
    return given


def _names(parser: Parser, command: Command, names: list[str]) -> list[str]:
    """The names if they are valid and as many as the command takes; duplicates collapse."""
    try:
        found = list(dict.fromkeys(check_name(name, "NAME") for name in names))
    except InvalidValue as error:
        parser.error(str(error))
    if len(found) < command.names_min:
        parser.error("NAME is missing")
    for word in found:
        if command.choices and word not in command.choices:
            parser.error(f"{word!r:.80} is not valid: expected {', '.join(command.choices)}")
    if command.names_max is not None and len(found) > command.names_max:
        parser.error(f"there is no use for {found[command.names_max]!r}")
    return found


# Options that several commands have


def no_options(of: Parser) -> None:
    """Only those of every command."""


def json_option(of: Parser) -> None:
    """For a command that reads."""
    of.add_argument("--json", action="store_true", help="write JSON")


# The values of options. argparse tells which option had the wrong one.


def limit(text: str) -> int:
    """--limit"""
    return checked(check_limit, whole(text))


def decay(text: str) -> float:
    """--slot-decay-per-second"""
    return checked(check_decay, number(text))


def rate(text: str) -> float:
    """--rate 100/min"""
    slots = slots_per_second(text)
    if slots is None:
        raise wrong(text, RATE_WORDS)
    return checked(check_decay, slots)


def limit_name(text: str) -> str:
    """A NAME"""
    return checked(check_name, text)


def whole(text: str) -> int | str:
    """The text as a whole number if it is one that a limit could have; else a check refuses it."""
    return int(text) if _WHOLE.fullmatch(text) else text


def number(text: str) -> float | str:
    """The text as a number if it is one; else a check refuses it."""
    return float(text) if _NUMBER.fullmatch(text) else text


def checked(check: Callable[[Any], T], value: Any, expected: str | None = None) -> T:
    """The value as the check returns it, or an error of argparse. `expected`: in other words."""
    try:
        return check(value)
    except InvalidValue as error:
        raise wrong(value, expected or error.expected) from None


def wrong(value: Any, expected: str) -> argparse.ArgumentTypeError:
    """The error that names the value; argparse adds the option."""
    return argparse.ArgumentTypeError(f"{value!r:.80} is not valid: expected {expected}")


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected the path of a socket")
    if (length := len(os.fsencode(text))) > paths.SOCKET_PATH_BYTES_MAX:
        raise argparse.ArgumentTypeError(
            f"a path of {length} bytes; a socket's has at most {paths.SOCKET_PATH_BYTES_MAX}"
        )
    return text
