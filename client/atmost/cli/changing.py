"""create, update, enable, disable, delete. They say nothing when all is well."""

from __future__ import annotations

from argparse import Namespace

from atmost.cli import output, parser
from atmost.cli.asking import can_ask, confirmed, yes_option
from atmost.cli.parser import Command, Parser, no_options
from atmost.errors import LimitExists, LimitNotFound
from atmost.sync import Client

EXIT_NOT_DELETED = 1


def create(given: Namespace) -> int:
    """Make a limit."""
    (name,) = given.names
    active = not given.inactive
    with Client(given.socket) as client:
        try:
            client.create_limit(name, given.limit, given.decay or 0.0, active)
        except LimitExists:
            if not given.if_not_exists:
                raise
            # One that nobody has created yet is made by its first use, and may let everyone through.
            if client.read_limit(name).origin in ("implicit", "template"):
                client.update_limit(
                    name,
                    limit=given.limit,
                    slot_decay_per_second=given.decay or 0.0,
                    active=active,
                )
    return 0


def update(given: Namespace) -> int:
    """Change what is given."""
    if given.limit is None and given.decay is None and given.active is None:
        given.parser.error("nothing to change: give --limit, --rate, --enable or another option")
    (name,) = given.names
    with Client(given.socket) as client:
        client.update_limit(
            name, limit=given.limit, slot_decay_per_second=given.decay, active=given.active
        )
    return 0


def enable(given: Namespace) -> int:
    """Enforce limits."""
    return _activate(given, True)


def disable(given: Namespace) -> int:
    """Let everyone through."""
    return _activate(given, False)


def delete(given: Namespace) -> int:
    """Delete limits, after a question if a person can be asked."""
    if not given.yes and not can_ask():
        given.parser.error("deleting needs --yes where nobody can be asked")
    with Client(given.socket) as client:
        _find(client, given.names)
        if not given.yes and not _confirmed(client, given.names):
            output.talk("nothing was deleted")
            return EXIT_NOT_DELETED
        for name in given.names:
            client.delete_limit(name)
    return 0


def _activate(given: Namespace, active: bool) -> int:
    with Client(given.socket) as client:
        _find(client, given.names)
        for name in given.names:
            client.update_limit(name, active=active)
    return 0


def _find(client: Client, names: list[str]) -> None:
    """See that all exist, before any is changed. Raises LimitNotFound, for all that are missing."""
    missing = []
    for name in names:
        try:
            client.read_limit(name)
        except LimitNotFound:
            missing.append(name)
    if missing:
        raise LimitNotFound(missing)


def _confirmed(client: Client, names: list[str]) -> bool:
    """Ask. Only a yes is one: not the end of the input, nor Ctrl-C."""
    for name in names:
        tickets = client.list_tickets(name)
        held = sum(ticket.state == "held" for ticket in tickets)
        waiting = len(tickets) - held
        output.talk(f"limit {name!r}: {held} hold it (and run on), {waiting} wait (and fail)")
    what = f"limit {names[0]!r}" if len(names) == 1 else f"these {len(names)} limits"
    return confirmed(f"Delete {what}?")


# Arguments


def _create_options(of: Parser) -> None:
    of.add_argument(
        "--limit", metavar="N", type=parser.limit, required=True, help="slots at the same time"
    )
    _decay_options(of)
    of.add_argument("--inactive", action="store_true", help="not enforced until enabled")
    of.add_argument(
        "--if-not-exists",
        action="store_true",
        help="leave a limit that somebody created before as it is",
    )


def _update_options(of: Parser) -> None:
    of.add_argument("--limit", metavar="N", type=parser.limit, help="slots at the same time")
    _decay_options(of)
    either = of.add_mutually_exclusive_group()
    either.add_argument(
        "--enable", dest="active", action="store_const", const=True, help="enforce it"
    )
    either.add_argument(
        "--disable", dest="active", action="store_const", const=False, help="let everyone through"
    )


def _decay_options(of: Parser) -> None:
    either = of.add_mutually_exclusive_group()
    either.add_argument(
        "--slot-decay-per-second",
        dest="decay",
        metavar="D",
        type=parser.decay,
        help="spent slots that come back each second; 0: none",
    )
    either.add_argument(
        "--rate",
        dest="decay",
        metavar="N/UNIT",
        type=parser.rate,
        help="the same, said as 100/min; units: s, min, h, day",
    )


COMMANDS = {
    "create": Command(
        "NAME --limit N [--rate N/UNIT | --slot-decay-per-second D]\n"
        "                     [--inactive] [--if-not-exists]",
        "Make a limit: at most N slots at the same time. With a rate, slots that are spent (by\n"
        "rate_limit or `atmost run --rate`) come back at that rate, and N is the burst.",
        _create_options,
        create,
        names_min=1,
        names_max=1,
    ),
    "update": Command(
        "NAME [--limit N] [--rate N/UNIT | --slot-decay-per-second D]\n"
        "                     [--enable | --disable]",
        "Change what is given of a limit, at once: who fits then goes, who holds slots keeps them.",
        _update_options,
        update,
        names_min=1,
        names_max=1,
    ),
    "enable": Command(
        "NAME...",
        "Enforce limits. Who holds slots since before they were disabled is counted again.",
        no_options,
        enable,
        names_min=1,
        names_max=None,
    ),
    "disable": Command(
        "NAME...",
        "Let everyone through, also those who wait now, until the limits are enabled again.",
        no_options,
        disable,
        names_min=1,
        names_max=None,
    ),
    "delete": Command(
        "NAME... [--yes]",
        "Delete limits: who waits for them fails, who holds their slots runs on. Asks first on a\n"
        "terminal, where only y or yes deletes (else exit 1); elsewhere it needs --yes.",
        yes_option,
        delete,
        names_min=1,
        names_max=None,
    ),
}
