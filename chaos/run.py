#!/usr/bin/env python3
"""The chaos: clients under load, a daemon that is killed at random, and a judgement at the end.

usage: run.py [--cycles N] [--seed S] [--spare-daemon] [--within SECONDS] [--json] [--keep]

Rule 1: all choices come from the seed. The same seed gives the same choices, not the same timing.
Rule 2: nothing is judged while it runs; what is written down is judged at the end.

Exit code 0: everything was kept; 1: something was violated, or failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `chaos` is the folder

from atmost.errors import AtmostError
from atmost.sync import Client
from chaos import plan
from chaos.beside import Editor, Observer, look_at_limits
from chaos.log import read
from chaos.processes import Failed, Processes, Worker
from chaos.service import EVERYBODY
from chaos.verdict import Verdict, text, verdict
from demo.screen import BOLD, GREEN, RED, Screen, standard_output

EXIT_VIOLATED = 1
EXIT_INTERRUPTED = 130
WITHIN_SECONDS = 1.0  # of the start of the daemon's process, service has to be back

CALM_SECONDS = (0.0, 0.4)  # before something happens: clients may be back by then, or not
DOWN_SECONDS = (0.0, 0.3)  # without a daemon; half of the times none at all
STOPPED_CYCLES = (1, 3)
FAULTS = {"kill daemon": 45, "end daemon": 10, "kill client": 25, "stop client": 20}


class Chaos:
    """The faults, one after the other."""

    def __init__(self, processes: Processes, screen: Screen, seed: str, spare: bool) -> None:
        self._dice = random.Random(seed)
        self._seed = seed
        self._spare = spare
        self._processes = processes
        self._screen = screen
        self._editor = Editor(processes, random.Random(f"{seed} editor"))
        self._observer = Observer(processes)
        self._workers: list[Worker] = []  # that nobody has killed yet
        self._stopped: dict[Worker, int] = {}  # until this cycle

    def run(self, cycles: int) -> None:
        """All of it, but for the judgement."""
        with self._editor, self._observer:
            self._begin()
            for cycle in range(1, cycles + 1):
                self._cycle(cycle)
                words = f"   cycle {cycle} of {cycles}"
                self._screen.show([words], words)
            self._end()

    # The beginning

    def _begin(self) -> None:
        processes = self._processes
        processes.start_daemon()
        for name, slots in plan.FIXED.items():
            self._editor.set(name, (slots, 0.0, True))
        self._editor.set(plan.EDITED, (plan.EDITED_HIGHEST, 0.0, True))
        for name, (slots, per_second) in plan.SPENT.items():
            self._editor.set(name, (slots, per_second, True))
        for number in range(plan.WORKERS):
            self._add(plan.KINDS[number % len(plan.KINDS)])
        processes.wait_until(self._all_write, "every client to begin")
        self._editor.start()
        self._observer.start()

    def _add(self, kind: str) -> None:
        self._workers.append(self._processes.start_worker(kind, self._seed))

    def _all_write(self) -> bool:
        return all(self._processes.alive(worker) for worker in self._workers)

    # A cycle

    def _cycle(self, cycle: int) -> None:
        dice = self._dice
        for worker in [w for w, until in self._stopped.items() if until <= cycle]:
            self._go_on(worker)
        time.sleep(dice.uniform(*CALM_SECONDS))
        faults = {
            fault: weight
            for fault, weight in FAULTS.items()
            if not (self._spare and fault.endswith("daemon"))
        }
        match dice.choices(list(faults), list(faults.values()))[0]:
            case "kill daemon":
                self._restart(signal.SIGKILL)
            case "end daemon":
                self._restart(signal.SIGTERM)
            case "kill client":
                self._kill_a_client()
            case "stop client":
                self._stop_a_client(cycle)
        self._check()

    def _restart(self, number: signal.Signals) -> None:
        down = max(0.0, self._dice.uniform(-DOWN_SECONDS[1], DOWN_SECONDS[1]))
        self._processes.end_daemon(number)
        time.sleep(down)
        self._processes.start_daemon()
        look_at_limits(self._processes, self._editor)

    def _kill_a_client(self) -> None:
        worker = self._dice.choice(self._workers)
        alone = self._dice.random() < 0.5
        self._workers.remove(worker)
        self._stopped.pop(worker, None) if not alone else self._go_on(worker)
        if alone:
            self._processes.kill_leader(worker)
        else:
            self._processes.kill([worker], worker.name)
        self._add(worker.kind)

    def _stop_a_client(self, cycle: int) -> None:
        worker = self._dice.choice(self._workers)
        until = cycle + self._dice.randint(*STOPPED_CYCLES)
        if worker not in self._stopped:
            self._processes.stop(worker)
            self._stopped[worker] = until

    def _go_on(self, worker: Worker) -> None:
        if self._stopped.pop(worker, None) is not None:
            self._processes.go_on(worker)

    def _check(self) -> None:
        """Nobody may end but by our hand."""
        self._processes.check_daemon()
        self._editor.check()
        self._observer.check()
        for worker in list(self._workers):
            if worker.process.poll() is not None:
                self._broken(worker)
                self._workers.remove(worker)
                self._add(worker.kind)

    def _broken(self, worker: Worker) -> None:
        words = self._processes.last_words()
        code = worker.process.returncode
        self._processes.log.mark("broken", f"{worker.name} ended by itself, with {code}: {words}")

    # The end

    def _end(self) -> None:
        """Half of the clients finish, to show that all are served; the others are killed, to show
        that nothing is left of them."""
        processes = self._processes
        for worker in list(self._stopped):
            self._go_on(worker)
        self._editor.stop()
        look_at_limits(processes, self._editor)
        self._finish(self._workers[::2])
        processes.kill(processes.everybody(), EVERYBODY)
        self._look_for_leaks("after all were killed")
        if not self._spare:
            self._restart(signal.SIGKILL)
            self._look_for_leaks("after that and a restart")
        self._observer.stop()

    def _finish(self, workers: list[Worker]) -> None:
        processes = self._processes
        for worker in workers:
            processes.finish(worker)

        def left() -> list[Worker]:
            return [worker for worker in workers if worker.process.poll() is None]

        processes.comes(lambda: not left())
        for worker in left():
            processes.log.mark("unfinished", processes.alive(worker))
        for worker in workers:
            if worker.process.returncode:
                self._broken(worker)

    def _look_for_leaks(self, when: str) -> None:
        with Client(self._processes.socket) as client:

            def taken() -> int:
                return sum(one.held + one.waiting for one in client.list_limits())

            self._processes.comes(lambda: taken() == 0)
            self._processes.log.mark("leaked", when, taken())


def say_verdict(screen: Screen, found: Verdict) -> int:
    """Print it. Returns the exit code."""
    screen.say(screen.paint("What the processes' own clocks say:", BOLD))
    for line in text(found):
        screen.say(line)
    words, style = ("all of it was kept", GREEN) if found.kept else ("VIOLATED, see above", RED)
    screen.say(screen.paint(f"   {words}", style))
    return 0 if found.kept else EXIT_VIOLATED


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chaos", description="Kill the daemon and its clients, and judge what came of it."
    )
    parser.add_argument("--cycles", type=int, default=100, help="how many faults (100)")
    parser.add_argument("--seed", default="1", help="of all choices (1)")
    parser.add_argument("--spare-daemon", action="store_true", help="only clients are killed")
    parser.add_argument(
        "--within",
        type=float,
        default=WITHIN_SECONDS,
        metavar="SECONDS",
        help="of a start, service has to be back (1)",
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the logs; else only if violated")
    return parser.parse_args(arguments)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    screen = Screen(sys.stderr if given.json else standard_output(), os.environ)
    try:
        with Processes() as processes:
            processes.keep = given.keep
            began = time.monotonic()
            Chaos(processes, screen, given.seed, given.spare_daemon).run(given.cycles)
            processes.keep = True  # in case the judge fails
            found = verdict(read(processes.logs), given.within)
            processes.keep = given.keep or not found.kept
            took = f"{given.cycles} cycles, seed {given.seed}, {time.monotonic() - began:.0f} s"
            screen.say(took + (f"; logs: {processes.logs}" if processes.keep else ""))
    except KeyboardInterrupt:
        screen.say("Stopped. The daemon and all processes are gone.")
        return EXIT_INTERRUPTED
    except (Failed, AtmostError) as error:
        screen.say(f"The chaos failed (seed {given.seed}): {error}")
        return EXIT_VIOLATED
    if given.json:
        print(json.dumps({**found._asdict(), "kept": found.kept}, indent=1))
    return say_verdict(screen, found)


if __name__ == "__main__":
    sys.exit(main())
