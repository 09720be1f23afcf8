"""Fetch what the page takes from others again, exactly as npm packages have it.

    .venv/bin/python tools/vendor.py                   # the versions of VENDOR.toml; checksums must hold
    .venv/bin/python tools/vendor.py preact@11.2.1     # another version; writes its checksums down

Rule: files are copied, never changed. It takes npm, for nothing but `npm pack`.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "client" / "atmost" / "web" / "static" / "vendor"
MANIFEST = FOLDER / "VENDOR.toml"

Package = dict[str, Any]


def packages() -> list[Package]:
    """The packages as VENDOR.toml has them."""
    found: list[Package] = tomllib.loads(MANIFEST.read_text())["package"]
    return found


def place(package: Package, file: str) -> Path:
    """Where a file of a package lies here."""
    folder = ROOT / str(package["folder"]) if "folder" in package else FOLDER / package["name"]
    return folder / Path(file).name


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(name: str, version: str) -> dict[str, bytes]:
    """All files of a package, by their paths in it."""
    with tempfile.TemporaryDirectory() as folder:
        told = subprocess.run(
            ["npm", "pack", "--json", "--silent", f"{name}@{version}"],
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        packed = (Path(folder) / json.loads(told)[0]["filename"]).read_bytes()
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive.getmembers():
            if (part := archive.extractfile(member)) is not None:
                found[member.name.removeprefix("package/")] = part.read()
    return found


def refresh(package: Package, version: str | None) -> None:
    """Put the package's files in place. Raises SystemExit if they are not those of the manifest."""
    content = fetch(package["name"], version or package["version"])
    for file, known in package["files"].items():
        found = checksum(content[file])
        if known and known != found and version is None:
            sys.exit(f"{package['name']} {file}: its checksum is {found}, not {known}")
        package["files"][file] = found
        target = place(package, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[file])
    about = json.loads(content["package.json"])
    package["version"], package["licence"] = about["version"], about["license"]


def manifest(found: list[Package]) -> str:
    """VENDOR.toml."""
    text = [line for line in MANIFEST.read_text().splitlines() if line.startswith("#")]
    for package in found:
        text += ["", "[[package]]"]
        text += [f"{key} = {json.dumps(package[key])}" for key in package if key != "files"]
        text += ["[package.files]"]
        text += [f'"{file}" = "{known}"' for file, known in package["files"].items()]
    return "\n".join(text) + "\n"


def main(wanted: list[str]) -> None:
    found = packages()
    # A name may begin with @.
    versions = dict(word.rsplit("@", 1) for word in wanted)
    if unknown := versions.keys() - {package["name"] for package in found}:
        sys.exit(f"not in {MANIFEST}: {', '.join(sorted(unknown))}")
    for package in found:
        if not wanted or package["name"] in versions:
            refresh(package, versions.get(package["name"]))
    MANIFEST.write_text(manifest(found))


if __name__ == "__main__":
    main(sys.argv[1:])
