"""web: the page, served by this process until Ctrl-C."""

from __future__ import annotations

import argparse
from argparse import Namespace
from importlib.util import find_spec

from atmost.cli import output
from atmost.cli.parser import Command, Parser

PORT = 8640
EXIT_NOT_SERVED = 1
MISSING = "the page needs packages that are not installed: pip install 'atmost[web]'"


def web(given: Namespace) -> int:
    """Serve."""
    if any(find_spec(package) is None for package in ("starlette", "uvicorn")):
        output.talk(MISSING)
        return EXIT_NOT_SERVED
    from atmost.web.serving import CannotServe, Choices, serve

    choices = Choices(
        given.socket, given.host, given.port, given.token_file, given.open, tuple(given.allow_host)
    )
    try:
        return serve(choices, output.talk, _print)
    except CannotServe as error:
        output.talk(str(error))
        return EXIT_NOT_SERVED


def _print(line: str) -> None:
    output.write_text(f"{line}\n")
    output.flush()


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text[:6]) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r:.80} is not valid: expected a port, 0 to 65535")


def _options(of: Parser) -> None:
    of.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="where to listen (127.0.0.1)"
    )
    of.add_argument(
        "--port", metavar="N", type=_port, default=PORT, help=f"the port ({PORT}); 0: any"
    )
    of.add_argument("--open", action="store_true", help="open it in a browser, too")
    of.add_argument(
        "--token-file",
        metavar="PATH",
        help="keep the token in this file, which is made if there is none; else each run has its own",
    )
    of.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a further name it is asked for by, such as that of a proxy; may be repeated",
    )


COMMANDS = {
    "web": Command(
        "[--host ADDRESS] [--port N] [--open] [--token-file PATH]",
        "Serve a page that shows the limits, who holds and who waits, what happened lately, and changes\n"
        "them; and the same as a JSON API (/api/openapi.json) and for Prometheus (/metrics). It writes\n"
        "the address to open, with the token without which nobody sees anything; a program says\n"
        "Authorization: Bearer TOKEN. It may do what you may. Ends with Ctrl-C.\n\n"
        "Only this machine gets there, unless --host says otherwise; then anybody who can read what\n"
        "travels can read the token, so put a proxy with TLS in front.",
        _options,
        web,
    ),
}
