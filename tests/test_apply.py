"""apply, export, templates, daemon reload: a file of limits, put in force in one step or not at all."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atmost import declarations, errors, values, wire
from atmost.cli import apply as apply_module
from atmost.cli import main
from atmost.sync import Client
from atmost.wire import Declaration, TemplateDeclaration
from tests.protocol_client import Client as Foreign
from tests.protocol_client import Failed
from tests.support import RunningDaemon, wait_until

FILE = """
[[limit]]
name = "database"
limit = 5
[[limit]]
name = "api"
limit = 10
rate = "100/min"
active = false
[[template]]
match = "user-*"
limit = 3
rate = "2/s"
[[template]]
match = "host ?"
limit = 1
"""

Atmost = Callable[..., tuple[int, str, str]]


@pytest.fixture
def atmost(
    daemon: RunningDaemon, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> Atmost:
    """Runs the command; a text that begins with a line end becomes a file."""

    def run(*words: str) -> tuple[int, str, str]:
        given = []
        for word in words:
            if word.startswith("\n"):
                (tmp_path / "f.toml").write_text(word)
                word = str(tmp_path / "f.toml")
            given.append(word)
        code = main(["--socket", str(daemon.socket), *given])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def limits(daemon: RunningDaemon) -> dict[str, tuple[int, float, bool]]:
    with daemon.client() as client:
        found = client.list_limits()
    return {one.name: (one.limit, one.slot_decay_per_second, one.active) for one in found}


def test_apply_makes_changes_and_prunes(daemon: RunningDaemon, atmost: Atmost) -> None:
    first = (
        "+ database: limit 5, active\n"
        "+ api: limit 10, 100/min, inactive\n"
        "+ template user-*: limit 3, 2/s\n"
        "+ template host ?: limit 1\n"
    )
    assert atmost("apply", "-f", FILE, "--dry-run") == (
        *(0, first),
        "atmost: 4 new, 0 changed, 0 deleted; nothing was done (--dry-run)\n",
    )
    assert limits(daemon) == {}
    assert atmost("apply", "-f", FILE) == (0, first, "atmost: 4 new, 0 changed, 0 deleted\n")
    assert limits(daemon) == {"api": (10, 100 / 60, False), "database": (5, 0.0, True)}
    said = "atmost: nothing to change: all is as the file says\n"
    assert atmost("apply", "-f", FILE) == (0, "", said)
    with daemon.client() as client:
        client.create_limit("old", 1)
        client.acquire("used").release()
    less = FILE.replace("limit = 5", "limit = 7").replace("active = false", "")
    less = less.partition("[[template]]")[0] + '[[template]]\nmatch = "host ?"\nlimit = 2\n'
    changed = "~ database: limit 5 -> 7\n~ api: inactive -> active\n"
    moved = "~ template host ?: limit 1 -> 2, moved to place 1\n"
    also = "~ template user-*: moved to place 2\n"
    assert atmost("apply", "-f", less, "--dry-run")[1] == changed + moved + also
    pruned = changed + "- old\n~ template host ?: limit 1 -> 2\n- template user-*\n"
    assert atmost("apply", "-f", less, "--prune")[:2] == (0, pruned)
    assert list(limits(daemon)) == ["api", "database", "used"]
    assert atmost("templates") == (0, "host ?\t2\t0\thand\t-\n", "")


def test_rates_in_words(atmost: Atmost) -> None:
    one = "\n[[limit]]\nname = 'a'\nlimit = 1\n"
    atmost("apply", "-f", one)
    assert atmost("apply", "-f", one + "rate = '5/s'")[1] == "~ a: rate none -> 5/s\n"
    assert atmost("apply", "-f", one + "rate = '5/h'")[1] == "~ a: rate 5/s -> 5/h\n"


def test_as_json(atmost: Atmost) -> None:
    code, out, _ = atmost("apply", "-f", "\n[[limit]]\nname = 'a'\nlimit = 1", "--json")
    assert code == 0
    assert json.loads(out) == [
        {
            "change": "+",
            "kind": "limit",
            "name": "a",
            "was": None,
            "becomes": {"limit": 1, "slot_decay_per_second": 0.0, "active": True},
            "place": 0,
        }
    ]
    atmost("apply", "-f", FILE)
    assert json.loads(atmost("templates", "--json")[1])[0] == {
        "match": "user-*",
        "limit": 3,
        "slot_decay_per_second": 2.0,
        "origin": "hand",
        "declared": "",
    }


def test_other_sections_are_left_out_with_a_word(atmost: Atmost) -> None:
    code, out, err = atmost("apply", "-f", "\n[log]\nlevel = 'info'\n[bounds]\n")
    assert (code, out) == (0, "")
    assert "[log], [bounds] left out: only atmostd reads that" in err


def test_what_a_request_made_is_declared(daemon: RunningDaemon, atmost: Atmost) -> None:
    with daemon.client() as client:
        client.acquire("a").release()
    code, out, _ = atmost("apply", "-f", "\n[[limit]]\nname='a'\nlimit=1\nactive=false")
    assert (code, out) == (0, "~ a: made by a request, now declared\n")
    assert atmost("ls")[1].endswith("false\thand\t-\n")


# What is no file of limits


def test_nonsense_applies_nothing(
    daemon: RunningDaemon, atmost: Atmost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"[[limit]]\nname = '\xff'\nlimit = 1\n")
    long = tmp_path / "long"
    long.write_bytes(b"# a long word\n" * 800_000)
    for words, said in (
        ([str(broken)], f"{broken}: line 2: byte 18 is no UTF-8"),
        ([str(long)], f"{long}: it has more than 8 MiB"),
        ([str(tmp_path)], f"{tmp_path}: cannot read it: Is a directory"),
        ([str(tmp_path / "no")], "cannot read it: No such file or directory"),
        (["\nlimit = "], "it is no TOML"),
        (["\n[[limit]]\nname = 'a'\nlimit = 1\n[[limit]]\nname = 'b'\n"], "limit is missing"),
    ):
        code, out, err = atmost("apply", "-f", *words)
        assert (code, out) == (1, "")
        assert said in err
        assert "nothing was applied: mend" in err
    assert limits(daemon) == {}


def test_every_mistake_at_once(atmost: Atmost) -> None:
    code, _, err = atmost("apply", "-f", "\n[[limit]]\nname = 'a/b'\n[[template]]\nmatch = 7\n")
    assert code == 1
    assert len(err.splitlines()) == 5


@pytest.mark.parametrize(
    "words", [["apply"], ["apply", "-f", ""], ["apply", "x"], ["daemon"], ["daemon", "dance"]]
)
def test_wrong_words(atmost: Atmost, words: list[str]) -> None:
    code, out, err = atmost(*words)
    assert (code, out) == (2, "")
    assert f"usage: atmost {words[0]}" in err


def test_stdin(daemon: RunningDaemon) -> None:
    command = [sys.executable, "-m", "atmost", "apply", "-f", "-"]
    done = subprocess.run(
        command, input=FILE.encode(), env=daemon.environment(), capture_output=True, check=True
    )
    assert done.stdout.count(b"\n") == 4
    done = subprocess.run(command, input=b"\xff", env=daemon.environment(), capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"stdin: line 1: byte 0 is no UTF-8" in done.stderr


def test_a_pipe_is_read_to_its_end(daemon: RunningDaemon) -> None:
    """With --prune, the half of it would delete the other half."""
    script = """
atmost() { "$PYTHON" -m atmost "$@"; }
first='[[limit]]\nname = "a"\nlimit = 1\n' second='[[limit]]\nname = "b"\nlimit = 1\n'
atmost create b --limit 1
atmost apply --prune -f <(sleep 0.2; printf "$first"; sleep 0.2; printf "$second")
"""
    environment = daemon.environment() | {"PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=True)
    assert done.stdout == b"+ a: limit 1, active\n"
    assert set(limits(daemon)) == {"a", "b"}


def test_a_hundred_thousand_limits(daemon: RunningDaemon, atmost: Atmost) -> None:
    count = 100_000
    file = "\n".join(f"[[limit]]\nname = 'n{n}'\nlimit = 1" for n in range(count))
    code, out, err = atmost("apply", "-f", f"\n{file}\n")
    assert (code, out.count("\n")) == (0, count)
    assert err.endswith(f"{count} new, 0 changed, 0 deleted\n")
    assert atmost("ls")[1].count("\n") == count
    assert atmost("apply", "-f", "\n", "--prune")[2].endswith(f"0 changed, {count} deleted\n")
    assert atmost("ls")[1] == ""


def test_reload_as_a_command(tmp_path: Path) -> None:
    path = tmp_path / "atmostd.toml"
    path.write_text("")
    running = RunningDaemon(tmp_path, "--config", str(path)).start()
    try:
        words = ["--socket", str(running.socket), "daemon", "reload"]
        path.write_text(FILE)
        assert main(words) == 0
        assert list(limits(running)) == ["api", "database"]
        path.write_text("[[limit]]\n")
        assert main(words) == 1
        assert list(limits(running)) == ["api", "database"]
    finally:
        running.stop()


# Two editors, deaths


def drafted(client: Client, *declared: Declaration) -> int:
    client._ask(wire.Draft, list(declared), [], True)
    changes = client._ask(wire.ListChanges, False)
    assert isinstance(changes, wire.Changes)
    return changes.version


def test_two_editors(daemon: RunningDaemon) -> None:
    with daemon.client() as one, daemon.client() as other:
        first = drafted(one, Declaration("a", 1))
        second = drafted(other, Declaration("a", 2))
        one._ask(wire.Commit, False, first)
        with pytest.raises(errors.LimitsChanged):
            other._ask(wire.Commit, False, second)
        assert limits(daemon) == {"a": (1, 0.0, True)}
        again = drafted(other, Declaration("a", 2))
        other.create_limit("b", 1)
        with pytest.raises(errors.LimitsChanged):
            other._ask(wire.Commit, False, again)
        with pytest.raises(errors.LimitsChanged):  # what was not shown is not done
            other._ask(wire.Commit, True, drafted(other, Declaration("a", 2)))
        other._ask(wire.Commit, False, drafted(other, Declaration("a", 2)))
        assert limits(daemon)["a"] == (2, 0.0, True)


def test_uses_are_no_edits(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        version = drafted(client, Declaration("a", 2))
        client.acquire("a").release()
        client._ask(wire.Commit, False, version)
    assert limits(daemon) == {"a": (2, 0.0, True)}


def test_the_command_tries_again(
    daemon: RunningDaemon, atmost: Atmost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else changes limits between its look and its commit, once."""
    real, count = apply_module._changes, [0]

    def changes(client: Client, prune: bool) -> Any:
        found = real(client, prune)
        count[0] += 1
        if count[0] == 1:
            with daemon.client() as other:
                other.create_limit("meanwhile", 1)
        return found

    monkeypatch.setattr(apply_module, "_changes", changes)
    assert atmost("apply", "-f", FILE)[0] == 0
    assert count == [2]
    assert list(limits(daemon)) == ["api", "database", "meanwhile"]


@pytest.mark.parametrize("died_before", ["draft", "list", "commit", "answer"])
def test_the_daemon_dies_at_any_point(daemon: RunningDaemon, died_before: str) -> None:
    """All or nothing; and a commit on a connection that has no draft deletes nothing."""
    with daemon.client() as client:
        client.create_limit("there", 1)
        client._ask(wire.Draft, [Declaration("a", 1)], [], True)
        if died_before == "draft":
            daemon.stop(signal.SIGKILL)
            daemon.start()
            with pytest.raises(errors.InvalidValue, match="begun on this very connection"):
                client._ask(wire.Draft, [Declaration("b", 1)], [], False)
        if died_before == "list":
            daemon.stop(signal.SIGKILL)
            daemon.start()
            with pytest.raises(errors.InvalidValue, match="begun on this very connection"):
                client._ask(wire.ListChanges, True)
        version = drafted(client, Declaration("a", 1), Declaration("b", 1))
        if died_before == "commit":
            daemon.stop(signal.SIGKILL)
            daemon.start()
            with pytest.raises(errors.InvalidValue, match="begun on this very connection"):
                client._ask(wire.Commit, True, version)
            assert list(limits(daemon)) == ["there"]
        if died_before == "answer":
            client._ask(wire.Commit, False, version)
            daemon.stop(signal.SIGKILL)
            daemon.start()
            assert list(limits(daemon)) == ["a", "b", "there"]


def test_killed_while_it_commits(daemon: RunningDaemon) -> None:
    """Whenever it dies, the next daemon has all of a commit or nothing of it."""
    count = 3000
    for round_ in range(6):
        with daemon.client() as client:
            for at in range(0, count, 500):
                part = [Declaration(f"n{n}", round_ + 1) for n in range(at, at + 500)]
                client._ask(wire.Draft, part, [], at == 0)
            changes = client._ask(wire.ListChanges, False)
            assert isinstance(changes, wire.Changes)
            foreign = Foreign(str(daemon.socket))
            for at in range(0, count, 500):
                rows = [[f"n{n}", round_ + 1, 0.0, True] for n in range(at, at + 500)]
                foreign.ask("draft", rows, [], at == 0)
            version = foreign.ask("list_changes")[4]
            foreign.request("commit", False, version)
            timer = threading.Timer(0.01 * round_, daemon.stop, (signal.SIGKILL,))
            timer.start()
            timer.join()
            foreign.close()
            daemon.start()
        found = {one[0] for one in limits(daemon).values()}
        assert len(found) <= 1
        assert len(limits(daemon)) in (0, count)


# Bounds and rights


def test_a_draft_is_bounded(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path, "--bound", "draft_entries=10").start()
    try:
        with running.client() as client:
            part = [Declaration(f"n{n}", 1) for n in range(6)]
            client._ask(wire.Draft, part, [], True)
            with pytest.raises(errors.TooMany) as caught:
                client._ask(wire.Draft, part, [], False)
            assert caught.value.setting == "draft_entries"
            client._ask(wire.Draft, part, [], True)
            many = [TemplateDeclaration(f"t{n}*", 1) for n in range(declarations.TEMPLATES_MAX + 1)]
            with pytest.raises(errors.AtmostError):
                client._ask(wire.Draft, [], many, True)
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("limit", "field"),
    [(["a/b", 1], "name"), (["a", -1], "limit"), (["a", 1, -1.0], "slot_decay_per_second")],
)
def test_a_wrong_declaration_is_refused(
    daemon: RunningDaemon, limit: list[Any], field: str
) -> None:
    client = Foreign(str(daemon.socket))
    with pytest.raises(Failed) as caught:
        client.ask("draft", [limit], [], True)
    assert caught.value.fields["field"] == field
    with pytest.raises(Failed):
        client.ask("draft", [], [["a[", 1]], True)
    client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_only_admins() -> None:
    from tests.bounded import NOBODY, bounded

    with bounded() as running:
        client = running.connect_as(NOBODY)
        asked: list[tuple[Any, ...]] = [("draft", [], [], True), ("list_changes",), ("reload",)]
        for words in [*asked, ("commit", False, 1)]:
            with pytest.raises(Failed) as caught:
                client.ask(*words)
            assert caught.value.code == "permission_denied"
        assert client.ask("list_templates")[0] == "templates"


# Round trip

names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/%&><"),
    min_size=1,
    max_size=12,
).filter(values._is_name)
rates = st.one_of(
    st.just(0.0),
    st.integers(1, 10_000).map(lambda n: n / 60),
    st.floats(0, 1e15, allow_nan=False, allow_infinity=False),
)
counts = st.integers(0, values.COUNT_MAX)
declared = st.dictionaries(names, st.tuples(counts, rates, st.booleans()), max_size=6)
patterns = st.dictionaries(
    names.filter(lambda text: "[" not in text), st.tuples(counts, rates), max_size=4
)


@pytest.fixture(scope="module")
def one_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("round")).start()
    yield running
    running.stop()


@given(declared, patterns)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_exported_applies_without_a_change(
    one_daemon: RunningDaemon,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path_factory: pytest.TempPathFactory,
    limits_of: dict[str, tuple[int, float, bool]],
    templates_of: dict[str, tuple[int, float]],
) -> None:
    path = tmp_path_factory.getbasetemp() / "exported.toml"
    at = ["--socket", str(one_daemon.socket)]
    with one_daemon.client() as client:
        client._ask(
            wire.Draft,
            [Declaration(name, *fields) for name, fields in limits_of.items()],
            [TemplateDeclaration(match, *fields) for match, fields in templates_of.items()],
            True,
        )
        changes = client._ask(wire.ListChanges, True)
        assert isinstance(changes, wire.Changes)
        client._ask(wire.Commit, True, changes.version)
    assert main([*at, "export"]) == 0
    path.write_bytes(capfdbinary.readouterr().out)
    assert main([*at, "apply", "-f", str(path), "--prune", "--dry-run"]) == 0
    assert capfdbinary.readouterr().out == b""
    assert limits(one_daemon) == {
        name: (limit, rate + 0.0, active) for name, (limit, rate, active) in limits_of.items()
    }


def test_a_change_that_cannot_be_saved_is_not_made(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("there", 1)
        blocked = daemon.state_dir / "state.new"
        blocked.mkdir()
        version = drafted(client, Declaration("there", 2), Declaration("new", 1))
        with pytest.raises(errors.StateNotSaved):
            client._ask(wire.Commit, False, version)
        assert limits(daemon) == {"there": (1, 0.0, True)}
        blocked.rmdir()
        client._ask(wire.Commit, False, version)
        wait_until(lambda: len(limits(daemon)) == 2)


def test_others_are_served_while_many_limits_change(daemon: RunningDaemon) -> None:
    count, part = 20_000, 1_000
    editor, neighbour = Foreign(str(daemon.socket)), Foreign(str(daemon.socket))
    neighbour.ask("create_limit", "neighbour", 1)
    for limit in (1, 2):
        for at in range(0, count, part):
            rows = [[f"n{n}", limit, 0.0, True] for n in range(at, at + part)]
            editor.ask("draft", rows, [], at == 0)
        commit = editor.request("commit", False, editor.ask("list_changes")[4])
        served = []
        while not select.select([editor.socket], [], [], 0)[0]:
            neighbour.send("release", neighbour.ask("acquire", {"neighbour": 1})[1])
            served.append(neighbour.ask("status")[8])
        assert editor.answer(commit) == ["done", commit]
        if limit == 1:
            assert any(1 < limits < count + 1 for limits in served)
    editor.close()
    neighbour.close()
    assert set(limits(daemon).values()) == {(2, 0.0, True), (1, 0.0, True)}
