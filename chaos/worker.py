"""One client process: asks, is inside, leaves, and writes down when; until a file says that it is enough.

usage: worker.py KIND NAME SEED, with ATMOST_SOCKET and CHAOS_LOG set

Rule 1: it uses the client as any program would, always strict: what is not enforced is an error.
Rule 2: a call that finds no daemon is made again; an unexpected error is written down and judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `chaos` is the folder

import atmost.asyncio
import atmost.sync
from atmost.errors import AtmostError, GrantLost
from chaos import plan
from chaos.log import Log
from chaos.plan import Shape

INSIDE = Path(__file__).with_name("inside.py")
EXIT_FAILED = 125  # of `atmost run`, when it did not get as far as its command
FOLDER = Path(os.environ.get("CHAOS_LOG", "."))


class Round(NamedTuple):
    """One request, and what is done with it."""

    shape: Shape
    timeout: float | None
    inside: float
    outside: float


class Client:
    """What this process has: its name, its log, and the numbers of its requests."""

    def __init__(self, name: str, seed: str) -> None:
        self.name = name
        self.log = Log(FOLDER, name)
        self._seed = seed
        self._stop = FOLDER.parent / f"{name}.stop"
        self._numbers = itertools.count(1)  # one step, so that threads may share it

    def dice(self, who: str) -> random.Random:
        """Of one thread or task: the same choices in every run."""
        return random.Random(f"{self._seed} {self.name} {who}")

    def goes_on(self) -> bool:
        return not self._stop.exists()

    def asked(self, shape: Shape, timeout: float | None = None) -> str:
        """Write down that a call is about to be made; gives its name."""
        request = request_of(self.name, os.getpid(), next(self._numbers))
        self.log.mark("asked", request, shape.hold, shape.spend, timeout)
        return request

    def failed(self, request: str, error: AtmostError) -> None:
        if isinstance(error, GrantLost):
            self.log.mark("lost", request)
        else:
            self.log.mark("failed", request, type(error).__name__)


def request_of(name: str, pid: int, number: int) -> str:
    """The name of a request; nobody else ever has the same."""
    return f"{name}.{pid}.{number}"


def throw(dice: random.Random) -> Round:
    """What to ask for next."""
    timed = dice.random() < plan.TIMEOUT_SHARE
    long = dice.random() < plan.LONG_SHARE
    return Round(
        dice.choice(plan.SHAPES),
        dice.uniform(*plan.WAIT_SECONDS) if timed else None,
        dice.uniform(*(plan.LONG_INSIDE_SECONDS if long else plan.INSIDE_SECONDS)),
        dice.uniform(*plan.OUTSIDE_SECONDS),
    )


# Blocking


def one_round(
    client: Client,
    atmostd: atmost.sync.Client,
    turn: Round,
    within: Callable[[], None] = lambda: None,
) -> None:
    shape = turn.shape
    request = client.asked(shape, turn.timeout)
    try:
        with atmostd.concurrency(
            shape.hold, timeout_seconds=turn.timeout, rate_limit=shape.spend, strict=True
        ) as grant:
            client.log.mark("entered", request, grant.token)
            within()
            if shape.hold:
                time.sleep(turn.inside)
            client.log.mark("leaving", request)
        client.log.mark("left", request)
    except AtmostError as error:
        client.failed(request, error)
        time.sleep(plan.RETRY_SECONDS)
    time.sleep(turn.outside)


def threads(client: Client) -> None:
    """Threads that share one session."""

    def run(number: int) -> None:
        dice = client.dice(str(number))
        while client.goes_on():
            one_round(client, atmostd, throw(dice))

    with atmost.sync.Client() as atmostd:
        all_of_them = [threading.Thread(target=run, args=[n]) for n in range(plan.THREADS)]
        for thread in all_of_them:
            thread.start()
        for thread in all_of_them:
            thread.join()


def forks(client: Client, seed: str) -> None:
    """A parent that forks while it is inside; the children ask for themselves."""
    children: set[int] = set()
    dice = client.dice("parent")
    with atmost.sync.Client() as atmostd:

        def fork() -> None:
            pid = os.fork()
            if pid:
                children.add(pid)
            else:
                as_child(lambda: fork_rounds(Client(client.name, f"{seed} {dice.random()}")))

        def fork_rounds(child: Client) -> None:
            own = child.dice("child")
            for _ in range(plan.ROUNDS_OF_A_FORK):
                one_round(child, atmostd, throw(own))

        while client.goes_on():
            may_fork = len(children) < plan.FORKS and dice.random() < 0.5
            one_round(client, atmostd, throw(dice), fork if may_fork else lambda: None)
            reap(children, os.WNOHANG)
        reap(children, 0)


def as_child(do: Callable[[], None]) -> None:
    """Do it, and end here: nothing of the parent's is unwound."""
    code = 1
    try:
        do()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def reap(children: set[int], options: int) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, options)
        if ended:
            children.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            if code > 0:
                sys.exit(f"the forked child {pid} ended with {code}")


# atmost run


def runs(client: Client) -> None:
    """`atmost run` of a tiny command, one after the other."""
    dice = client.dice("run")
    while client.goes_on():
        turn = throw(dice)
        hold, spend = turn.shape
        pid = os.fork()
        if not pid:
            as_child(partial(become_run, client, turn))
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == EXIT_FAILED:
            client.log.mark("failed", request_of(client.name, pid, 1), "DaemonUnavailable")
            time.sleep(plan.RETRY_SECONDS)
        elif code > 0:
            sys.exit(f"atmost run of {hold} {spend} ended with {code}")
        time.sleep(turn.outside)


def become_run(client: Client, turn: Round) -> None:
    """In the child. Its pid is that of the command's process, from the call to the end."""
    own = Client(client.name, "")
    request = own.asked(turn.shape)
    hold, spend = turn.shape
    slots = [f"--slots={name}={count}" for name, count in (hold | spend).items()]
    rates = [f"--rate={name}" for name in spend]
    inside = [sys.executable, "-S", "-E", str(INSIDE), str(own.log.path), request]
    command = [*inside, str(turn.inside if hold else 0)]
    arguments = [*hold, *slots, *rates, "--strict", "--quiet", "--", *command]
    os.execv(sys.executable, [sys.executable, "-m", "atmost", "run", *arguments])


# asyncio


async def tasks(client: Client) -> None:
    """Tasks that share one session."""

    async def run(number: int) -> None:
        dice = client.dice(str(number))
        while client.goes_on():
            await one_round_of_a_task(client, atmostd, throw(dice))

    async with atmost.asyncio.Client() as atmostd:
        await asyncio.gather(*(run(n) for n in range(plan.THREADS)))


async def one_round_of_a_task(client: Client, atmostd: atmost.asyncio.Client, turn: Round) -> None:
    shape = turn.shape
    request = client.asked(shape, turn.timeout)
    try:
        async with atmostd.concurrency(
            shape.hold, timeout_seconds=turn.timeout, rate_limit=shape.spend, strict=True
        ) as grant:
            client.log.mark("entered", request, grant.token)
            if shape.hold:
                await asyncio.sleep(turn.inside)
            client.log.mark("leaving", request)
        client.log.mark("left", request)
    except AtmostError as error:
        client.failed(request, error)
        await asyncio.sleep(plan.RETRY_SECONDS)
    await asyncio.sleep(turn.outside)


def main(kind: str, name: str, seed: str) -> None:
    client = Client(name, seed)
    match kind:
        case "threads":
            threads(client)
        case "tasks":
            asyncio.run(tasks(client))
        case "forks":
            forks(client, seed)
        case "run":
            runs(client)
        case _:
            sys.exit(f"no such kind of worker: {kind}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
