"""What all users share, no single one of them can take away from the others: limits made by templates, and
watches. A neighbour works beside every test here, until its end."""

from __future__ import annotations

import signal

import pytest

from atmost import wire
from tests.bounded import NOBODY, SOMEBODY, Bounded, bounded, needs_root, too_many
from tests.protocol_client import Client
from tests.support import wait_until

pytestmark = needs_root

BURST = 50


def with_template(running: Bounded) -> Bounded:
    """`t-*` makes limits of 1 slot."""
    with running.client() as client:
        client._ask(wire.Draft, [], [wire.TemplateDeclaration("t-*", 1)], True)
        changes = client._ask(wire.ListChanges)
        assert isinstance(changes, wire.Changes)
        client._ask(wire.Commit, False, changes.version)
    return running


def names(running: Bounded) -> list[str]:
    """Of the limits that templates have made."""
    with running.client() as client:
        return [one.name for one in client.list_limits() if one.origin == "template"]


def hold(client: Client, name: str) -> int:
    """The number of the request."""
    answer = client.ask("acquire", {name: 1})
    assert answer[0] == "granted"
    number: int = answer[1]
    return number


def test_template_limits_of_one_user() -> None:
    with bounded("template_limits_per_uid=3", "template_limits=5") as running:
        with_template(running)
        greedy, other = running.connect_as(NOBODY), running.connect_as(SOMEBODY)
        held = [hold(greedy, f"t-{number}") for number in range(3)]
        for _ in range(BURST):
            with too_many("template_limits_per_uid", 3):
                greedy.ask("acquire", {"t-more": 1})
        assert running.log_text().count("limits made by templates for uid") == 1
        hold(other, "t-other")
        hold(other, "t-other too")
        with too_many("template_limits", 5):  # that is also said to whom has room of his own
            other.ask("acquire", {"t-third": 1})
        greedy.send("release", held[0])
        greedy.ask("status")  # it has been acted on
        hold(greedy, "t-more")  # its idle one made room
        assert names(running) == ["t-1", "t-2", "t-more", "t-other", "t-other too"]


def test_idle_ones_of_a_user_make_room_though_others_have_older_ones() -> None:
    with bounded("template_limits_per_uid=3") as running:
        with_template(running)
        first, second = running.connect_as(NOBODY), running.connect_as(SOMEBODY)
        for number in range(BURST):
            for client, whose in ((first, "a"), (second, "b")):
                client.send("release", hold(client, f"t-{whose}{number}"))


def test_one_that_is_set_by_hand_counts_no_more() -> None:
    with bounded("template_limits_per_uid=1") as running:
        with_template(running)
        client = running.connect_as(NOBODY)
        hold(client, "t-1")
        with running.client() as ours:
            ours.update_limit("t-1", limit=2)
        hold(client, "t-2")
        with too_many("template_limits_per_uid", 1):
            client.ask("acquire", {"t-3": 1})
        with running.client() as ours:
            ours.delete_limit("t-2")
        hold(client, "t-3")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_restart_they_count_for_all_together(number: int) -> None:
    with bounded("template_limits_per_uid=1", "template_limits=2") as running:
        with_template(running)
        client = running.connect_as(NOBODY)
        client.ask("acquire", {"t-1": 1}, {}, None, False, [], True)  # by this process
        running.neighbour.end()
        running.stop(number)
        running.start()
        again = running.connect_as(NOBODY)
        hold(again, "t-2")
        with too_many("template_limits_per_uid", 1):
            again.ask("acquire", {"t-3": 1})
        with too_many("template_limits", 2):
            running.connect_as(SOMEBODY).ask("acquire", {"t-3": 1})
        running.restart_neighbour()


def watch(client: Client) -> int:
    """The number of a watch that has begun."""
    number = client.request("watch")
    assert client.answer(number)[0] == "events"
    return number


def test_watches_of_one_user() -> None:
    with bounded("watches_per_uid=2", "watches=3") as running:
        one, again = running.connect_as(NOBODY), running.connect_as(NOBODY)
        first = watch(one)
        watch(again)
        for client in (one, again):
            with too_many("watches_per_uid", 2):
                client.answer(client.request("watch"))
        other = running.connect_as(SOMEBODY)
        watch(other)
        with too_many("watches", 3):
            other.answer(other.request("watch"))
        for _ in range(3):
            watch(running.connect())  # an administrator looks at any time
        one.send("release", first)
        again.close()
        with running.client() as ours:
            wait_until(lambda: ours.list_statistics().daemon.watchers == 4)
            ours.create_limit("made", 1)  # told to those that are left


def test_a_reload_of_bounds_holds_for_watches_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As for all others; a watch that is there stays."""
    file = tmp_path_factory.mktemp("config") / "atmostd.toml"
    file.write_text("[bounds]\nwatches_per_uid = 1\n")
    with bounded() as running:
        running.neighbour.end()
        running.stop()
        running.options = ("--config", str(file))
        running.start()
        running.restart_neighbour()
        client = running.connect_as(NOBODY)
        watch(client)
        with too_many("watches_per_uid", 1):
            client.answer(client.request("watch"))
        file.write_text("[bounds]\nwatches_per_uid = 2\n")
        with running.client() as ours:
            ours._ask(wire.Reload)
        watch(client)
