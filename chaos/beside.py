"""What runs beside the chaos in threads of its own: the editor and the observer.

Rule: they use the client as an operator's program would, and go on asking while there is no daemon.
"""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from atmost.errors import DaemonUnavailable, LimitExists, LimitNotFound
from atmost.sync import Client
from chaos import plan
from chaos.processes import PATIENCE_SECONDS, Failed, Processes
from chaos.settings import Setting

EDIT_SECONDS = 0.02  # between two
LOOK_SECONDS = 0.015
RETRY_SECONDS = 0.005

T = TypeVar("T")


class Beside(ABC):
    """A context manager: a thread that does one thing again and again."""

    def __init__(self, processes: Processes, pause: float) -> None:
        self._pause = pause
        self._log = processes.log
        self._client = Client(processes.socket)
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when what was begun is done. Raises what went wrong."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            raise Failed(f"the {type(self).__name__.lower()} waits for an answer for ever")
        self.check()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._client.close()

    @abstractmethod
    def step(self) -> None:
        """What it does, again and again."""

    def again(self, do: Callable[[], T]) -> T:
        """Until a daemon has answered."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return do()
            except DaemonUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    def _run(self) -> None:
        try:
            while not self._over.wait(self._pause):
                self.step()
        except BaseException as error:
            self._error = error


class Editor(Beside):
    """Makes, changes and deletes limits, and writes down what was acknowledged."""

    def __init__(self, processes: Processes, dice: random.Random) -> None:
        super().__init__(processes, EDIT_SECONDS)
        self._dice = dice
        self._count = 0

    def step(self) -> None:
        dice = self._dice
        if dice.random() < 0.3:
            slots = dice.randint(plan.EDITED_LOWEST, plan.EDITED_HIGHEST)
            self.set(plan.EDITED, (slots, 0.0, True))
        else:
            there = dice.random() < 0.7
            setting = (dice.randint(0, 999), dice.randint(0, 99) / 4, dice.random() < 0.5)
            self.set(dice.choice(plan.SCRATCH), setting if there else None)

    def set(self, name: str, setting: Setting) -> None:
        """Returns when it is acknowledged."""
        self._count += 1
        number = self._count
        self._log.mark("edit", number, name, setting)
        self.again(lambda: self._put(name, setting))
        self._log.mark("edited", number)

    def _put(self, name: str, setting: Setting) -> None:
        """Make it so, whatever came of an earlier try whose answer was lost."""
        try:
            if setting is None:
                self._client.delete_limit(name)
                return
            limit, decay, active = setting
            self._client.update_limit(name, limit=limit, slot_decay_per_second=decay, active=active)
        except LimitNotFound:
            if setting is not None:
                self._create(name, setting)

    def _create(self, name: str, setting: tuple[int, float, bool]) -> None:
        try:
            self._client.create_limit(name, *setting)
        except LimitExists:  # the client asked twice, since the first answer was lost
            self._put(name, setting)


class Observer(Beside):
    """Writes down who holds and who waits."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(processes, LOOK_SECONDS)

    def step(self) -> None:
        for name in plan.CONTENDED:
            try:
                sent = time.monotonic_ns()
                tickets = self._client.list_tickets(name)
            except DaemonUnavailable:
                return
            self._log.mark(
                "tickets", sent, name, [[one.pid, one.state, one.slots] for one in tickets]
            )


def look_at_limits(processes: Processes, beside: Beside) -> None:
    """Write down every setting that the daemon has."""
    with Client(processes.socket) as client:

        def told() -> tuple[int, list[list[object]]]:
            sent = time.monotonic_ns()  # of the try that was answered
            return sent, [
                [one.name, one.limit, one.slot_decay_per_second, one.active]
                for one in client.list_limits()
            ]

        sent, limits = beside.again(told)
        processes.log.mark("limits", sent, limits)
