"""Who is compared: what each needs, whether it is there, and in which version.

Each is used as its own documentation says, with its best settings: see README.md beside this file.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

VERSION_SECONDS = 10.0  # for a program to tell its own
PREFECT_VERSION = ("-c", "from importlib.metadata import version as v; print(v('prefect'))")


def first_of(*programs: str) -> str:
    """The first that is there; else the first."""
    return next((name for name in programs if shutil.which(name)), programs[0])


REDIS_SERVER = first_of("redis-server", "valkey-server")
REDIS_BENCHMARK = first_of("redis-benchmark", "valkey-benchmark")


class Family(NamedTuple):
    """What is installed, named and left out as one."""

    packages: tuple[str, ...] = ()  # of PyPI; a module has the same name
    programs: tuple[str, ...] = ()
    apt: str = ""
    asked_for: bool = False  # takes part only if it is named

    def missing(self) -> list[str]:
        """What is not there."""
        packages = [name for name in self.packages if not _is_there(name)]
        return packages + [name for name in self.programs if shutil.which(name) is None]


FAMILIES: dict[str, Family] = {
    "c": Family(programs=(os.environ.get("CC", "cc"),), apt="gcc"),
    "uvloop": Family(("uvloop",)),
    "redis": Family(("redis", "hiredis"), (REDIS_SERVER, REDIS_BENCHMARK), "redis-server"),
    "limits": Family(("limits", "redis", "hiredis"), (REDIS_SERVER,), "redis-server"),
    "pyrate-limiter": Family(
        ("pyrate-limiter", "redis", "hiredis", "filelock"), (REDIS_SERVER,), "redis-server"
    ),
    "filelock": Family(("filelock",)),
    "portalocker": Family(("portalocker",)),
    "flock": Family(programs=("flock",), apt="util-linux"),
    "sem": Family(programs=("sem",), apt="parallel"),
    "prefect": Family(asked_for=True),  # in a venv of its own: --prefect PYTHON
}


class Kind(NamedTuple):
    """A client process: which program in clients/, who it is, what it talks to."""

    told: str
    program: str
    family: str
    server: str  # atmost, redis, prefect, folder
    slower: int = 1  # how many times less it is asked to do, or a round would take minutes


OURS = Kind("atmost, blocking client", "ours", "atmost", "atmost")
IN_PROCESS = Kind("threading.BoundedSemaphore, one process alone", "in_process", "atmost", "folder")
REDIS_LUA = Kind("Redis + Lua semaphore", "redis_lua", "redis", "redis")
REDIS_WAKE = Kind("Redis + Lua semaphore, BLPOP", "redis_wake", "redis", "redis")
REDIS_LOCK = Kind("redis-py's Lock", "redis_lock", "redis", "redis")
LIMITS = Kind("limits, fixed window, Redis", "limits_fixed", "limits", "redis")
LIMITS_MOVING = Kind("limits, moving window, Redis", "limits_moving", "limits", "redis")
PYRATE = Kind("pyrate-limiter, token bucket, Redis", "pyrate_redis", "pyrate-limiter", "redis")
PYRATE_SQLITE = Kind("pyrate-limiter, SQLite", "pyrate_sqlite", "pyrate-limiter", "folder")
FILELOCK = Kind("filelock", "file_lock", "filelock", "folder")
PREFECT = Kind("Prefect", "prefect_limits", "prefect", "prefect", slower=100)
PORTALOCKER = Kind("portalocker", "porta_locker", "portalocker", "folder")


class Field:
    """Those that take part, of those that were asked for."""

    def __init__(self, asked: Iterable[str] | None = None, prefect: str = "") -> None:
        """`asked`: names of families; None: all but those that have to be asked for. `prefect`: the
        Python of a venv that has Prefect."""
        self.prefect = prefect
        default = [name for name, family in FAMILIES.items() if not family.asked_for]
        self.asked = list(default if asked is None else asked)
        found = {name: FAMILIES[name].missing() for name in self.asked}
        if "prefect" in found:
            found["prefect"] = _without_prefect(prefect)
        self.missing = {name: lacks for name, lacks in found.items() if lacks}

    def has(self, family: str) -> bool:
        return family == "atmost" or (family in self.asked and family not in self.missing)

    def of(self, *kinds: Kind) -> list[Kind]:
        """Those of them that take part."""
        return [kind for kind in kinds if self.has(kind.family)]

    def told(self) -> list[str]:
        """Who is left out, and what installs it."""
        return [
            f"{name} is left out: there is no {', no '.join(lacks)}; {_cure(FAMILIES[name], lacks)}"
            for name, lacks in self.missing.items()
        ]

    def versions(self) -> dict[str, str]:
        """Of all that take part."""
        families = [FAMILIES[name] for name in self.asked if self.has(name)]
        packages = {name for family in families for name in family.packages} | {"msgspec"}
        programs = {name for family in families for name in family.programs}
        found = {
            name: importlib.metadata.version(name) for name in sorted(packages) if _is_there(name)
        }
        found |= {name: _version_of([name, "--version"]) for name in sorted(programs)}
        if self.has("prefect"):
            found["prefect"] = _version_of([self.prefect, *PREFECT_VERSION])
        return found


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def _cure(family: Family, lacks: list[str]) -> str:
    commands = []
    if any(name in family.packages for name in lacks):
        commands.append("pip install 'atmost[bench]'")
    if family.apt and any(name in family.programs for name in lacks):
        commands.append(f"apt install {family.apt}")
    return " and ".join(commands) or "see bench/README.md"


def _without_prefect(python: str) -> list[str]:
    """What lacks, if that Python has none."""
    if not python:
        return ["--prefect PYTHON"]
    found = _version_of([python, *PREFECT_VERSION]) != "unknown"
    return [] if found else ["prefect in the venv of --prefect"]


def _version_of(command: list[str]) -> str:
    """The first number that it tells of itself."""
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    told = re.search(r"\d[\d.]+", asked.stdout + asked.stderr)
    return told[0] if told and asked.returncode == 0 else "unknown"
