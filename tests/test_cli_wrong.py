"""The command, wrongly used: the right error at once, its exit code, nothing changed, no traceback.

An exception that left `main` would fail these tests: that is how none of them sees a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atmost.sync import Client
from tests.support import RunningDaemon
from tests.support_cli import Atmost, client_of, here, shared


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("cli")).start()
    yield running
    running.stop()


@pytest.fixture
def daemon(started: RunningDaemon) -> Iterator[RunningDaemon]:
    with shared(started):
        yield started


@pytest.fixture
def atmost(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> Atmost:
    return client_of(daemon, capsys)


BAD_NAMES = [
    "",
    "a/b",
    "50%",
    "a&b",
    "a<b",
    "a>b",
    "a\nb",
    "a\x1bb",
    "a\x85b",
    "a\udc80b",
    "x" * 201,
]
BAD_LIMITS = ["-1", "1.5", "ten", "", "nan", "1_000", "٣", "0x10", "9007199254740992", "9" * 5000]
BAD_DECAYS = ["-1", "-0.001", "nan", "inf", "-inf", "fast", "", "1e999", "1_0", "٣"]
BAD_RATES = ["100", "-1/s", "1/week", "nan/s", "/s", "", "1e3/s", "9" * 400 + "/s"]
BAD_SLOTS = ["0", "-1", "1.5", "True", "", "db=", "db=0", "db=1.5", "=1", "a/b=1"]
BAD_SECONDS = ["-1", "nan", "inf", "soon", ""]
BAD_CODES = ["-1", "256", "1.5", "x", ""]

RUN = ["--", "true"]


@pytest.mark.parametrize(
    "command",
    [
        ["create", "--limit=1"],
        ["inspect"],
        ["update", "--limit=1"],
        ["enable"],
        ["disable"],
        ["delete", "--yes"],
        ["ps"],
    ],
    ids=lambda command: command[0],
)
def test_bad_names(atmost: Atmost, client: Client, command: list[str]) -> None:
    client.create_limit("db", 3)
    before = client.list_limits()
    for name in BAD_NAMES:
        for more in ([], ["db"]):
            code, out, err = atmost(*command, *more, name)
            assert (code, out) == (2, ""), name
            assert f"NAME={name!r:.70}" in err
            assert err.startswith(f"usage: atmost {command[0]} ")
    assert client.list_limits() == before


@pytest.mark.parametrize(
    ("arguments", "option", "bad"),
    [
        (["create", "new", "--limit={}"], "--limit", BAD_LIMITS),
        (["update", "db", "--limit={}"], "--limit", BAD_LIMITS),
        (["create", "new", "--limit=1", "--slot-decay-per-second={}"], "--slot-decay", BAD_DECAYS),
        (["update", "db", "--slot-decay-per-second={}"], "--slot-decay-per-second", BAD_DECAYS),
        (["create", "new", "--limit=1", "--rate={}"], "--rate", BAD_RATES),
        (["update", "db", "--rate={}"], "--rate", BAD_RATES),
        (["run", "db", "--slots={}", *RUN], "--slots", BAD_SLOTS),
        (["run", "--rate={}", *RUN], "--rate", BAD_NAMES),
        (["run", "db", "--wait={}", *RUN], "--wait", BAD_SECONDS),
        (["run", "db", "--exit-code={}", *RUN], "--exit-code", BAD_CODES),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_bad_values(
    atmost: Atmost, client: Client, arguments: list[str], option: str, bad: list[str]
) -> None:
    client.create_limit("db", 3)
    before = client.list_limits()
    for value in bad:
        code, out, err = atmost(*(word.format(value) for word in arguments))
        assert (code, out) == (2, ""), value
        assert f"error: argument {option}" in err or f"/{option}" in err, value
        assert "is not valid: expected" in err
        assert err.startswith(f"usage: atmost {arguments[0]} ")
    assert client.list_limits() == before


def test_a_negative_value_may_also_stand_apart(atmost: Atmost, client: Client) -> None:
    for arguments in (
        ["create", "new", "--limit", "-1"],
        ["create", "new", "--limit", "1", "--slot-decay-per-second", "-0.5"],
        ["run", "new", "-n", "-1", *RUN],
        ["run", "new", "-w", "-1", *RUN],
    ):
        code, out, err = atmost(*arguments)
        assert (code, out) == (2, "")
        assert "is not valid: expected" in err
    assert client.list_limits() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create"], "required: --limit"),
        (["create", "new"], "required: --limit"),
        (["create", "--limit", "1"], "NAME is missing"),
        (["create", "a", "b", "--limit", "1"], "there is no use for 'b'"),
        (["create", "new", "--limit"], "expected one argument"),
        (
            ["create", "new", "--limit", "1", "--rate=1/s", "--slot-decay-per-second=1"],
            "not allowed",
        ),
        (["create", "new", "--lim", "1"], "required: --limit"),
        (["ls", "db"], "there is no use for 'db'"),
        (["ls", "-x"], "there is no option -x"),
        (["inspect"], "NAME is missing"),
        (["inspect", "a", "b"], "there is no use for 'b'"),
        (["update", "db"], "nothing to change"),
        (["update", "db", "--enable", "--disable"], "not allowed with"),
        (["update", "db", "--rate=1/s", "--slot-decay-per-second=1"], "not allowed with"),
        (["enable"], "NAME is missing"),
        (["delete"], "NAME is missing"),
        (["delete", "-x", "--yes"], "goes behind `--`"),
        (["delete", "db"], "needs --yes"),
        (["ps", "a", "b"], "there is no use for 'b'"),
        (["status", "db"], "there is no use for 'db'"),
        (["run"], "a command to run is missing"),
        (["run", "db"], "a command to run is missing"),
        (["run", "db", "ls", "-l"], "a command to run is missing"),
        (["run", "db", "--"], "a command to run is missing"),
        (["run", "--", "true"], "NAME is missing"),
        (["run", "-x", "--", "true"], "--slots=NAME=1"),
        (["run", "db", "-w1", "--no-wait", "--", "true"], "not allowed with"),
        (["run", *map(str, range(33)), "--", "true"], "at most 32 names"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(atmost: Atmost, client: Client, arguments: list[str], words: str) -> None:
    client.create_limit("db", 3)
    before = client.list_limits()
    code, out, err = atmost(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"usage: atmost {arguments[0]} ")
    assert words in err
    assert client.list_limits() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nix"], "no limit named 'nix'"),
        (["ps", "nix"], "no limit named 'nix'"),
        (["update", "nix", "--limit", "1"], "no limit named 'nix'"),
        (["enable", "nix"], "no limit named 'nix'"),
        (["delete", "nix", "--yes"], "no limit named 'nix'"),
        (["create", "db", "--limit", "1"], "there is a limit named 'db' already"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_daemon_refuses(
    atmost: Atmost, client: Client, arguments: list[str], words: str
) -> None:
    client.create_limit("db", 3)
    before = client.list_limits()
    code, out, err = atmost(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("atmost: ")
    assert words in err
    assert client.list_limits() == before


def test_there_is_no_such_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list"], [""], ["--socket", "/x", "list"], ["help", "list"]):
        code, out, err = here(capsys, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("usage: atmost ")
        assert "there is no command " in err
    code, out, err = here(capsys, "--sockt", "/x", "ls")
    assert (code, out) == (2, "")
    assert "--sockt" in err


def test_names_that_look_like_options(atmost: Atmost, client: Client) -> None:
    names = ["-x", "--", "--json", "-1", "-", "a=b", "a:b=2", " ", "größe", "$(x)"]
    for name in names:
        assert atmost("create", "--limit=1", "--", name).code == 0
    assert {limit.name for limit in client.list_limits()} == set(names)
    assert atmost("disable", "--", *names).code == 0
    assert not any(limit.active for limit in client.list_limits())
    assert atmost("inspect", "--", "--json").out.startswith("name\t--json\n")
    assert atmost("delete", "--yes", "-", "--", *names).code == 0
    assert client.list_limits() == []


# ---- No daemon


def test_no_daemon(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "nobody here")
    commands = [
        ["create", "db", "--limit=1"],
        ["ls"],
        ["inspect", "db"],
        ["update", "db", "--limit=1"],
        ["delete", "db", "--yes"],
        ["ps"],
        ["run", "db", "--", "true"],
    ]
    for command in commands:
        code, out, err = here(capsys, "--socket", path, *command)
        assert (code, out) == (125 if command[0] == "run" else 1, "")
        assert err == (
            f"atmost: no atmost daemon at {path} (given): there is no such socket; "
            f"start one with: atmostd --socket '{path}'\n"
        )
    monkeypatch.setenv("ATMOST_SOCKET", path)
    assert f"{path} (from ATMOST_SOCKET)" in here(capsys, "ls").err


def test_sockets_that_are_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path, tmp_path / "file" / "s"):
        code, out, err = here(capsys, "--socket", str(path), "ls")
        assert (code, out) == (1, "")
        assert err.startswith(f"atmost: no atmost daemon at {path} ")
    for wrong, words in (("", "expected the path"), ("/" + "x" * 107, "has at most 107")):
        code, out, err = here(capsys, "ls", f"--socket={wrong}")
        assert (code, out) == (2, "")
        assert words in err
    monkeypatch.setenv("ATMOST_SOCKET", "/" + "x" * 107)
    for command in (["ls"], ["status"], ["run", "db", *RUN]):
        code, out, err = here(capsys, *command)
        assert (code, out) == ({"ls": 1, "status": 3, "run": 125}[command[0]], "")
        assert "path too long" in err
    assert here(capsys, "sockname").out == "/" + "x" * 107 + "\n"
