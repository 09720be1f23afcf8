"""recover: what the daemon kept and cannot trust, and the decision to go on without it."""

from __future__ import annotations

from argparse import Namespace

from atmost import wire
from atmost.cli import output
from atmost.cli.parser import Command, Parser
from atmost.sync import Client

EXIT_NOT_ACCEPTED = 1


def recover(given: Namespace) -> int:
    """Tell what would be lost, or lose it."""
    with Client(given.socket, _start=False) as client:
        answer = client._ask(wire.Recover, given.accept_loss)
    assert isinstance(answer, wire.Loss)
    if not answer.texts:
        output.talk("nothing is damaged: there is nothing to recover from")
        return 0
    output.write_text("".join(f"{output.shown(text)}\n" for text in answer.texts))
    if given.accept_loss:
        output.talk("the loss is accepted, and the daemon goes on")
        return 0
    output.talk(
        "nothing is granted until a backup is put back and the daemon is restarted, or this is "
        "accepted with: atmost recover --accept-loss"
    )
    return EXIT_NOT_ACCEPTED


def _options(of: Parser) -> None:
    of.add_argument(
        "--accept-loss",
        action="store_true",
        help="move the damaged files aside and go on without them",
    )


COMMANDS = {
    "recover": Command(
        "[--accept-loss]",
        "Say what the daemon kept and cannot trust, and what would be lost without it. It grants\n"
        "nothing until that is decided, for without its limits everybody would get through. The\n"
        "damaged files are never deleted.\n\n"
        "Exit code: 0 nothing is damaged, or the loss is accepted now; 1 it is not accepted.",
        _options,
        recover,
    ),
}
