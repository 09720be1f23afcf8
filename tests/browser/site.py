"""A daemon, the web process that serves its page, and jobs: all real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from atmost.sync import Client
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

_CHURN = """
import sys, time
from atmost.sync import concurrency
while True:
    with concurrency(sys.argv[1]):
        time.sleep(0.002)
"""
_HOLDING = """
import sys, time
from atmost.sync import concurrency
with concurrency(sys.argv[1:]):
    time.sleep(600)
"""


class WebProcess:
    """`atmost web` on a port of its own. `start` returns when it has printed its address."""

    def __init__(self, daemon: RunningDaemon, user: int | None = None) -> None:
        self.daemon = daemon
        self.log = daemon.folder / "web.log"
        self.token = daemon.folder / "web" / "token"
        self._user = user
        self._port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> WebProcess:
        command = [*(sys.executable, "-m", "atmost", "--socket", str(self.daemon.socket))]
        own = self.token.parent
        own.mkdir(exist_ok=True, mode=0o700)
        if self._user is not None:
            os.chown(own, self._user, self._user)
            command = [*becoming(self._user), *command]
        command += ["web", "--port", str(self._port), "--token-file", str(self.token)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd="/",
            )
        assert self.process.stdout is not None
        found = None
        while found is None:
            line = self.process.stdout.readline()
            assert line, f"atmost web ended: {self.log.read_text()}"
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=\S+", line)
        self._port = int(found[1])  # the same again after a restart
        self.entrance = found[0]
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    def forget_token(self) -> None:
        """The next start draws another."""
        self.token.unlink()

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()


def becoming(uid: int) -> list[str]:
    """To put in front of a command: another user without rights, who can yet read this Python."""
    reads = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *reads]


class Site:
    """All of it, in a folder. Also a client that looks at the same daemon."""

    def __init__(self, folder: Path, *options: str, user: int | None = None) -> None:
        self.daemon = RunningDaemon(folder, *options).start()
        self.client: Client = self.daemon.client()
        self._jobs: list[subprocess.Popen[bytes]] = []
        self.web = WebProcess(self.daemon, user)
        try:
            self.web.start()
        except BaseException:
            self.daemon.stop(signal.SIGKILL)
            raise

    def cli(self, *words: str) -> None:
        """The command, as another person would give it."""
        command = [sys.executable, "-m", "atmost", *words]
        subprocess.run(command, env=self.daemon.environment(), check=True, capture_output=True)

    def job(self, name: str, *words: str, slots: int = 1) -> subprocess.Popen[bytes]:
        """A process that holds the limit, or waits for it, until it is ended."""
        known = len(self.client.list_tickets(name))
        options = ["-n", str(slots)] if slots != 1 else []
        command = [sys.executable, "-m", "atmost", "run", name, *options]
        process = subprocess.Popen(
            [*command, "--", *(words or ("sleep", "600"))],
            env=self.daemon.environment(),
            stderr=subprocess.DEVNULL,
        )
        self._jobs.append(process)
        wait_until(lambda: len(self.client.list_tickets(name)) > known, f"a job at {name}")
        return process

    def holds(self, *names: str) -> subprocess.Popen[bytes]:
        """A program of several limits at a time, that holds or waits until it is ended."""
        known = len(self.client.list_tickets(names[0]))
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLDING, *names], env=self.daemon.environment()
        )
        self._jobs.append(process)
        wait_until(lambda: len(self.client.list_tickets(names[0])) > known, f"it at {names}")
        return process

    def churn(self, name: str) -> None:
        """A process that takes a slot and lets it go, again and again, until it is ended."""
        process = subprocess.Popen(
            [sys.executable, "-c", _CHURN, name], env=self.daemon.environment()
        )
        self._jobs.append(process)

    def states(self, name: str) -> tuple[int, int]:
        """How many hold and how many wait."""
        tickets = self.client.list_tickets(name)
        held = sum(ticket.state == "held" for ticket in tickets)
        return held, len(tickets) - held

    def jobs(self) -> int:
        """How many were started, and are not ended by `end_jobs`."""
        return len(self._jobs)

    def end_jobs(self, since: int = 0) -> None:
        """End those that were started since there were so many."""
        for process in self._jobs[since:]:
            process.kill()
            process.wait(PATIENCE_SECONDS)
        del self._jobs[since:]

    def close(self) -> None:
        self.end_jobs()
        self.web.kill()
        self.client.close()
        self.daemon.stop(signal.SIGKILL)
