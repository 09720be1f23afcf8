"""The units as far as no systemd has to run: they are well-formed, and let little through."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from atmost.cli import unit_files
from atmostd.bounds import Bounds
from atmostd.settings import Settings, arguments_parser
from tests.support_tools import needs

ROOT = Path(__file__).parent.parent.parent
UNITS = ROOT / "systemd"
EXPOSURE_MAX = 4  # tenths: 0.4, of 10


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    needs("systemd-analyze")
    command = ["systemd-analyze", *arguments]
    environment = {**os.environ, "XDG_RUNTIME_DIR": "/run"}  # or no unit of a user is looked at
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_units_are_well_formed(tmp_path: Path, user: bool) -> None:
    """As installed: with the path of a command that is there."""
    units = [file for file in unit_files.files(user, [sys.executable]) if file.kind == "unit"]
    for file in units:
        # man pages come with another part of the project
        text = re.sub(r"^Documentation=.*\n", "", file.text, flags=re.MULTILINE)
        (tmp_path / file.path.name).write_text(text)
    paths = [str(tmp_path / file.path.name) for file in units]
    ended = analyzed("verify", *(["--user"] if user else []), *paths)
    ours = [line for line in ended.stderr.splitlines() if "atmost" in line]
    assert (ended.returncode, ours) == (0, [])


def test_little_is_exposed() -> None:
    unit = str(UNITS / "atmostd.service")
    ended = analyzed("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", unit)
    assert ended.returncode == 0, ended.stdout[-200:]


def test_what_must_not_be_in_them() -> None:
    """Each of these was tried, and broke something that a test with root does not see."""
    banned = (
        "PrivateUsers",
        "PrivatePIDs",
        "DynamicUser",
        "RemoveIPC",
        "notify-reload",
        "/bin/kill",
    )
    for path in UNITS.rglob("atmostd.*"):
        settings = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        for word in (*banned, "FileDescriptorStore"):
            assert not any(word in line for line in settings), f"{path}: {word}"
        assert not any(line.startswith("ListenStream=@") for line in settings)


def test_the_example_has_every_bound_with_its_default() -> None:
    text = (UNITS / "atmostd.toml").read_text()
    for bound in fields(Bounds):
        assert f"#{bound.name} = {bound.default}\n" in text


def test_the_example_is_taken_as_it_is_and_with_all_in_use(tmp_path: Path) -> None:
    text = (UNITS / "atmostd.toml").read_text()
    assert 'group = "atmost-admin"' in text
    # Groups that are there before a service is installed.
    text = re.sub(r'^(#?group) = ".*"$', r'\1 = "0"', text, flags=re.MULTILINE)
    in_use = re.sub(r"^#(?=\[\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    for each in (text, in_use):
        (tmp_path / "atmostd.toml").write_text(each)
        settings = Settings.of(
            arguments_parser().parse_args(["--config", str(tmp_path / "atmostd.toml")])
        )
        assert settings.bounds == Bounds()
        assert settings.admin_gid == 0
    assert [limit.name for limit in settings.limits] == ["database"]
    assert [template.match for template in settings.templates] == ["user-*"]
    assert settings.socket_gid == 0
