"""run: wait for slots, then become the command, which holds them until it ends.

Rule: the slots belong to this process, and this process becomes the command. There is nothing left
of `atmost` that could die, swallow a signal or change an exit code.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator

from atmost.cli import output, parser
from atmost.cli.become import CannotBecome, become, check
from atmost.cli.parser import Command, Parser
from atmost.errors import AcquireTimeout, AtmostError
from atmost.sync import Client, Grant
from atmost.values import check_slots, check_timeout
from atmost.wire import TicketRecord

EXIT_NOT_IN_TIME = 124
EXIT_FAILED = 125
NOTICE_SECONDS = 1.0  # a wait that is over sooner needs no word

_SLOTS = re.compile(r".+=[0-9]+")  # db=2, which is a name, and not two slots of db


def run(given: Namespace) -> int:
    """Returns only if the command could not be started."""
    hold, spend = _asked(given)
    try:
        check(given.behind[0])
        with (
            _ended_by_ctrl_c(),
            Client(given.socket, _command=given.behind) as client,
            _wait(client, given, hold, spend) as grant,
        ):
            if not given.quiet:
                _warn(client, grant)
            become(given.behind)
    except AcquireTimeout as error:
        if not given.quiet:
            output.talk(str(error))
        return int(given.exit_code)
    except CannotBecome as error:
        output.talk(str(error))
        return error.code


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends this process at once, by the kernel's hand: there is nothing to tidy up, since the
    daemon sees it go. Python's own handler may be noticed only after the next byte, if the signal
    comes just before a read."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _asked(given: Namespace) -> tuple[dict[str, int], dict[str, int]]:
    """The slots to hold and those to spend, by name."""
    common = 1
    own = {}
    for name, slots in given.slots:
        if name is None:
            common = slots
        else:
            own[name] = slots
    spend = {name: own.get(name, 1) for name in given.rate}
    hold = {name: own.get(name, common) for name in given.names}
    hold |= {name: slots for name, slots in own.items() if name not in hold | spend}
    if not hold and not spend:
        given.parser.error("NAME is missing")
    return hold, spend


def _wait(client: Client, given: Namespace, hold: dict[str, int], spend: dict[str, int]) -> Grant:
    notice = threading.Timer(NOTICE_SECONDS, _tell_of_the_wait, [client, [*hold, *spend]])
    notice.daemon = True
    if not given.quiet and sys.stderr is not None and sys.stderr.isatty():
        notice.start()
    try:
        return client.acquire_until_exit(
            hold, timeout_seconds=given.wait, rate_limit=spend, strict=given.strict
        )
    finally:
        notice.cancel()


def _tell_of_the_wait(client: Client, names: list[str]) -> None:
    """Say to a person at a terminal what this waits for."""
    with contextlib.suppress(AtmostError):
        for name in names:
            tickets = client.list_tickets(name)
            place = next((t.place for t in tickets if t.place and t.pid == os.getpid()), None)
            if place is not None:
                holders = [t for t in tickets if t.state == "held"]
                output.talk(f"waiting for {name!r}: number {place} in line{_held_by(holders)}")


def _held_by(holders: list[TicketRecord]) -> str:
    if not holders:
        return ""
    first = f"; held by pid {holders[0].pid} ({holders[0].command})"
    return first + (f" and {len(holders) - 1} more" if len(holders) > 1 else "")


def _warn(client: Client, grant: Grant) -> None:
    """Say that the command runs unguarded, if that is because nobody has created the limit."""
    with contextlib.suppress(AtmostError):
        for name in grant.unguarded:
            if client.read_limit(name).implicit:
                slots = f" (for several slots, write: -n {name})" if _SLOTS.fullmatch(name) else ""
                output.talk(
                    f"limit {name!r} was never created{slots}, so nothing is enforced; set it up "
                    f"with: atmost update {shlex.quote(name)} --limit N --enable"
                )


# Arguments


def _options(of: Parser) -> None:
    of.add_argument(
        "-n",
        "--slots",
        metavar="[NAME=]SLOTS",
        type=_slots,
        action="append",
        default=[],
        help="slots of every NAME (1), or of this one, held or spent; may be repeated",
    )
    of.add_argument(
        "--rate",
        metavar="NAME",
        type=parser.limit_name,
        action="append",
        default=[],
        help="spend a slot of this limit, which comes back by its rate; may be repeated",
    )
    either = of.add_mutually_exclusive_group()
    either.add_argument(
        "-w", "--wait", metavar="SECONDS", type=_seconds, help="wait so long at most"
    )
    either.add_argument(
        "--no-wait", dest="wait", action="store_const", const=0.0, help="run at once or not at all"
    )
    of.add_argument(
        "-E",
        "--exit-code",
        metavar="CODE",
        type=_exit_code,
        default=EXIT_NOT_IN_TIME,
        help="of a wait that was too long (124)",
    )
    of.add_argument(
        "--strict", action="store_true", help="fail if a limit is not there or not enforced"
    )
    of.add_argument(
        "-q", "--quiet", action="store_true", help="no word of waiting, only of what went wrong"
    )


def _slots(text: str) -> tuple[str | None, int]:
    """-n: the last `=` divides, so the name may have some too."""
    name, divided, count = text.rpartition("=")
    slots = parser.checked(check_slots, parser.whole(count))
    return (parser.limit_name(name) if divided else None), slots


def _seconds(text: str) -> float | None:
    return parser.checked(check_timeout, parser.number(text), "a number of seconds >= 0")


def _exit_code(text: str) -> int:
    code = parser.whole(text)
    if isinstance(code, int) and 0 <= code <= 255:
        return code
    raise parser.wrong(text, "a whole number from 0 to 255")


COMMANDS = {
    "run": Command(
        "NAME... [-n [NAME=]SLOTS] [--rate NAME] [-w SECONDS | --no-wait] [-E CODE]\n"
        "                  [--strict] [-q] -- COMMAND [ARGUMENT...]",
        """\
Wait for slots of all the limits named, then become COMMAND. Nothing of atmost is left then: exit
code, signals and terminal are the command's own. The slots belong to its process and are free when
that ends, however it ends, also when it leaves children behind.

  atmost run db -- pg_dump shop               one slot of db
  atmost run -n 2 db gpu -- ./train           two slots of each
  atmost run db gpu -n gpu=4 -- ./train       one of db, four of gpu, all or nothing
  atmost run --rate api -- curl ...           no more often than the rate of api allows
  atmost run --no-wait -E 0 backup -- ./backup    not if one runs already

In -n NAME=SLOTS the last = divides; a NAME that is said only there is held too. That is also how to
say a name that begins with -: --slots=-name=1.

Exit code: that of COMMAND. Else 124 not acquired in time (or CODE), 125 atmost itself failed,
126 COMMAND was found but can't be run, 127 it was not found, 2 wrong arguments; nothing is held
then.""",
        _options,
        run,
        names_max=None,
        failure=EXIT_FAILED,
        becomes=True,
    ),
}
