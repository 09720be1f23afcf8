"""daemon: what is done to the daemon as a whole. Each of its words is a function below."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from atmost import wire
from atmost.cli import output
from atmost.cli.parser import Command, no_options
from atmost.errors import ConfigInvalid
from atmost.sync import Client

EXIT_NOT_RELOADED = 1


def reload(given: Namespace) -> int:
    """Have the daemon read its configuration file again."""
    try:
        with Client(given.socket) as client:
            client._ask(wire.Reload)
    except ConfigInvalid as error:
        for mistake in error.mistakes:
            output.talk(f"{error.path}: {mistake}")
        output.talk("not reloaded: what was in force still is; mend that and try again")
        return EXIT_NOT_RELOADED
    return 0


WORDS: dict[str, Callable[[Namespace], int]] = {
    "reload": reload,
}


def daemon(given: Namespace) -> int:
    """One of WORDS."""
    (word,) = given.names
    if word not in WORDS:
        given.parser.error(f"there is no `daemon {word}`; there are: {', '.join(WORDS)}")
    return WORDS[word](given)


COMMANDS = {
    "daemon": Command(
        "reload",
        """\
reload   read the configuration file again, as SIGHUP does. A file with a mistake changes nothing,
         and every mistake is told. Socket and folders change at the next start only.

Exit code: 0 done; 1 failed, and stderr says why; 2 wrong arguments.""",
        no_options,
        daemon,
        names_min=1,
        names_max=1,
    ),
}
