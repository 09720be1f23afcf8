"""Runs commands, one after the other, and takes the time of each."""

from __future__ import annotations

import os
import subprocess
import time

from bench.clients.worker import serve


class Commands:
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def runs(self, command: list[str], count: int, environ: dict[str, str]) -> float:
        """Milliseconds each, from its start to its end."""
        environment = {**os.environ, "HOME": self._folder, **environ}
        begin = time.perf_counter_ns()
        for _ in range(count):
            subprocess.run(
                command,
                check=True,
                env=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return (time.perf_counter_ns() - begin) / count / 1e6

    def tells(self, command: list[str]) -> float:
        """The number that it prints."""
        return float(subprocess.check_output(command, stdin=subprocess.DEVNULL))


def main(address: str) -> None:
    serve(Commands(address))
