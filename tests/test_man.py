"""The man pages say what --help says, and are such."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from atmost.cli import parser
from man.make import FOLDER, pages
from tests.support_tools import needs

ROOT = Path(__file__).parent.parent
PAGES = ("atmost.1", "atmostd.8")


@pytest.mark.parametrize("name", PAGES)
def test_is_fresh(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name], "make it: .venv/bin/python man/make.py"


def test_names_every_command_and_option() -> None:
    text = pages()["atmost.1"].replace("\\-", "-")
    for name in parser.every_command():
        assert f".SS atmost {name}\n" in text
        for action in parser.parser_of(name, parser.command_named(name))._actions:
            for option in action.option_strings:
                assert option in text


@pytest.mark.parametrize("name", PAGES)
def test_has_the_parts_of_a_page(name: str) -> None:
    text = pages()[name]
    found = re.findall(r"^\.SH (.+)$", text, re.MULTILINE)
    assert found[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert found[-1] == "SEE ALSO"
    assert text.isascii()
    for line in text.splitlines():
        assert line, "an empty line is a break that was not meant"
        if line.startswith((".", "'")):
            assert re.match(r"\.(TH|SH|SS|PP|TP|B|BR|nf|fi|\\\")( |$)", line), line
    assert text.count("\n.nf\n") == text.count("\n.fi\n")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    "command",
    [["man", "--warnings", "--local-file"], ["groff", "-man", "-ww", "-Tutf8", "-z"]],
    ids=lambda command: command[0],
)
def test_is_shown_without_a_warning(name: str, command: list[str]) -> None:
    needs(command[0])
    shown = subprocess.run([*command, FOLDER / name], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    if command[0] == "man":
        assert "SYNOPSIS" in shown.stdout


def test_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    for name in PAGES:
        assert data[f"man/{name}"] == f"share/man/man{name[-1]}/{name}"
