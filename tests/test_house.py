"""The house rules that a machine can check: who imports whom, and what is called where."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "client" / "atmost"
DAEMON = ROOT / "daemon" / "atmostd"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# From the top of each house down: a module imports only what stands behind it in its list.
DAEMON_ORDER = [
    "__main__",
    "closed",
    "watch",
    "systemd",
    "server",
    "connection",
    "reloading",
    "recovery",
    "session",
    "slates",
    "door",
    "idle",
    "peer",
    "decoding",
    "configuration",
    "keeping",
    "in_force",
    "drafts",
    "explaining",
    "reporting",
    "tokens",
    "listing",
    "registry",
    "implicit",
    "templated",
    "events",
    "actor",
    "refusals",
    "turn",
    "garbage",
    "store",
    "journal",
    "place",
    "damage",
    "declared",
    "records",
    "snapshot",
    "clock",
    "limit",
    "grants",
    "ticket",
    "line",
    "level",
    "statistics",
    "settings",
    "config_file",
    "bounds",
    "files",
    "log",
    "config",
    "background",
]
CLIENT_ORDER = [
    "__main__",
    "cli",
    "web",
    "asyncio",
    "sync",
    "sync_blocks",
    "asyncio_blocks",
    "asyncio_connection",
    "sync_connection",
    "sync_streams",
    "sync_reconnecting",
    "sync_caller",
    "sync_socket",
    "restarting",
    "starting",
    "connecting",
    "exchange",
    "slate",
    "reconnecting",
    "watching",
    "asked",
    "declarations",
    "prometheus",
    "wire",
    "paths",
    "rates",
    "values",
    "errors",
    "__init__",
]
SHARED = {
    "wire",
    "errors",
    "values",
    "paths",
    "rates",
    "declarations",
}  # what the daemon may use of the client
PURE = {"limit", "grants", "line", "level", "ticket", "statistics"}
PURE_MAY_IMPORT = {
    *(
        "__future__",
        "bisect",
        "collections",
        "collections.abc",
        "enum",
        "fractions",
        "heapq",
        "msgspec",
    ),
    *(
        "operator",
        "typing",
        "atmostd",
        "atmostd.grants",
        "atmostd.level",
        "atmostd.line",
        "atmostd.statistics",
        "atmostd.ticket",
    ),
}


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that this file imports when it runs, by its full name."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            assert node.module is not None
            if node.module in ("atmost", "atmostd"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def room(path: Path, house: Path) -> str:
    """The module's place in its house: for a package, that of the package."""
    return path.relative_to(house).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(DAEMON), ids=lambda path: path.name)
def test_daemon_imports_downwards(path: Path) -> None:
    if path.name == "__init__.py":
        return
    own = DAEMON_ORDER.index(path.stem)
    for name in imports(path):
        house, _, rest = name.partition(".")
        if house == "atmostd":
            assert DAEMON_ORDER.index(rest.split(".")[0]) > own, f"{path.name} imports {name}"
        if house == "atmost":
            assert rest in SHARED, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(CLIENT), ids=lambda path: path.name)
def test_client_imports_downwards_and_never_the_daemon(path: Path) -> None:
    own = CLIENT_ORDER.index(room(path, CLIENT))
    for name in imports(path):
        house, _, rest = name.partition(".")
        assert house != "atmostd", f"{path.name} imports {name}"
        if house == "atmost" and rest and not rest.startswith("__"):
            below = CLIENT_ORDER.index(rest.split(".")[0])
            assert below > own or CLIENT_ORDER[own] in ("cli", "web"), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(CLIENT), ids=lambda path: path.name)
def test_client_needs_msgspec_alone(path: Path) -> None:
    if room(path, CLIENT) == "web":
        return
    for name in imports(path):
        top = name.partition(".")[0]
        assert top in {"atmost", "msgspec"} or top in sys.stdlib_module_names, name


@pytest.mark.parametrize("name", sorted(PURE))
def test_rules_are_pure(name: str) -> None:
    """No clock, no I/O, no asyncio: `now` is an argument."""
    assert set(imports(DAEMON / f"{name}.py")) <= PURE_MAY_IMPORT


@pytest.mark.parametrize(
    ("module", "users"),
    [
        ("uvloop", {"__main__"}),
        ("aiofiles", {"store"}),
        ("aiofiles.os", {"store"}),
        ("socket", {"server", "connection", "peer", "systemd", "log"}),
        ("time", {"clock", "keeping"}),  # keeping: the wall clock, across reboots
    ],
)
def test_each_has_its_one_place(module: str, users: set[str]) -> None:
    found = {path.stem for path in modules(DAEMON) if module in set(imports(path))}
    assert found <= users


def test_nothing_sleeps_in_the_daemon() -> None:
    """No polling: whoever waits is woken."""
    for path in modules(DAEMON):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr != "sleep", f"{path.name}:{node.lineno}: wait for a state instead"


def test_twins_have_the_same_names_in_the_same_order() -> None:
    def names(path: Path) -> list[str]:
        tree = ast.parse(path.read_text())
        found = []
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                members = [m.name for m in node.body if isinstance(m, FUNCTIONS)]
                found += [f"{node.name}.{_plain(name)}" for name in members]
            elif isinstance(node, FUNCTIONS):
                found.append(node.name)
        return [name for name in found if not name.split(".")[-1].startswith("_")]

    for part in ("", "_blocks"):
        assert names(CLIENT / f"sync{part}.py") == names(CLIENT / f"asyncio{part}.py")


def _plain(name: str) -> str:
    return name.replace("__a", "__", 1) if name.startswith(("__aenter", "__aexit")) else name
