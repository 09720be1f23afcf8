"""daemon reload: have the daemon read its configuration file again."""

from __future__ import annotations

from argparse import Namespace

from atmost import wire
from atmost.cli import output
from atmost.cli.parser import Command, no_options
from atmost.errors import ConfigInvalid
from atmost.sync import Client

EXIT_NOT_RELOADED = 1


def reload(given: Namespace) -> int:
    """Have the daemon read its configuration file again."""
    try:
        with Client(given.socket, _start=False) as client:
            client._ask(wire.Reload)
    except ConfigInvalid as error:
        for mistake in error.mistakes:
            output.talk(f"{error.path}: {mistake}")
        output.talk(
            "not reloaded: what was in force still is, until the daemon starts again, which it cannot "
            "with that file; mend it and try again"
        )
        return EXIT_NOT_RELOADED
    return 0


COMMANDS = {
    "daemon reload": Command(
        "",
        "Read the configuration file again, as SIGHUP does. A file with a mistake changes nothing, and\n"
        "every mistake is told. Socket and folders change at the next start only.\n\n"
        "Exit code: 0 done; 1 failed, and stderr says why; 2 wrong arguments.",
        no_options,
        reload,
    ),
}
