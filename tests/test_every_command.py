"""What holds for every command: nonsense is told with its own usage, and who is not there is named.

The commands come from the parser's tables, so a new one is tested without anybody's doing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from atmost.cli import parser
from tests.support import RunningDaemon
from tests.support_cli import client_of, here

COMMANDS = parser.every_command()
# What comes to the daemon, of each command that asks it something.
WORDS = {
    "create": ["db", "--limit", "1"],
    "ls": [],
    "inspect": ["db"],
    "update": ["db", "--limit", "1"],
    "enable": ["db"],
    "disable": ["db"],
    "delete": ["db", "--yes"],
    "ps": ["db"],
    "explain": ["db"],
    "watch": ["db"],
    "release": ["1", "--yes"],
    "reset": ["db"],
    "run": ["db", "--", "true"],
    "status": [],
    "metrics": [],
    "recover": [],
    "apply": ["-f", "/dev/null"],
    "export": [],
    "templates": [],
    "daemon reload": [],
    "daemon status": [],
    "doctor": [],
}
ASKS_NOBODY = {
    *("sockname", "completion", "top"),  # `top` looks first whether there is a terminal: test_top
    *("daemon start", "daemon stop", "daemon restart", "daemon run"),
    *("daemon install", "daemon uninstall"),
}
EXIT_CODES = {"run": 125, "status": 3, "daemon status": 3}  # of those that are not 1
NAMES_A_LIMIT = ("inspect", "update", "enable", "disable", "delete", "ps", "explain", "reset")


def nonsense(name: str) -> list[list[str]]:
    """Words that cannot be right."""
    needed = WORDS.get(name, [])
    wrong = [["--no-such-option"], ["--json=3"]]
    if name != "completion":
        wrong.append([*needed, "a/b", "%"] if name != "run" else ["a/b", "--", "true"])
    if name not in ("daemon start", "daemon restart", "daemon run", "run", "completion"):
        wrong.append([*needed, "--", "a/b", "%"])
    return wrong


def test_all_are_here() -> None:
    assert {*WORDS, *ASKS_NOBODY} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_nonsense_is_told_with_the_usage(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nobody is asked: there is no daemon, which would be another error."""
    for words in nonsense(name):
        code, out, err = here(capsys, *name.split(), "--socket", str(tmp_path / "s"), *words)
        assert (code, out) == (2, ""), words
        assert err.startswith(f"usage: atmost {name}"), words
        assert f"\natmost {name}: error: " in err, words


@pytest.mark.parametrize("name", WORDS)
def test_no_daemon_is_told_with_what_to_do(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    code, out, err = here(capsys, *name.split(), "--socket", str(path), *WORDS[name])
    assert code == EXIT_CODES.get(name, 1)
    assert str(path) in out + err
    assert f"atmostd --socket {path}" in err or f"atmost daemon start --socket {path}" in out


@pytest.mark.parametrize("name", NAMES_A_LIMIT)
def test_an_unknown_limit_is_named(
    name: str, daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word if word != "db" else "no limit" for word in WORDS[name]]
    code, out, err = client_of(daemon, capsys)(name, *words)
    assert (code, out) == (1, "")
    assert "no limit named 'no limit'" in err
