#!/usr/bin/env python3
"""The developer's commands. They need nothing but Python, and no installation beforehand.

Rule 1: the standard library only; what a command needs goes into `.venv` in this checkout.
Rule 2: the stamp in `.venv` is taken away before a change and written after it. No stamp,
        no trust: a half-made `.venv` is made again.
Rule 3: whoever changes `.venv` holds the lock alone; whoever runs from it shares the lock.
Rule 4: the answers (`refusal`, `plan`, `ways`, `commands_of`) are pure; the doing is below them.
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, TextIO

HELP = """\
usage: python3 dev.py COMMAND [ARGUMENTS]

  demo           watch several processes share limits, and one of them die (about 20 s)
  test [ARGS]    run the tests; ARGS go to pytest
  check          formatting, lint and types: ruff format --check, ruff check, mypy
  screenshots    make docs/page-*.png: the page in a real browser, on a real daemon
  bench [ARGS]   measure speed beside what people use, and the physical floor: CASE..., --quick,
                 --json FILE, --compare OLD.json; see bench/README.md
  chaos [ARGS]   kill daemon and clients at random for a while, then judge what their clocks say
  fuzz [ARGS]    look for bytes that the daemon cannot take: --seconds N (60)
  sim [ARGS]     daemon and clients in simulated worlds: --seeds N, --seed N, --jobs N,
                 --asyncio, --planted NAME

The first run makes .venv in this checkout (with uv if there is one, else with venv and pip) and
installs what the command needs. Paths in ARGS start at the checkout.
"""


def refusal(version: "tuple[int, int]", system: str, release: str) -> "str | None":
    """Why atmost cannot run here, or None."""
    if version < (3, 11):
        return (
            f"atmost needs Python 3.11 or later and this is Python {version[0]}.{version[1]}; "
            "try for example: python3.11 dev.py test"
        )
    if system != "Linux":
        return f"atmost needs Linux (5.3 or later, for pidfd) and this is {system}"
    kernel = re.match(r"(\d+)\.(\d+)", release)
    if kernel and (int(kernel[1]), int(kernel[2])) < (5, 3):
        return f"atmost needs Linux 5.3 or later (for pidfd) and this is Linux {release}"
    return None


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


# This stands here and not at the end because an older Python would stop at the words below.
if __name__ == "__main__":
    _refusal = refusal(sys.version_info[:2], platform.system(), platform.release())
    if _refusal:
        say(_refusal)
        sys.exit(2)


ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "dev-stamp.json"
LOCK = ROOT / ".venv.lock"  # beside .venv and not in it, to outlive it
# The interpreter under any virtual environment that is active now, be it .venv itself.
BASE_PYTHON: str = getattr(sys, "_base_executable", sys.executable)
PIP_VERSION_MIN = (22, 3)  # the first that knows --python

# For browsers, for a service, for seconds to pass: beside the others they cost little time.
TESTS_THAT_WAIT = ["tests/browser", "tests/systemd", "tests/web"]

BROWSER_PACKAGES = ["chromium", "chromium-driver"]

EXTRAS = {  # command -> what it installs; nothing that it does not need
    "demo": ["daemon"],
    "test": ["daemon", "dev", "web"],
    "check": ["daemon", "dev", "web"],  # the same as test, or .ci/run would install twice
    "screenshots": ["daemon", "dev", "web"],
    "bench": ["daemon", "bench"],
    "chaos": ["daemon"],
    "fuzz": ["daemon", "dev"],
    "sim": ["daemon", "dev"],
}


class Failed(Exception):
    """The message says what to do; nobody needs the traceback."""


class Stamp(NamedTuple):
    """What a finished .venv was made from."""

    checkout: str  # a .venv copied with its checkout would still run the first one's code
    python: str
    version: str
    pyproject: str  # a hash of its text
    extras: list[str]
    way: str  # how it was made; it can be extended only in the same way


# ---- What to do


def plan(found: Stamp | None, wanted: Stamp, venv_exists: bool) -> tuple[str, str]:
    """What has to be done to .venv ("nothing", "install" or "create"), and why."""
    if found is None:
        return "create", "the one there was never finished" if venv_exists else "there is none yet"
    if found.checkout != wanted.checkout:
        return "create", f"the one there belongs to {found.checkout}"
    if (found.python, found.version) != (wanted.python, wanted.version):
        return "create", f"the one there is of Python {found.version} ({found.python})"
    if found.pyproject != wanted.pyproject:
        return "install", "pyproject.toml has changed"
    missing = sorted(set(wanted.extras) - set(found.extras))
    if missing:
        return "install", f"not there yet: {', '.join(missing)}"
    return "nothing", ""


def ways(uv: str | None, ensurepip: bool, pip: tuple[int, int] | None) -> list[str]:
    """How a .venv can be made with what this machine has, the best way first."""
    possible = {
        "uv": uv is not None,
        "venv": ensurepip,
        # Debian's bare python3: its venv lacks ensurepip and its pip refuses to install outside
        # a virtual environment (PEP 668), yet that pip can install into one.
        "pip": pip is not None and pip >= PIP_VERSION_MIN,
    }
    if not any(possible.values()):
        raise Failed(
            f"{BASE_PYTHON} has neither ensurepip nor pip 22.3 or later, and there is no uv: "
            "install one of them, on Debian or Ubuntu with: sudo apt install python3-venv"
        )
    return [way for way, there_is in possible.items() if there_is]


def recipe(way: str, extras: list[str]) -> tuple[list[str], list[str]]:
    """The command that makes an empty .venv and the one that installs into it."""
    base, python, venv = BASE_PYTHON, str(VENV_PYTHON), str(VENV)
    this = ["--quiet", "--editable", f".[{','.join(extras)}]"]
    pip_install = ["install", "--disable-pip-version-check", *this]
    if way == "uv":
        create = ["uv", "venv", "--quiet", "--python", base, venv]
        return create, ["uv", "pip", "install", "--python", python, *this]
    if way == "venv":
        return [base, "-m", "venv", venv], [python, "-m", "pip", *pip_install]
    create = [base, "-m", "venv", "--without-pip", venv]
    return create, [base, "-m", "pip", "--python", python, *pip_install]


def commands_of(command: str, args: list[str]) -> list[list[str]]:
    """What the .venv's Python is given to run: one after the other, but all tests side by side."""
    ruff = ["-m", "ruff"]
    if command == "test" and not args:
        rest = [f"--ignore={folder}" for folder in TESTS_THAT_WAIT]
        return [["-m", "pytest", *TESTS_THAT_WAIT], ["-m", "pytest", *rest]]
    return {
        "demo": [["demo/demo.py", *args]],
        "test": [["-m", "pytest", *args]],
        "check": [[*ruff, "format", "--check", "."], [*ruff, "check", "."], ["-m", "mypy"]],
        "screenshots": [["-m", "tools.screenshots", *args]],
        "bench": [["bench/run.py", *args]],
        "chaos": [["chaos/run.py", *args]],
        "fuzz": [["-m", "tests.fuzz", *args]],
        "sim": [["-m", "tests.sim", *args]],
    }[command]


def uses_browser(command: str, args: list[str]) -> bool:
    """Whether the tests of the page are among those asked for."""
    paths = [word for word in args if not word.startswith("-")]
    among = not paths or any("tests/browser" in path or path == "tests" for path in paths)
    return command == "screenshots" or (command == "test" and among)


def browser(there: bool, root: bool, apt: bool) -> list[list[str]] | str:
    """The commands that get a real browser for the tests of the page, or why there is none. Pure."""
    if there:
        return []
    if root and apt:
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *BROWSER_PACKAGES]
        return [["apt-get", "update", "-qq"], install]
    return (
        "no Chromium here, so the tests of the page in a browser are left out; "
        f"on Debian or Ubuntu: sudo apt install {' '.join(BROWSER_PACKAGES)}"
    )


# ---- What there is


def pip_version() -> tuple[int, int] | None:
    """The version of the base Python's own pip, if it has one."""
    asked = subprocess.run([BASE_PYTHON, "-m", "pip", "--version"], capture_output=True, text=True)
    told = re.match(r"pip (\d+)\.(\d+)", asked.stdout)
    return (int(told[1]), int(told[2])) if told else None


def wanted_stamp(command: str) -> Stamp:
    return Stamp(
        checkout=str(ROOT),
        python=os.path.realpath(BASE_PYTHON),
        version=platform.python_version(),
        pyproject=hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        extras=EXTRAS[command],
        way="none yet",
    )


def read_stamp(path: Path) -> Stamp | None:
    """The stamp, or None if there is none that can be trusted."""
    try:
        return Stamp(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def has_browser() -> bool:
    return all(map(shutil.which, ("chromium", "chromedriver")))


# ---- Doing it


def run(command: list[str], lock: int, stdout: TextIO | None = None) -> int:
    """Run to the end. The child holds the lock too: if we are killed it may still be writing."""
    done = subprocess.run(command, cwd=ROOT, stdout=stdout, pass_fds=[lock])
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def run_side_by_side(commands: list[list[str]], lock: int) -> int:
    """Run all to the end. What the last one says is shown as it comes, what the others say behind it."""
    code = 0
    with contextlib.ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile()) for _ in commands[1:]]
        processes = [
            subprocess.Popen(command, stdout=output, stderr=output, pass_fds=[lock])
            for command, output in zip(commands, [*said, None], strict=True)
        ]

        def pass_on(number: int, _: object) -> None:
            for process in processes:
                process.send_signal(number)

        signal.signal(signal.SIGTERM, pass_on)
        for process in reversed(processes):
            code = wait_for(process) or code
        for output in said:
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout.buffer)
        sys.stdout.flush()
    return code


def wait_for(process: "subprocess.Popen[bytes]") -> int:
    """Its exit code. Ctrl-C is for it, too, and it puts away what it has started."""
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            say("interrupted; waiting for the tests to put away what they have started")


def see_to_browser() -> None:
    """Get a browser where that takes no question; else say in one line how to get it."""
    wish = browser(has_browser(), os.geteuid() == 0, shutil.which("apt-get") is not None)
    if isinstance(wish, str):
        say(wish)
        return
    if wish:
        say("getting Chromium for the tests of the page")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in wish:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment)
        if done.returncode:
            say(f"that failed: {' '.join(command)}")
            return


def make_venv(found: Stamp | None, wanted: Stamp, action: str, lock: int) -> None:
    """Make or extend .venv. The stamp goes first and comes last, so a failure leaves none."""
    ensurepip = importlib.util.find_spec("ensurepip")
    has_ensurepip = ensurepip is not None and ensurepip.origin is not None  # no left-over folder
    possible = ways(shutil.which("uv"), has_ensurepip, pip_version())
    STAMP.unlink(missing_ok=True)
    if action == "install" and found is not None and found.way in possible:
        wanted = wanted._replace(extras=sorted({*wanted.extras, *found.extras}))
        way = found.way if run(recipe(found.way, wanted.extras)[1], lock, sys.stderr) == 0 else None
    else:
        way = create_venv(possible, wanted.extras, lock)
    if way is None:
        raise Failed("the installation failed, for the reason above; the next run starts afresh")
    STAMP.write_text(json.dumps(wanted._replace(way=way)._asdict(), indent=1))


def create_venv(possible: list[str], extras: list[str], lock: int) -> str | None:
    """Try one way after the other; the one that worked, or None."""
    for way in possible:
        if VENV.exists():
            shutil.rmtree(VENV)
        create, install = recipe(way, extras)
        # Captured, because `python -m venv` answers a Ctrl-C with a traceback.
        made = subprocess.run(create, capture_output=True, text=True, pass_fds=[lock])
        if made.returncode == 0:
            say(f"{way} made .venv; installing .[{','.join(extras)}]")
            if run(install, lock, sys.stderr) == 0:
                return way
            if way != "uv":  # one pip fails like another; uv has settings of its own
                break
        say(f"{way} did not work here. {made.stderr or made.stdout}".strip())
    return None


@functools.cache  # once is enough
def say_waiting() -> None:
    say("waiting for another dev.py that uses or makes .venv")


def take_lock(lock: int, exclusive: bool) -> None:
    import fcntl  # not at the top: where there is none, `refusal` has the word

    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        say_waiting()
        fcntl.flock(lock, kind)


def ready_venv(command: str) -> int:
    """See to it that .venv fits the command; gives the lock, shared, for as long as it is used."""
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    while True:
        take_lock(lock, exclusive=False)
        if plan(read_stamp(STAMP), wanted_stamp(command), VENV.exists())[0] == "nothing":
            return lock
        take_lock(lock, exclusive=True)
        # Another dev.py may have been first, so look again; flock cannot turn one lock into the
        # other without a gap, hence also the loop.
        found, wanted = read_stamp(STAMP), wanted_stamp(command)
        action, why = plan(found, wanted, VENV.exists())
        if action != "nothing":
            say(f"{'making' if action == 'create' else 'updating'} .venv: {why}")
            make_venv(found, wanted, action, lock)


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    command, args = argv[0], argv[1:]
    if command not in EXTRAS or (command == "check" and args):
        wrong = "check takes no arguments" if command in EXTRAS else f"no such command: {command}"
        print(f"dev.py: {wrong}\n\n{HELP}", end="", file=sys.stderr)
        return 2
    try:
        lock = ready_venv(command)
        todo = [[str(VENV_PYTHON), *arguments] for arguments in commands_of(command, args)]
        os.chdir(ROOT)
        if uses_browser(command, args):
            see_to_browser()
        if len(todo) == 1:  # become it: its signals, its terminal and its exit code are its own
            os.set_inheritable(lock, True)
            os.execv(VENV_PYTHON, todo[0])
        if command == "test":
            say(f"{', '.join(TESTS_THAT_WAIT)} run beside the others, and are shown behind them")
            return run_side_by_side(todo, lock)
        code = 0
        for step in todo:  # all of them, also after a failure, to show everything at once
            say(" ".join(step[2:]))
            code = run(step, lock) or code
        return code
    except (Failed, OSError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
