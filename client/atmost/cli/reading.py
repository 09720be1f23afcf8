"""ls, inspect, ps.

On a terminal a table for people. Elsewhere, and with --json, the fields of the record, all of them,
in one order that only grows at its end.
"""

from __future__ import annotations

from argparse import Namespace

from atmost import wire
from atmost.cli import output
from atmost.cli.output import DIM, RED, YELLOW, Column
from atmost.cli.parser import Command, json_option
from atmost.rates import rate_text
from atmost.sync import Client, Limit

LIMIT_FIELDS = Limit.__struct_fields__
TICKET_FIELDS = (
    *("limit", "state", "slots", "pid", "user", "command", "age_seconds", "place"),
    "token",
)

FILE_CHANGED = "file, changed"

_LIMIT_COLUMNS = (
    Column("NAME", shrinks=True),
    Column("LIMIT", right=True),
    Column("USED", right=True),
    Column("HELD", right=True),
    Column("SPENT", right=True),
    Column("WAITING", right=True),
    Column("RATE", right=True),
    Column("STATE", styles={"inactive": DIM, "implicit": RED}),
    Column("FROM", styles={FILE_CHANGED: YELLOW}),
)
_TICKET_COLUMNS = (
    Column("LIMIT", shrinks=True),
    Column("STATE", styles={"waiting": YELLOW}),
    Column("PLACE", right=True),
    Column("SLOTS", right=True),
    Column("AGE", right=True),
    Column("GRANT", right=True),
    Column("PID", right=True),
    Column("USER"),
    Column("COMMAND", shrinks=True),
)


def ls(given: Namespace) -> int:
    """All limits, by name."""
    with Client(given.socket) as client:
        limits = client.list_limits()
    if given.json:
        output.write_json(limits)
    elif not output.on_terminal():
        output.write_lines([getattr(limit, name) for name in LIMIT_FIELDS] for limit in limits)
    elif limits:
        output.write_table(_LIMIT_COLUMNS, [_limit_row(limit) for limit in limits])
        if any(_unguarded(limit) for limit in limits):
            output.talk(
                "implicit: made by its first use, never created, and not enforced; "
                "set it up with: atmost update NAME --limit N --enable"
            )
        if any(limit.declared for limit in limits):
            output.talk(
                "file, changed: by hand, since the configuration file said otherwise; see what it says "
                "with: atmost inspect NAME"
            )
    else:
        output.talk("there are no limits; make one with: atmost create NAME --limit N")
    return 0


def inspect(given: Namespace) -> int:
    """One limit."""
    (name,) = given.names
    with Client(given.socket) as client:
        limit = client.read_limit(name)
    if given.json:
        output.write_json(limit)
    else:
        fields = {name: getattr(limit, name) for name in LIMIT_FIELDS}
        rate = rate_text(limit.slot_decay_per_second).removeprefix("-")
        output.write_fields(fields, {"slot_decay_per_second": rate})
    return 0


def ps(given: Namespace) -> int:
    """Who holds and who waits."""
    with Client(given.socket) as client:
        tickets = client.list_tickets(*given.names)
    if given.json:
        output.write_json([_ticket_fields(ticket) for ticket in tickets])
    elif not output.on_terminal():
        output.write_lines(_ticket_fields(ticket).values() for ticket in tickets)
    elif tickets:
        output.write_table(_TICKET_COLUMNS, [_ticket_row(ticket) for ticket in tickets])
    else:
        output.talk("nobody holds a slot or waits for one")
    return 0


def _limit_row(limit: Limit) -> list[str]:
    state = "active" if limit.active else "implicit" if limit.implicit else "inactive"
    return [
        limit.name,
        str(limit.limit),
        str(limit.active_slots),
        str(limit.held),
        f"{limit.spent:.1f}".removesuffix(".0"),
        str(limit.waiting),
        rate_text(limit.slot_decay_per_second),
        state,
        FILE_CHANGED if limit.declared else output.plain(limit.origin),
    ]


def _unguarded(limit: Limit) -> bool:
    return limit.implicit and not limit.active


def _ticket_fields(ticket: wire.TicketRecord) -> dict[str, object]:
    return {name: getattr(ticket, name) for name in TICKET_FIELDS}


def _ticket_row(ticket: wire.TicketRecord) -> list[str]:
    return [
        ticket.limit,
        ticket.state,
        output.plain(ticket.place),
        str(ticket.slots),
        _age_text(ticket.age_seconds),
        output.plain(ticket.token or None),
        str(ticket.pid),
        ticket.user,
        ticket.command,
    ]


def _age_text(seconds: float) -> str:
    """An age in its two greatest units: 0.4s, 12s, 3m12s, 2h05m, 3d04h."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


# Arguments

_FORM = """

A table on a terminal. Elsewhere a line for each, fields separated by tabs, no header, - for none:
  {fields}
--json has the same fields{also}."""

COMMANDS = {
    "ls": Command(
        "[--json]",
        "List all limits, by name."
        + _FORM.format(fields="\n  ".join(LIMIT_FIELDS), also=" by name, in a list"),
        json_option,
        ls,
    ),
    "inspect": Command(
        "NAME [--json]",
        "Show one limit: a line for each field, with its name; in a pipe a tab between them.\n"
        "--json has the same fields, in one object:\n  " + "\n  ".join(LIMIT_FIELDS),
        json_option,
        inspect,
        names_min=1,
        names_max=1,
    ),
    "ps": Command(
        "[NAME] [--json]",
        "Show who holds slots and who waits for them, by limit and order of arrival."
        + _FORM.format(
            fields="\n  ".join(TICKET_FIELDS), also=" by name, in a list; no place is null"
        ),
        json_option,
        ps,
        names_max=1,
    ),
}
