"""dev.py: what it decides, and how it behaves once its .venv is there.

Making a whole .venv takes too long here. A test that needs one gives a copy of dev.py a folder
that dev.py itself would call finished.
"""

import ast
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

import dev

SOURCE = Path(dev.__file__)
STAMP = dev.Stamp(
    checkout="/src/atmost",
    python="/usr/bin/python3.11",
    version="3.11.2",
    pyproject="abc",
    extras=["daemon", "dev"],
    way="venv",
)


# ---- Where atmost cannot run


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (4, 0)])
def test_every_python_from_3_11_on_will_do(version: tuple[int, int]) -> None:
    assert dev.refusal(version, "Linux", "6.1.0-18-amd64") is None


@pytest.mark.parametrize("release", ["5.3.0", "5.15.90.1-microsoft-standard-WSL2", "6.1.0", "odd"])
def test_every_linux_from_5_3_on_will_do(release: str) -> None:
    assert dev.refusal((3, 11), "Linux", release) is None


@pytest.mark.parametrize(
    ("version", "system", "release", "words"),
    [
        ((3, 6), "Linux", "6.1.0", "needs Python 3.11 or later and this is Python 3.6"),
        ((3, 10), "Linux", "6.1.0", "needs Python 3.11 or later and this is Python 3.10"),
        ((3, 12), "Darwin", "23.1.0", "needs Linux (5.3 or later, for pidfd) and this is Darwin"),
        ((3, 12), "Windows", "10", "this is Windows"),
        ((3, 12), "Linux", "5.2.21", "needs Linux 5.3 or later (for pidfd) and this is Linux 5.2"),
        ((3, 12), "Linux", "4.18.0-553.el8", "this is Linux 4.18.0-553.el8"),
    ],
)
def test_elsewhere_a_sentence_says_why_not(
    version: tuple[int, int], system: str, release: str, words: str
) -> None:
    assert words in (dev.refusal(version, system, release) or "")


def test_an_old_python_gets_as_far_as_that_sentence() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 7))
    refuses = next(n for n, node in enumerate(tree.body) if isinstance(node, ast.If))
    for node in tree.body[:refuses]:  # what runs before it: no annotation that would fail then
        if isinstance(node, ast.FunctionDef):
            annotations = [arg.annotation for arg in node.args.args] + [node.returns]
            assert all(isinstance(a, ast.Constant | ast.Name) for a in annotations), node.name


def test_dev_needs_nothing_but_the_standard_library() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= sys.stdlib_module_names


# ---- What .venv needs


def test_a_finished_venv_is_used_as_it_is() -> None:
    assert dev.plan(STAMP, STAMP, venv_exists=True) == ("nothing", "")


def test_more_than_the_command_needs_is_fine_too() -> None:
    wanted = STAMP._replace(extras=["daemon"])
    assert dev.plan(STAMP, wanted, venv_exists=True) == ("nothing", "")


def test_how_it_was_made_does_not_matter() -> None:
    assert dev.plan(STAMP, STAMP._replace(way="uv"), venv_exists=True) == ("nothing", "")


def test_a_missing_extra_is_added() -> None:
    found = STAMP._replace(extras=["daemon"])
    assert dev.plan(found, STAMP, venv_exists=True) == ("install", "not there yet: dev")


def test_a_changed_pyproject_installs_again() -> None:
    action, why = dev.plan(STAMP, STAMP._replace(pyproject="xyz"), venv_exists=True)
    assert (action, why) == ("install", "pyproject.toml has changed")


def test_the_first_run_makes_it() -> None:
    assert dev.plan(None, STAMP, venv_exists=False) == ("create", "there is none yet")


def test_without_a_stamp_it_is_not_trusted() -> None:
    assert dev.plan(None, STAMP, venv_exists=True) == ("create", "the one there was never finished")


@pytest.mark.parametrize(
    ("version", "python"),
    [
        ("3.11.9", "/usr/bin/python3.11"),
        ("3.11.2", "/opt/bin/python3.11"),
        ("3.12.1", "/opt/bin/python3.12"),
    ],
)
def test_another_python_makes_its_own_and_says_so(version: str, python: str) -> None:
    wanted = STAMP._replace(version=version, python=python)
    action, why = dev.plan(STAMP, wanted, venv_exists=True)
    assert action == "create"
    assert "of Python 3.11.2 (/usr/bin/python3.11)" in why


def test_a_copied_checkout_does_not_run_the_code_of_the_first() -> None:
    action, why = dev.plan(STAMP, STAMP._replace(checkout="/src/copy"), venv_exists=True)
    assert (action, why) == ("create", "the one there belongs to /src/atmost")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"python": "/usr/bin/python3"}'])
def test_a_stamp_cut_short_is_none(tmp_path: Path, text: str) -> None:
    stamp = tmp_path / "stamp"
    assert dev.read_stamp(stamp) is None
    stamp.write_text(text)
    assert dev.read_stamp(stamp) is None


def test_a_stamp_reads_as_it_was_written(tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    stamp.write_text(json.dumps(STAMP._asdict()))
    assert dev.read_stamp(stamp) == STAMP


# ---- How it is made


@pytest.mark.parametrize(
    ("uv", "ensurepip", "pip", "expected"),
    [
        ("/usr/bin/uv", True, (23, 0), ["uv", "venv", "pip"]),
        (None, True, (23, 0), ["venv", "pip"]),
        (None, True, None, ["venv"]),
        (None, False, (23, 0), ["pip"]),
        (None, False, (22, 3), ["pip"]),
        ("/usr/bin/uv", False, None, ["uv"]),
    ],
)
def test_the_best_way_that_this_machine_has(
    uv: str | None, ensurepip: bool, pip: tuple[int, int] | None, expected: list[str]
) -> None:
    assert dev.ways(uv, ensurepip, pip) == expected


@pytest.mark.parametrize("way", ["uv", "venv", "pip"])
def test_every_way_installs_into_our_venv_and_nowhere_else(way: str) -> None:
    create, install = dev.recipe(way, ["daemon", "dev"])
    assert create[-1] == str(dev.VENV)
    assert str(dev.VENV_PYTHON) in install
    assert install[-2:] == ["--editable", ".[daemon,dev]"]


def test_without_ensurepip_the_pip_outside_installs_into_it() -> None:
    create, install = dev.recipe("pip", ["daemon"])
    assert create[:4] == [dev.BASE_PYTHON, "-m", "venv", "--without-pip"]
    assert install[:3] == [dev.BASE_PYTHON, "-m", "pip"]
    # pip takes --python in front of its command only.
    assert install[3:6] == ["--python", str(dev.VENV_PYTHON), "install"]


@pytest.mark.parametrize("pip", [None, (20, 3), (22, 2)])
def test_with_nothing_that_will_do_it_names_what_to_install(pip: tuple[int, int] | None) -> None:
    with pytest.raises(dev.Failed, match="sudo apt install python3-venv"):
        dev.ways(None, False, pip)


@pytest.mark.parametrize("command", ["demo", "chaos"])
def test_what_needs_no_test_tools_does_not_install_them(command: str) -> None:
    assert dev.EXTRAS[command] == ["daemon"]


@pytest.mark.parametrize("command", dev.EXTRAS)
def test_every_command_is_in_the_help_and_has_something_to_run(command: str) -> None:
    assert f"\n  {command} " in dev.HELP
    for step in dev.commands_of(command, ["an argument"]):
        assert step[0] == "-m" or (dev.ROOT / step[0]).is_file()


def test_the_python_under_an_active_venv_is_the_one_that_counts() -> None:
    asked = [dev.BASE_PYTHON, "-c", "import sys; print(sys.prefix == sys.base_prefix)"]
    assert subprocess.check_output(asked, text=True) == "True\n"


# ---- How it behaves


class Checkout:
    """A copy of dev.py with a .venv that it takes for finished and a demo of three lines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copy(SOURCE, root)
        (root / "pyproject.toml").write_text("")
        (root / "demo").mkdir()
        (root / "demo" / "demo.py").write_text(
            "import os, sys\nprint(os.getcwd(), sys.executable, sys.argv[1:])\nsys.exit(7)\n"
        )
        bin_folder = root / ".venv" / "bin"
        bin_folder.mkdir(parents=True)
        (bin_folder / "python").symlink_to(sys.executable)
        self.is_ready_for("demo")

    def is_ready_for(self, command: str) -> None:
        """What this command needs is in the .venv, as far as dev.py can tell."""
        code = (
            "import dev, json, sys; "
            "dev.STAMP.write_text(json.dumps(dev.wanted_stamp(sys.argv[1])._asdict()))"
        )
        subprocess.run([sys.executable, "-c", code, command], cwd=self.root, check=True)

    def dev(self, *args: str, cwd: str = "/") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.root / "dev.py"), *args]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True)

    def start_demo(self) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "dev.py", "demo"], subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def lock(self, kind: int) -> int:
        """The lock as another dev.py would take it. Raises BlockingIOError if it has to wait."""
        lock = os.open(self.root / ".venv.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise
        return lock


def next_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_help_is_printed(checkout: Checkout, args: list[str]) -> None:
    done = checkout.dev(*args)
    assert (done.returncode, done.stdout, done.stderr) == (0, dev.HELP, "")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tset"], "no such command: tset"),
        (["--verbose"], "no such command: --verbose"),
        (["check", "tests"], "check takes no arguments"),
    ],
)
def test_a_wrong_command_gets_the_usage(checkout: Checkout, args: list[str], words: str) -> None:
    done = checkout.dev(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert dev.HELP in done.stderr


def test_it_becomes_the_command_in_the_checkout(checkout: Checkout) -> None:
    done = checkout.dev("demo", "--fast", "a b")
    python = checkout.root / ".venv" / "bin" / "python"
    assert done.stdout == f"{checkout.root} {python} ['--fast', 'a b']\n"
    assert (done.returncode, done.stderr) == (7, "")


def test_every_test_is_in_one_of_the_two_that_run_side_by_side() -> None:
    """Each folder that the one is given is left out by the other, and is there."""
    (_, _, *waiting), (_, _, *rest) = dev.commands_of("test", [])
    assert rest == [f"--ignore={folder}" for folder in waiting]
    assert all((dev.ROOT / folder).is_dir() for folder in waiting)
    assert dev.commands_of("test", ["-x"]) == [["-m", "pytest", "-x"]]


FAKE_PYTEST = """
import os, sys, time
part = "rest" if sys.argv[1].startswith("--ignore") else "waiting"
open(part, "w").close()
while not (os.path.exists("rest") and os.path.exists("waiting")):
    time.sleep(0.01)
print("the", part)
sys.exit(3 if part == os.environ.get("FAILS") else 0)
"""


@pytest.mark.parametrize(("fails", "code"), [("", 0), ("rest", 3), ("waiting", 3)])
def test_all_tests_run_side_by_side(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, fails: str, code: int
) -> None:
    """Both are under way at the same time; one that fails is enough; what waits is shown last."""
    monkeypatch.setenv("FAILS", fails)
    (checkout.root / "pytest.py").write_text(FAKE_PYTEST)
    checkout.is_ready_for("test")
    done = checkout.dev("test")
    assert (done.returncode, done.stdout) == (code, "the rest\nthe waiting\n")


def test_it_waits_while_another_changes_the_venv(checkout: Checkout) -> None:
    lock = checkout.lock(fcntl.LOCK_EX)
    with checkout.start_demo() as demo:
        assert "waiting for another dev.py" in next_line(demo.stderr)
        os.close(lock)
        demo.communicate()
    assert demo.returncode == 7


def test_ctrl_c_gives_no_traceback(checkout: Checkout) -> None:
    lock = checkout.lock(fcntl.LOCK_EX)
    with checkout.start_demo() as demo:
        assert "waiting for another dev.py" in next_line(demo.stderr)
        demo.send_signal(signal.SIGINT)
        assert demo.communicate() == ("", "dev.py: interrupted\n")
    os.close(lock)
    assert demo.returncode == 130


def test_who_runs_from_the_venv_keeps_others_from_changing_it(checkout: Checkout) -> None:
    (checkout.root / "demo" / "demo.py").write_text("print(flush=True)\ninput()\n")
    with checkout.start_demo() as demo:
        next_line(demo.stdout)
        os.close(checkout.lock(fcntl.LOCK_SH))  # another may run from it as well
        with pytest.raises(BlockingIOError):
            checkout.lock(fcntl.LOCK_EX)
        demo.communicate("\n")
    os.close(checkout.lock(fcntl.LOCK_EX))


# ---- A browser for the tests of the page


def test_a_browser_is_installed_where_that_takes_no_question() -> None:
    assert dev.browser(there=True, root=True, apt=True) == []
    told = dev.browser(there=False, root=True, apt=True)
    assert isinstance(told, list)
    update, install = told
    assert update == ["apt-get", "update", "-qq"]
    assert install[-2:] == ["chromium", "chromium-driver"]


@pytest.mark.parametrize(("root", "apt"), [(False, True), (True, False), (False, False)])
def test_elsewhere_a_line_says_what_to_install(root: bool, apt: bool) -> None:
    told = dev.browser(there=False, root=root, apt=apt)
    assert isinstance(told, str)
    assert "sudo apt install chromium chromium-driver" in told
    assert "left out" in told


@pytest.mark.parametrize(
    ("command", "args", "uses"),
    [
        ("test", [], True),
        ("test", ["-q"], True),
        ("test", ["tests/browser/test_acts.py"], True),
        ("test", ["tests/test_limit.py", "-q"], False),
        ("screenshots", [], True),
        ("demo", [], False),
    ],
)
def test_only_who_needs_a_browser_gets_one(command: str, args: list[str], uses: bool) -> None:
    assert dev.uses_browser(command, args) is uses
