"""What a shell offers: in a real bash, on a real terminal, from a real daemon."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmost.cli import parser
from atmost.cli.completing import NAMES_SECONDS, next_words, quoted, split
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_cli import here
from tests.support_tools import needs

NAMES = ["db", "my limit", "it's", 'a"b', "x:y=z", "$HOME`id`", "ünï", "-dash", "back\\slash", "*"]
BREAKS = " \t\n\"'><=;|&(:"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    daemon = RunningDaemon(tmp_path_factory.mktemp("daemon")).start()
    with daemon.client() as client:
        for name in NAMES:
            client.create_limit(name, 1)
    yield daemon
    daemon.stop(signal.SIGKILL)


def words(running: RunningDaemon, line: str) -> list[str]:
    return next_words(split(line, BREAKS)[0], str(running.socket))


# ---- Which words


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("atmost l", ["ls"]),
        ("atmost --socket /x l", ["ls"]),
        ("atmost --v", ["--version"]),
        ("atmost help di", ["disable"]),
        ("atmost help daemon sto", ["stop"]),
        ("atmost daemon res", ["restart"]),
        ("atmost daemon dance ", []),
        ("atmost dance ", []),
        ("atmost ls --j", ["--json"]),
        ("atmost ls --json --j", []),
        ("atmost completion ", ["bash", "zsh", "fish"]),
        ("atmost completion bash ", ["zsh", "fish"]),
        ("atmost create --limit ", []),
        ("atmost ls --socket ", ["/"]),
        ("atmost run db -- ", ["/"]),
        ("atmost run db -- ls -", ["/"]),
        ("atmost inspect d", ["db"]),
        ("atmost enable db d", []),
        ("atmost run --rate d", ["db"]),
        ("atmost run -n d", ["db="]),
        ("atmost run db -w ", []),
        ("atmost inspect ünï", ["ünï"]),
        ("atmost ls d", []),
    ],
)
def test_words(running: RunningDaemon, line: str, offered: list[str]) -> None:
    assert words(running, line) == offered


def test_every_command_and_option_is_offered(running: RunningDaemon) -> None:
    """They come from the tables of the parser: a new one is there without anybody's doing."""
    assert words(running, "atmost ") == [*parser.COMMANDS, "help"]
    for name in parser.every_command():
        offered = words(running, f"atmost {name} --")
        of = parser.parser_of(name, parser.command_named(name))
        assert set(offered) == {
            option
            for action in of._actions
            for option in action.option_strings
            if option.startswith("--")
        }


def test_without_a_daemon_it_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    socket = str(tmp_path / "nobody")
    assert here(capsys, "completion", "--socket", socket, "--", "atmost", "inspect", "") == (
        0,
        "",
        "",
    )


def test_with_a_daemon_that_hangs_it_is_silent_soon(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    os.kill(daemon.pid, signal.SIGSTOP)
    began = time.monotonic()
    arguments = ["completion", "--socket", str(daemon.socket), "--", "atmost", "inspect", ""]
    assert here(capsys, *arguments) == (0, "", "")
    assert time.monotonic() - began < NAMES_SECONDS + PATIENCE_SECONDS / 2


def test_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([], ["tcsh"], ["bash", "zsh"], ["--nonsense"]):
        code, out, err = here(capsys, "completion", *given)
        assert (code, out) == (2, "")
        assert err.startswith("usage: atmost completion bash|zsh|fish\n")


# ---- How bash reads and writes them


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("atmost ls", (["atmost", "ls"], "", "")),
        ("atmost ls ", (["atmost", "ls", ""], "", "")),
        ("atmost inspect my\\ l", (["atmost", "inspect", "my l"], "", "")),
        ("atmost inspect 'my l", (["atmost", "inspect", "my l"], "", "'")),
        ('atmost inspect "my l', (["atmost", "inspect", "my l"], "", '"')),
        ('atmost inspect my" l', (["atmost", "inspect", "my l"], "my", '"')),
        ("atmost run -n x:y=", (["atmost", "run", "-n", "x:y="], "x:y=", "")),
        ("atmost run x\\:y", (["atmost", "run", "x:y"], "", "")),
        ('atmost "a\\"b\\c', (["atmost", 'a"b\\c'], "", '"')),
        ("atmost '' ", (["atmost", "", ""], "", "")),
    ],
)
def test_a_line_is_read_as_bash_does(line: str, expected: tuple[list[str], str, str]) -> None:
    assert split(line, BREAKS) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_what_is_written_means_the_name(name: str, quote: str) -> None:
    """To a real bash."""
    said = subprocess.run(
        ["bash", "-c", f"printf %s {quote}{quoted(name, quote)}{quote}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == name


@pytest.fixture
def bash(running: RunningDaemon, tmp_path: Path) -> dict[str, str]:
    """The environment of a bash that has the command."""
    script = tmp_path / "bin" / "atmost"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m atmost "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}:{os.environ['PATH']}"
    locale = {"LC_ALL": "C.UTF-8", "HISTFILE": "", "HOME": str(tmp_path), "PS1": "> "}
    return running.environment() | locale | {"PATH": path, "TERM": "dumb"}


def test_bash_knows_it(bash: dict[str, str]) -> None:
    script = "source <(atmost completion bash); complete -p atmost"
    said = subprocess.run(
        ["bash", "--norc", "-c", script], env=bash, capture_output=True, text=True, check=True
    )
    assert (said.stdout, said.stderr) == ("complete -F _atmost atmost\n", "")


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("atmost inspect m", ["my\\ limit"]),
        ("atmost inspect 'm", ["my limit"]),
        ("atmost run -n x:y=z=", []),
        ("atmost run -n x:y=", ["z="]),
        ("atmost daemon st", ["start", "stop", "status"]),
        ("atmost run db -- print", ["printf"]),
    ],
)
def test_bash_gets_its_words(bash: dict[str, str], line: str, replies: list[str]) -> None:
    script = """
source <(atmost completion bash)
COMP_LINE=$1 COMP_POINT=${#1}
read -ra COMP_WORDS <<< "$1"
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_atmost atmost "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
    said = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", line],
        env=bash,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [word for word in said.stdout.splitlines() if word]
    assert found == replies or (replies == ["printf"] and "printf" in found)


class Prompt:
    """Somebody at a terminal with bash."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\0\xc8\0\0\0\0\0")
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.text = ""

    def type(self, keys: str, until: str) -> str:
        self.text = ""
        os.write(self._ours, keys.encode())
        wait_until(
            lambda: until in self._read(), f"{until!r} after {keys!r}; there is {self.text!r}"
        )
        return self.text

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)
        os.close(self._ours)

    def _read(self) -> str:
        with contextlib.suppress(OSError):
            self.text += os.read(self._ours, 65536).decode()
        return self.text


def test_at_a_prompt_of_bash(bash: dict[str, str]) -> None:
    """Tab, then Enter: the command gets the very name."""
    prompt = Prompt(bash)
    prompt.type("source <(atmost completion bash); echo rea''dy\n", "ready\r\n")
    for typed, name in [
        ("my", "my limit"),
        ("'my", "my limit"),
        ('"my', "my limit"),
        ("it", "it's"),
        ('"it', "it's"),
        ("a", 'a"b'),
        ("x:", "x:y=z"),
        ("\\$", "$HOME`id`"),
        ("ü", "ünï"),
        ("ba", "back\\slash"),
    ]:
        said = prompt.type(f"atmost inspect {typed}\t --json; echo don''e\n", "done\r\n")
        assert f'"name": {json.dumps(name, ensure_ascii=False)}' in said
    prompt.close()


# ---- The other shells


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_are_whole(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = here(capsys, "completion", shell)
    assert (code, err) == (0, "")
    assert "atmost completion --" in out
    for opening, closing in ("()", "{}", "[]"):
        assert out.count(opening) == out.count(closing)
    needs(shell)
    (tmp_path / "script").write_text(out)
    subprocess.run([shell, "-n", tmp_path / "script"], check=True)


@pytest.mark.parametrize(
    ("line", "added"),
    [
        ("atmost daemon sto", ["stop"]),
        ("atmost inspect my\\ l", ["my limit"]),
        ("atmost inspect 'my l", ["my limit"]),
        ("atmost run -n d", ["-S", "", "db="]),
        ("atmost inspect nobody", []),
        ("atmost run db -- ", ["_command_names"]),
        ("atmost ls --socket ", ["_files"]),
    ],
)
def test_zsh_gets_its_words(bash: dict[str, str], line: str, added: list[str]) -> None:
    """With what its completion system would be given, and gives."""
    needs("zsh")
    script = """
compdef() { : }
compadd() { (( ${@[(i)--]} < $# )) && print -rl -- "${(@)@:#--}" }
_files() { print _files }
_command_names() { print _command_names }
eval "$(atmost completion zsh)"
words=("${(@z)1}") CURRENT=${#words}
[[ $1 == *' ' ]] && { words+=(''); CURRENT=${#words} }
_atmost
"""
    said = subprocess.run(
        ["zsh", "-f", "-c", script, "zsh", line],
        env=bash,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.stdout.splitlines(), said.stderr) == (added, "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("atmost daemon sto", ["stop"]),
        ("atmost inspect my", ["my limit"]),
        ("atmost inspect my\\ l", ["my limit"]),
        ("atmost inspect 'my l", ["my limit"]),
        ("atmost run -n d", ["db="]),
        ("atmost inspect nobody", []),
    ],
)
def test_fish_offers_them(bash: dict[str, str], line: str, offered: list[str]) -> None:
    needs("fish")
    script = "atmost completion fish | source; complete -C $argv[1]"
    said = subprocess.run(
        ["fish", "-c", script, line], env=bash, capture_output=True, text=True, check=False
    )
    assert said.stdout.splitlines() == offered
