"""atmost.sync when an exception comes at any place of a call that loses its connection on the way: the
request is let go of all the same, and the other threads go on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atmost import wire
from atmost.sync import Client
from tests.callers import listening
from tests.places import AtPlace, places
from tests.support import PATIENCE_SECONDS, wait_until


class HangsUpOnce:
    """A daemon that hangs up on each session's first request for slots, and knows who has what."""

    def __init__(self) -> None:
        self.has: dict[bytes, set[int]] = {}  # by session

    @contextlib.contextmanager
    def at(self, path: Path) -> Iterator[None]:
        with listening(path, self._serve):
            yield

    def _serve(self, connected: socket.socket) -> None:
        frames = wire.FrameReader()
        session, first, named = b"", False, set()
        while data := connected.recv(4096):
            for body in frames.feed(data):
                match wire.decode_client_message(bytes(body)):
                    case wire.Hello(session=session):
                        first = session not in self.has
                        self.has.setdefault(session, set())
                        answer: wire.Message = wire.Welcome(wire.PROTOCOL_VERSION, "0", 1)
                    case wire.Acquire(request=number):
                        self.has[session].add(number)
                        named.add(number)
                        if first:
                            return
                        answer = wire.Granted(number, 1, 0)
                    case wire.Keep(request=number):
                        named.add(number)
                        continue
                    case wire.Release(request=number):
                        self.has[session].discard(number)
                        continue
                    case wire.Resume(request=number):
                        self.has[session] &= named
                        answer = wire.Done(number)
                    case message:
                        assert isinstance(message, wire.DeleteLimit)
                        answer = wire.Done(message.request)
                connected.sendall(wire.encode(answer))


def interrupt() -> None:
    raise KeyboardInterrupt


# An exception that comes between the making of a socket and its assignment leaves it to be collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_interruption_at_any_place_while_the_connection_is_lost(tmp_path: Path) -> None:
    daemon = HangsUpOnce()
    reached = set()
    with daemon.at(tmp_path / "s"):
        for place in places():
            interruption = AtPlace(place, interrupt)
            with Client(tmp_path / "s") as tested, ThreadPoolExecutor(1) as pool:
                tested.delete_limit("first")
                assert tested._connection is not None
                session = tested._connection._exchange._session
                with contextlib.suppress(KeyboardInterrupt), interruption:
                    grant = tested.acquire("db")
                    sys_grants = [grant]
                if interruption.at is None:
                    sys_grants[0].release()
                pool.submit(tested.delete_limit, "second").result(PATIENCE_SECONDS)
                wait_until(
                    lambda session=session: not daemon.has[session],  # type: ignore[misc]
                    f"nothing is left after {interruption.at}",
                )
            if interruption.at is None:
                break
            reached.add(interruption.at)
    assert any("_reconnect" in at for at in reached)
    assert any("_resume" in at for at in reached)
