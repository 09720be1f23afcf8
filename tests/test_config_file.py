"""The configuration file: what it says, and every mistake that it can have, all at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atmost import declarations
from atmost.declarations import FILE_BYTES_MAX, MISTAKES_MAX, TEMPLATES_MAX
from atmost.errors import ConfigInvalid
from atmost.wire import Declaration, TemplateDeclaration
from atmostd.bounds import Bounds
from atmostd.config_file import FileSettings, parse
from atmostd.settings import EXIT_CONFIG, Settings, arguments_parser, default_path

WHOLE = b"""
[socket]
path = "/run/atmost/atmost.sock"
mode = "0660"
group = "7"
[admin]
group = 8
[state]
dir = "/var/lib/atmost"
runtime_dir = "/run/atmost"
[bounds]
connections = 500
hello_seconds = 2
[log]
level = "debug"
format = "json"
[daemon]
idle_seconds = 60
[[limit]]
name = "database"
limit = 5
[[limit]]
name = "api"
limit = 10
rate = "100/min"
active = false
[[limit]]
name = "slow"
limit = 1
slot_decay_per_second = 0.25
[[template]]
match = "user-*"
limit = 3
rate = "2/s"
"""


def mistakes(text: str | bytes) -> list[str]:
    """What is wrong with this file."""
    with pytest.raises(ConfigInvalid) as caught:
        parse("f.toml", text if isinstance(text, bytes) else text.encode())
    assert caught.value.path == "f.toml"
    return caught.value.mistakes


def test_a_whole_file() -> None:
    assert parse("f", WHOLE) == FileSettings(
        socket=Path("/run/atmost/atmost.sock"),
        socket_mode=0o660,
        socket_gid=7,
        admin_gid=8,
        state_dir=Path("/var/lib/atmost"),
        runtime_dir=Path("/run/atmost"),
        bounds={"connections": 500, "hello_seconds": 2.0},
        log_level="debug",
        log_format="json",
        idle_seconds=60.0,
        limits=[
            Declaration("database", 5, 0.0, True),
            Declaration("api", 10, 100 / 60, False),
            Declaration("slow", 1, 0.25, True),
        ],
        templates=[TemplateDeclaration("user-*", 3, 2.0)],
    )


def test_an_empty_file_says_nothing() -> None:
    assert parse("f", b"") == FileSettings()
    assert parse("f", b"# a word\n[socket]\n[bounds]\n") == FileSettings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[socket]\npath = 7", "line 2: [socket]: path = 7: expected an absolute path"),
        ("[socket]\npath = 'a/b'", "path = 'a/b': expected an absolute path"),
        ("[socket]\nmode = 0o660", "mode = 432: expected a mode as chmod has it, in quotes"),
        ("[socket]\nmode = '0999'", "expected a mode as chmod has it"),
        ("[socket]\nmod = '0666'", "line 2: [socket]: there is no key 'mod': did you mean mode?"),
        ("[socket]\ngroup = 'no such'", "group = 'no such': expected a group of this host"),
        ("[admin]\ngroup = true", "group = true: expected a group of this host"),
        ("[admin]\nzzz = 1", "there is no key 'zzz': expected one of group"),
        ("[state]\ndir = ''", "dir = '': expected an absolute path"),
        ("[stat]\n", "line 1: there is no section 'stat': did you mean state?"),
        ("wxyz = 1\n", "line 1: there is no section 'wxyz': expected one of socket, admin"),
        ("socket = 1", "[socket] is no section"),
        ("[bounds]\nconnections = 0", "connections = 0: expected a whole number from 1 to"),
        ("[bounds]\nconnections = 1.5", "connections = 1.5: expected a whole number"),
        ("[bounds]\nconnections = true", "connections = true: expected a whole number"),
        ("[bounds]\nhello_seconds = nan", "hello_seconds = nan: expected a number from 0.001"),
        ("[bounds]\nconection = 1", "there is no key 'conection': did you mean connections?"),
        ("[log]\nlevel = 'loud'", "level = 'loud': expected one of debug, info, warning, error"),
        ("[log]\nformat = 1", "format = 1: expected one of text, json"),
        ("[daemon]\nidle_seconds = -1", "idle_seconds = -1: expected a number of seconds"),
        ("[daemon]\nidle_seconds = inf", "idle_seconds = inf: expected a number of seconds"),
        ("[limit]\nname = 'a'", "line 1: [limit]: expected [[limit]], with two brackets"),
        ("limit = [1]", "limit: 1 is no [[limit]]"),
        ("[[limit]]\nlimit = 1", "line 1: [[limit]] number 1: name is missing: expected a name"),
        ("[[limit]]\nname = 'a'", "line 1: [[limit]] 'a': limit is missing: expected a whole"),
        ("[[limit]]\nname = 'a/b'\nlimit = 1", "line 2: [[limit]] 'a/b': name = 'a/b': expected a"),
        ("[[limit]]\nname = 7\nlimit = 1", "name = 7: expected a name of 1 to 200"),
        (
            "[[limit]]\nname = 'a'\nlimit = -1",
            "line 3: [[limit]] 'a': limit = -1: expected a whole",
        ),
        ("[[limit]]\nname = 'a'\nlimit = '5'", "limit = '5': expected a whole number from 0"),
        ("[[limit]]\nname = 'a'\nlimit = 1\nrate = '5'", "line 4: [[limit]] 'a': rate = '5': exp"),
        ("[[limit]]\nname = 'a'\nlimit = 1\nrate = 5", "rate = 5: expected a rate such as 100/min"),
        (
            "[[limit]]\nname = 'a'\nlimit = 1\nrate = '1/s'\nslot_decay_per_second = 1",
            "line 4: [[limit]] 'a': rate and slot_decay_per_second say the same",
        ),
        (
            "[[limit]]\nname = 'a'\nlimit = 1\nslot_decay_per_second = inf",
            "slot_decay_per_second = inf: expected a finite number >= 0",
        ),
        (
            "[[limit]]\nname = 'a'\nlimit = 1\nactive = 'yes'",
            "active = 'yes': expected true or fal",
        ),
        ("[[limit]]\nname = 'a'\nlimit = 1\nactiv = true", "no key 'activ': did you mean active?"),
        (
            "[[limit]]\nname = 'a'\nlimit = 1\n\n[[limit]]\nlimit = 2\nname = 'a'",
            "line 7: [[limit]] 'a': this name was declared already in line 1",
        ),
        ("[[template]]\nlimit = 1", "[[template]] number 1: match is missing: expected a pattern"),
        ("[[template]]\nmatch = 'a/*'\nlimit = 1", "match = 'a/*': expected a pattern of names"),
        ("[[template]]\nmatch = 'a[b'\nlimit = 1", "match = 'a[b': expected a ] behind [; a ["),
        ("[[template]]\nmatch = ''\nlimit = 1", "match = '': expected a pattern of names"),
        ("[[template]]\nmatch = 'a*'\nlimit = 1\nactive = true", "there is no key 'active'"),
        (
            "[[template]]\nmatch = 'a*'\nlimit = 1\n[[template]]\nmatch = 'a*'\nlimit = 1",
            "line 5: [[template]] 'a*': this pattern was declared already in line 1",
        ),
        ("a = ", "it is no TOML: "),
        ("a = 1\na = 2", "it is no TOML: "),
        (b"a = 1\n# \xff", "line 2: byte 8 is no UTF-8"),
        (b"#" * (FILE_BYTES_MAX + 1), "it has more than 8 MiB, which is no configuration"),
        ("a = " + "[" * 100_000, "it is no TOML"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_each_mistake_says_where_and_what_was_expected(text: str | bytes, said: str) -> None:
    found = mistakes(text)
    assert said in found[0]
    assert len(found) == 1


def test_all_mistakes_at_once_in_order() -> None:
    found = mistakes(
        "[sokcet]\n[log]\nlevel = 1\n[[limit]]\nname = 'a'\nlimit = -1\nrate = 'x'\n"
        "[[limit]]\n[[template]]\nmatch = ''\n"
    )
    assert [text.partition(":")[0] for text in found] == [
        *("line 1", "line 3", "line 6", "line 7", "line 8", "line 8", "line 10", "line 9")
    ]


def test_too_many_mistakes_are_counted() -> None:
    found = mistakes("[[limit]]\n" * 1000)
    assert len(found) == MISTAKES_MAX + 1
    assert found[-1] == f"and {2000 - MISTAKES_MAX} more mistakes"


def test_a_long_value_is_cut() -> None:
    (found,) = mistakes(f"[[limit]]\nname = '{'x' * 5000}'\nlimit = 1")
    assert len(found) < 400


def test_too_many_templates() -> None:
    count = TEMPLATES_MAX + 1
    text = "".join(f"[[template]]\nmatch = 'a{n}*'\nlimit = 1\n" for n in range(count))
    assert f"{count} templates: expected at most {TEMPLATES_MAX}" in mistakes(text)[0]


@pytest.mark.parametrize("match", ["a[[]b", "user-?", "[a-z]*", "**", "a]", "x[!a]"])
def test_patterns(match: str) -> None:
    assert declarations.check_match(match) == match


# The daemon that is told to read one


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "atmostd", *words], capture_output=True, text=True, timeout=60
    )


def test_a_wrong_file_ends_the_start_with_78_and_all_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[log]\nlevel = 1\n[[limit]]\nlimit = 2\n")
    done = run("--config", str(path))
    assert done.returncode == EXIT_CONFIG == 78
    first, second = done.stderr.splitlines()
    assert first.startswith(f"atmostd: {path}: line 2: [log]: level = 1: expected one of")
    assert second.startswith(f"atmostd: {path}: line 3: [[limit]] number 1: name is missing")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        done = run("--config", str(path))
        assert done.returncode == EXIT_CONFIG
        assert done.stderr == f"atmostd: {path}: cannot read it: {why}\n"


def test_a_pipe_that_nobody_writes_to_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigInvalid, match="it is a pipe: expected a file"):
        declarations.read_file(str(tmp_path / "pipe"))


def settings_of(arguments: list[str]) -> Settings:
    return Settings.of(arguments_parser().parse_args(arguments))


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "atmostd.toml"
    path.write_bytes(WHOLE)
    settings = settings_of(["--config", str(path)])
    assert settings.config_path == path
    assert (settings.socket, settings.socket_mode) == (Path("/run/atmost/atmost.sock"), 0o660)
    assert (settings.admin_gid, settings.socket_gid, settings.idle_seconds) == (8, 7, 60)
    assert settings.bounds == Bounds(connections=500, hello_seconds=2.0)
    assert (settings.log_level, settings.log_format) == ("debug", "json")
    words = [
        "--socket",
        "/a/s",
        "--state-dir",
        "/b",
        "--admin-group",
        "0",
        "--bound",
        "connections=99",
    ]
    settings = settings_of(["--config", str(path), *words])
    assert (settings.socket, settings.state_dir) == (Path("/a/s"), Path("/b"))
    assert settings.runtime_dir == Path("/run/atmost")
    assert settings.admin_gid == 0
    assert settings.bounds == Bounds(connections=99, hello_seconds=2.0)
    assert settings_of(["--config", os.devnull]).log_level == "info"


def test_bounds_that_cannot_be_together(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("[bounds]\nconnections = 3\n")
    with pytest.raises(ConfigInvalid, match="connections_kept=16 leaves nobody else any of"):
        settings_of(["--config", str(path)])
    settings = settings_of(["--config", str(path), "--bound", "connections_kept=1"])
    assert settings.bounds.connections == 3


def test_default_places() -> None:
    assert default_path(True, {"CONFIGURATION_DIRECTORY": "/a:/b"}) == Path("/a/atmostd.toml")
    assert default_path(True, {}) == Path("/etc/atmost/atmostd.toml")
    assert default_path(False, {"XDG_CONFIG_HOME": "/x"}) == Path("/x/atmost/atmostd.toml")
