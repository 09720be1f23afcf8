"""What the tests of bounds share: a daemon with small ones, and other users of this host."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.bad_manners import KnownClient, Mute, Neighbour
from tests.protocol_client import Client, Failed
from tests.support import RunningDaemon, wait_until

NOBODY = 65534
SOMEBODY = 65533
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")

AnyClient = TypeVar("AnyClient", bound=Client)


class Bounded(RunningDaemon):
    """A daemon with these bounds, and a neighbour that must not notice when they are reached."""

    neighbour: Neighbour
    clients: list[Client]

    def connect(self, session: bytes = b"") -> KnownClient:
        return self._kept(KnownClient(str(self.socket), session))

    def connect_as(self, uid: int) -> KnownClient:
        with effective(uid):
            return self.connect()

    def connect_mute(self) -> Mute:
        return self._kept(Mute(str(self.socket)))

    def restart_neighbour(self) -> None:
        """After a restart of the daemon: another one, in place of one that has ended."""
        with self.client() as client:
            client.delete_limit("neighbour")
        self.neighbour = Neighbour(self)
        self.neighbour.start()

    def _kept(self, client: AnyClient) -> AnyClient:
        self.clients.append(client)
        return client

    def waiting(self, name: str) -> int:
        """How many requests are in this line."""
        with self.client() as client:
            return client.read_limit(name).waiting

    def wait_for_line(self, name: str, count: int) -> None:
        wait_until(lambda: self.waiting(name) == count, f"{count} wait for {name}")


@contextlib.contextmanager
def bounded(*bounds: str) -> Iterator[Bounded]:
    """Such a daemon, in a folder that other users can reach, as pytest's are not. The neighbour is
    served until the end."""
    folder = Path(tempfile.mkdtemp(prefix="atmost-"))
    folder.chmod(0o755)
    running = Bounded(folder, *(word for bound in bounds for word in ("--bound", bound)))
    running.clients = []
    try:
        running.start()
        running.neighbour = Neighbour(running)
        running.neighbour.start()
        try:
            yield running
            running.neighbour.goes_on()
            assert "Traceback" not in running.log_text()
        finally:
            running.neighbour.end()
    finally:
        for client in running.clients:
            client.close()
        running.stop(signal.SIGKILL)
        shutil.rmtree(folder)


@contextlib.contextmanager
def effective(uid: int) -> Iterator[None]:
    """Connections made in here are that user's: the kernel notes who it was then."""
    before = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)


@contextlib.contextmanager
def too_many(setting: str, at_most: int) -> Iterator[None]:
    """What is done in here is refused by this bound."""
    with pytest.raises(Failed) as caught:
        yield
    assert caught.value.code == "too_many", caught.value
    fields: dict[str, Any] = caught.value.fields
    assert (fields["setting"], fields["at_most"]) == (setting, at_most)
    assert fields["what"]
    assert str(caught.value).startswith(f"too many {fields['what']}: at most {at_most}")
