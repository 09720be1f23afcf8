"""The command `atmost`, a plain user of atmost.sync.

Rule 1: stdout is data, stderr is talk. Nothing that a user does ends in a traceback.
Rule 2: a subcommand imports what it needs and no more: most runs are over in the time that takes.
Rule 3: what others wrote (a command line, an error that tells of one) is shown with its control
characters escaped: it must not drive somebody's terminal.
"""

from __future__ import annotations

import gc
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns its exit code; `run` returns only if it could not start its command.

    0 done; 1 failed, and stderr says why; 2 wrong arguments; `status` and `run` have codes of their
    own. After Ctrl-C or a broken pipe the process ends by that signal.
    """
    if arguments is not None:
        return _end_well(arguments)
    gc.disable()  # so short a life leaves nothing to collect, and looking for it takes a fifth of it
    try:
        return _end_well(sys.argv[1:])
    finally:
        gc.freeze()  # or Python looks once more, at its end


def _end_well(arguments: list[str]) -> int:
    try:
        return _answer(arguments)
    except KeyboardInterrupt:
        from atmost.cli.ending import die_of_interrupt

        return die_of_interrupt()
    except BrokenPipeError:  # of stdout: a lost daemon is an AtmostError
        from atmost.cli.ending import die_of_broken_pipe

        return die_of_broken_pipe()


def _answer(arguments: list[str]) -> int:
    from atmost.cli import output
    from atmost.cli.parser import Parser, parse
    from atmost.errors import AtmostError, InvalidValue

    failure = 1
    try:
        command, given = parse(arguments)
        failure = command.failure
        try:
            code = command.perform(given)
            output.flush()
            return code
        except InvalidValue as error:
            parser: Parser = given.parser
            parser.error(str(error))
    except SystemExit as end:  # help was asked for, or argparse has said what is wrong
        return end.code if isinstance(end.code, int) else failure
    except AtmostError as error:
        output.talk(str(error))
        return failure
    except BrokenPipeError:
        raise
    except OSError as error:
        output.talk(error.strerror or str(error))
        output.give_up()
        return failure
