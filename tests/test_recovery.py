"""A restart changes nothing: whatever happened, the journal brings back exactly what was true.

Random scripts run in a world of real parts; after each turn the journal is replayed into a second
one, and both must be the same.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atmost import wire
from atmost.errors import AtmostError, ProtocolError
from atmostd import config, grants, recovery
from atmostd.session import Session
from atmostd.ticket import Edit, Reset, State
from tests.replay_world import FakeLine, FakeProcesses, World, replayed

SECOND = 10**9
NAMES = ["api", "db", "gpu"]
CLIENTS = 3
DECAYS = [0.0, 0.3, 1.0, 1000.0, 7.0]
PAUSES = [1, 333_333_333, 10 * SECOND, 900_000, SECOND]

Step = tuple[str, int, int, int]

SMALL = st.integers(0, 15)
STEP = st.tuples(
    st.sampled_from(
        [
            *["acquire"] * 6,
            *["release"] * 3,
            *["turn"] * 4,
            *["sleep"] * 2,
            *("create", "edit", "edit", "delete", "checkpoint", "read", "sweep"),
            *("leave", "detach", "attach", "keep", "resume", "kill"),
            *("revoke", "reset"),
        ]
    ),
    SMALL,
    SMALL,
    SMALL,
)
STEPS_MAX = 60


class Script:
    """Does what the steps say, in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sessions: list[Session | None] = [None] * CLIENTS
        self.lines: list[FakeLine | None] = [None] * CLIENTS
        self.asked = 0
        self.next_pid = 100
        self.names: list[bytes] = [b""] * CLIENTS
        self.pids = [0] * CLIENTS

    def do(self, step: Step) -> None:
        what, a, b, c = step
        method: Any = getattr(self, "_" + what)
        try:
            method(a, b, c)
        except ProtocolError:
            self._leave(a, 0, 0)  # what a connection does
        except AtmostError:
            pass  # refused at once: nothing was made

    def _here(self, a: int) -> Session:
        """A session of this client, with a connection."""
        at = a % CLIENTS
        session = self.sessions[at]
        if session is not None and session.connected and self._is_known(session):
            return session
        if session is None or not self._is_known(session):
            self.next_pid += 1
            self.pids[at] = self.next_pid
            self.names[at] = self.next_pid.to_bytes(16, "big")
        line = self.lines[at] = FakeLine()
        session = self.world.hello(self.names[at], self.pids[at])
        self.sessions[at] = session
        session.attach(line)
        return session

    def _is_known(self, session: Session) -> bool:
        return any(session is known for known in self.world.sessions)

    def _acquire(self, a: int, b: int, c: int) -> None:
        session = self._here(a)
        self.asked += 1
        chosen = [name for bit, name in enumerate(NAMES) if (b % 7 + 1) >> bit & 1]
        slots = 1 + c % 2
        spends = c % 3 == 0
        both = c % 5 == 4
        outer = [n for n, t in session.tickets.items() if t.state is State.HELD][: a % 2]
        session.acquire(
            wire.Acquire(
                self.asked,
                {} if spends else dict.fromkeys(chosen, slots),
                dict.fromkeys(chosen, 1) if spends or both else {},
                [None, 0.0, 0.5, 3.0][(a + c) % 4],
                strict=b > 12,
                inside=outer,
                by_process=c == 7,
                seen=[n for n in session._spent if n % 2] if b % 2 else [],
            )
        )

    def _release(self, a: int, b: int, _: int) -> None:
        session = self._here(a)
        asked = list(session.tickets) or [1]
        session.release(wire.Release(asked[b % len(asked)]))

    def _revoke(self, a: int, b: int, _: int) -> None:
        held = [
            (session, ticket)
            for session in self.world.sessions
            for ticket in session.tickets.values()
            if ticket.state is State.HELD
        ]
        if held:
            session, ticket = held[(a + b) % len(held)]
            session.revoke(ticket, "released by ada (pid 1)")

    def _reset(self, a: int, _: int, __: int) -> None:
        actor = self.world.registry.actors.get(NAMES[a % len(NAMES)])
        if actor is not None:
            actor.post(Reset())

    def _keep(self, a: int, b: int, c: int) -> None:
        session = self._here(a)
        self.asked += 1
        known = [*session._unnamed, self.asked]
        request = known[b % len(known)]
        session.keep(wire.Keep(request, {NAMES[c % 3]: 1 + c % 2}, 5 + b, by_process=c == 7))

    def _resume(self, a: int, b: int, _: int) -> None:
        session = self._here(a)
        for request in list(session._unnamed)[: b % 3]:
            session.acquire(wire.Acquire(request, {"db": 1}))
        session.resume(wire.Resume(self.asked))

    def _attach(self, a: int, _: int, __: int) -> None:
        session = self._here(a)
        line = self.lines[a % CLIENTS] = FakeLine()
        session.attach(line)

    def _leave(self, a: int, _: int, __: int) -> None:
        line = self.lines[a % CLIENTS]
        session = self.sessions[a % CLIENTS]
        if session is not None and line is not None and self._is_known(session):
            session.leave(line)

    def _detach(self, a: int, _: int, __: int) -> None:
        line = self.lines[a % CLIENTS]
        session = self.sessions[a % CLIENTS]
        if session is not None and line is not None and self._is_known(session):
            session.detach(line)

    def _kill(self, a: int, _: int, __: int) -> None:
        self.world.processes.kill(self.pids[a % CLIENTS], self.world.sessions)

    def _create(self, a: int, b: int, c: int) -> None:
        name = NAMES[a % 3]
        if name not in self.world.registry.actors:
            self.world.registry.make(name, b % 4, DECAYS[c % 5], active=b != 5)

    def _edit(self, a: int, b: int, c: int) -> None:
        name = NAMES[a % 3]
        if name in self.world.registry.actors:
            self.world.edit(
                name,
                None if b > 8 else b % 4,
                None if c > 8 else DECAYS[c % 5],
                [None, True, False, True][(b + c) % 4],
            )

    def _delete(self, a: int, _: int, __: int) -> None:
        if NAMES[a % 3] in self.world.registry.actors:
            self.world.delete(NAMES[a % 3])

    def _sleep(self, a: int, b: int, _: int) -> None:
        self.world.now += PAUSES[a % 5]
        if b % 4:
            self.world.ring()

    def _checkpoint(self, *_: int) -> None:
        self.world.checkpoint_next()

    def _read(self, *_: int) -> None:
        for actor in self.world.registry.actors.values():
            actor.limit.active_slots(self.world.now)

    def _sweep(self, *_: int) -> None:
        """Limits that a template has made are looked at."""
        self.world.registry._templated._sweep()

    def _turn(self, *_: int) -> None:
        """Handled by whoever runs the script."""


async def compare(world: World, folder: Path) -> None:
    after = replayed(world, folder)
    try:
        assert after.facts() == world.facts()
        # What a client has been told meanwhile, nobody had to write down.
        assert world.revoked() <= after.revoked()
    finally:
        after.close()


async def run(steps: list[Step], folder: Path) -> None:
    first, second = folder / "first", folder / "second"
    world = World(first, FakeProcesses()).begin()
    try:
        script = Script(world)
        for name, decay in zip(NAMES, (1.0, 0.0, 0.3), strict=True):
            world.registry.make(name, 2, decay, active=True)
        for step in steps:
            script.do(step)
            if step[0] == "turn":
                await world.settle()
                await compare(world, second)
        await world.settle()
        world.ring()
        await world.settle()
        await compare(world, second)
        await goes_on_as_it_was(world, second)
    finally:
        world.close()


async def goes_on_as_it_was(world: World, folder: Path) -> None:
    """Nobody goes just because of a restart: who could go had gone."""
    after = replayed(world, folder)
    try:
        recovery.go_on(after.registry)
        await after.settle()
        assert after.facts() == world.facts()
    finally:
        after.close()


SPENDERS: list[Step] = [("acquire", 0, 0, 0)] * 4  # two go, two wait
TURN: Step = ("turn", 0, 0, 0)


@settings(max_examples=1_000)
# What longer scripts have found: a timer rings late, after a reader has settled the level;
@example([*SPENDERS, ("edit", 0, 1, 3), TURN, ("sleep", 1, 0, 0), ("read", 0, 0, 0)])
# an edit and a deletion in one turn; a number that is kept after what was spent under it.
@example([*SPENDERS, ("edit", 0, 0, 2), ("delete", 0, 0, 0)])
@example([("acquire", 8, 0, 0), TURN, ("detach", 8, 0, 0), ("keep", 2, 0, 0)])
@given(st.lists(STEP, max_size=STEPS_MAX))
def test_a_restart_at_the_end_of_any_turn_changes_nothing(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(steps, Path(folder)))


def test_a_limit_that_was_set_by_hand_is_not_one_that_may_be_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path / "first", FakeProcesses()).begin()
        actor = world.registry.make(
            "used first", 1, 0.0, active=False, origin="implicit", made_by=0
        )
        await world.settle()
        world.registry.set_origin(actor, "hand")
        actor.post(Edit(limit=5, active=True))
        await world.settle()
        after = replayed(world, tmp_path / "second")
        try:
            assert len(after.registry._implicit) == len(world.registry._implicit) == 0
        finally:
            after.close()
            world.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("says_nothing_more", [False, True])
def test_who_leaves_when_the_limits_have_stopped_holds_nothing_later(
    tmp_path: Path, says_nothing_more: bool
) -> None:
    """The journal of a daemon that stopped in order could end with a session's end and without what it
    let go of; such a journal leaves nobody in line either."""

    async def scenario() -> None:
        world = World(tmp_path / "first", FakeProcesses()).begin()
        world.registry.make("a", 1, 0.0, active=True, origin="hand", made_by=0)
        session, line = world.hello(bytes(16), 101), FakeLine()
        session.attach(line)
        for number in (1, 2):
            session.acquire(wire.Acquire(number, {"a": 1}))
        await world.settle()
        world.registry.stop()
        if says_nothing_more:
            world.turn.stop()
        written = world.journal.path.read_bytes()
        session.leave(line)
        await world.settle()
        assert (world.journal.path.read_bytes() == written) == says_nothing_more
        if says_nothing_more:
            world.processes.dead.add(101)
        after = replayed(world, tmp_path / "second")
        try:
            limit = after.registry.actors["a"].limit
            assert (limit.held, list(limit.line), list(after.sessions)) == (0, [], [])
        finally:
            after.close()
            world.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("rolled_over", [False, True])
def test_a_daemon_that_dies_while_a_session_ends_leaves_the_next_one_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rolled_over: bool
) -> None:
    """What it was still to let go of, the next daemon lets go of."""
    monkeypatch.setattr(config, "SESSION_ENDS_A_TURN", 1)

    async def scenario() -> None:
        world = World(tmp_path / "first", FakeProcesses()).begin()
        world.registry.make("a", 1, 0.0, active=True, origin="hand", made_by=0)
        session, line = world.hello(bytes(16), 101), FakeLine()
        session.attach(line)
        for number in range(1, 7):
            session.acquire(wire.Acquire(number, {"a": 1}))
        await world.settle()
        waiting = world.registry.actors["a"].limit.line
        session.leave(line)
        for _ in range(3):  # turns
            await asyncio.sleep(0)
        if rolled_over:
            world.checkpoint_next()
            await asyncio.sleep(0)
        assert waiting
        after = replayed(world, tmp_path / "second")
        try:
            limit = after.registry.actors["a"].limit
            assert (limit.held, list(limit.line), list(after.sessions)) == (0, [], [])
        finally:
            after.close()
            world.close()

    asyncio.run(scenario())


def test_who_goes_on_with_a_limit_that_is_deleted_meanwhile_still_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "TICKETS_A_STEP_MAX", 2)

    async def scenario() -> None:
        world = World(tmp_path / "first", FakeProcesses()).begin()
        for name, slots in (("a", 1), ("b", 9), ("c", 1)):
            world.registry.make(name, slots, 0.0, active=True, origin="hand", made_by=0)
        session = world.hello(bytes(16), 101)
        session.attach(FakeLine())
        for number, asked in enumerate(("a", "c", "ab", "ab", "bc"), 1):
            session.acquire(wire.Acquire(number, dict.fromkeys(asked, 1)))
        await world.settle()
        a, b = (world.registry.actors[name].limit for name in "ab")
        world.edit("a", 3)
        await world.settle()
        session.acquire(wire.Acquire(6, {"b": 1}))
        await world.settle()
        world.delete("a")
        await world.settle()
        assert (len(a.line), len(b.line)) == (0, 2)
        world.now += 1
        world.ring()
        await world.settle()
        assert len(b.line) == 1, "it lacks the third limit"
        assert not world.registry.some_wait_in_vain()
        assert not world.registry._deleted
        world.close()

    asyncio.run(scenario())
