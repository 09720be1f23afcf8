"""What the page is made of: small, readable, nothing from elsewhere, others' files as they came."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from tools import vendor

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "client" / "atmost" / "web" / "static"
OURS = sorted([*STATIC.glob("js/*.js"), *STATIC.glob("css/*.css"), STATIC / "index.html"])
SERVED = [
    path for path in STATIC.rglob("*") if path.suffix in (".js", ".mjs", ".css", ".html", ".svg")
]
ALL_BYTES_MAX = 150 * 1024  # compressed
LINES_MAX = 300
PACKAGES = vendor.packages()
VENDORED = [(package, file) for package in PACKAGES for file in package["files"]]


@pytest.mark.parametrize(
    ("package", "file"), VENDORED, ids=[f"{package['name']}/{file}" for package, file in VENDORED]
)
def test_vendored_files_are_as_they_came(package: vendor.Package, file: str) -> None:
    content = vendor.place(package, file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == package["files"][file]


def test_every_vendored_file_is_in_the_list() -> None:
    listed = {vendor.place(package, file) for package, file in VENDORED}
    there = {path for path in vendor.FOLDER.rglob("*") if path.is_file()}
    assert there - listed == {vendor.MANIFEST}


def test_each_has_a_version_and_a_licence() -> None:
    for package in PACKAGES:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert package["licence"]
        assert "LICENSE" in package["files"]


def test_the_manifest_is_what_the_script_writes() -> None:
    assert vendor.manifest(PACKAGES) == vendor.MANIFEST.read_text()


def test_all_of_it_is_small() -> None:
    """Everything that a browser ever fetches, though no view needs all."""
    compressed = sum(len(gzip.compress(path.read_bytes())) for path in SERVED)
    assert compressed < ALL_BYTES_MAX, f"{compressed} bytes"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_ours_is_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < LINES_MAX
    assert not re.search(r"https?://(?!www\.w3\.org/)", text), "it fetches nothing from elsewhere"


@pytest.mark.parametrize(
    "path", [path for path in OURS if path.suffix == ".js"], ids=lambda p: p.name
)
def test_text_stays_text(path: Path) -> None:
    """There is no way from a name to markup or to code."""
    text = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in text, way
    assert "dangerouslySetInnerHTML" not in text
    assert "style=$" not in text.replace("style=${{", "")


def test_nothing_is_inline() -> None:
    """So that the policy of the page can forbid it."""
    text = (STATIC / "index.html").read_text()
    assert "style=" not in text
    assert "<style" not in text
    for script in re.findall(r"<script\b[^>]*>(.*?)</script>", text, re.DOTALL):
        assert script == ""
