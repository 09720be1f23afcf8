"""release, reset: what an administrator does when something hangs."""

from __future__ import annotations

from argparse import Namespace

from atmost import wire
from atmost.cli import output
from atmost.cli.asking import can_ask, confirmed, yes_option
from atmost.cli.parser import Command, no_options
from atmost.cli.words import duration, slots_text
from atmost.errors import GrantNotFound
from atmost.sync import Client
from atmost.values import COUNT_MAX, invalid

EXIT_NOT_RELEASED = 1


def release(given: Namespace) -> int:
    """Take grants back, after a question if a person can be asked."""
    tokens = [_token(word) for word in given.names]
    if not given.yes and not can_ask():
        given.parser.error("releasing needs --yes where nobody can be asked")
    with Client(given.socket) as client:
        holders = _find(client, tokens)
        if not given.yes:
            for holder in holders:
                output.talk(_told(holder))
            what = f"grant {tokens[0]}" if len(tokens) == 1 else f"these {len(tokens)} grants"
            if not confirmed(f"Release {what}? Others may be let in while its holder goes on."):
                output.talk("nothing was released")
                return EXIT_NOT_RELEASED
        for token in tokens:
            client.release_grant(token)
    return 0


def reset(given: Namespace) -> int:
    """Nothing is spent any more."""
    with Client(given.socket) as client:
        for name in given.names:
            client.read_limit(name)  # all of them exist, before any is changed
        for name in given.names:
            client.reset_spent(name)
    return 0


def _token(word: str) -> int:
    if word.isascii() and word.isdigit() and 0 < int(word[:20]) <= COUNT_MAX:
        return int(word)
    raise invalid("GRANT", word, "the number that `atmost ps` shows as GRANT")


def _find(client: Client, tokens: list[int]) -> list[wire.TicketRecord]:
    """Who holds them. Raises GrantNotFound for one that nobody holds, before any is released."""
    holders = [ticket for ticket in client.list_tickets() if ticket.token in tokens]
    for token in tokens:
        if not any(holder.token == token for holder in holders):
            raise GrantNotFound(token)
    return holders


def _told(holder: wire.TicketRecord) -> str:
    return (
        f'grant {holder.token}: {slots_text(holder.slots)} of "{holder.limit}", held by pid '
        f"{holder.pid} ({holder.user}, {holder.command}) since {duration(holder.age_seconds)}"
    )


COMMANDS = {
    "release": Command(
        "GRANT... [--yes]",
        "Take the slots of grants back: GRANT is the number that `atmost ps` shows. Its holder goes on\n"
        "running, and is told that its grant is lost: at once, or as soon as it asks. Asks first on a\n"
        "terminal, where only y or yes releases (else exit 1); elsewhere it needs --yes.\n"
        "For administrators; logged with who did it.",
        yes_option,
        release,
        names_min=1,
        names_max=None,
    ),
    "reset": Command(
        "NAME...",
        "Have nothing spent at rate limits any more, as if all had come back: who waits and fits goes.\n"
        "Slots that are held stay held. For administrators; logged with who did it.",
        no_options,
        reset,
        names_min=1,
        names_max=None,
    ),
}
