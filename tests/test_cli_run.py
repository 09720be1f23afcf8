"""`atmost run`: it waits for its turn and becomes the command, which holds the slots until it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmost.sync import Client
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_cli import COMMAND, Ran, Terminal, client_of, ran, shared, start

PIPE = subprocess.PIPE


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("cli")).start()
    yield running
    running.stop()


@pytest.fixture
def daemon(started: RunningDaemon) -> Iterator[RunningDaemon]:
    with shared(started):
        yield started


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    """A session with the daemon, where db has 2 slots."""
    with daemon.client() as connected:
        connected.create_limit("db", 2)
        yield connected


def held(client: Client, name: str = "db") -> int:
    return client.read_limit(name).held


def nobody_is_there(client: Client) -> bool:
    return client.list_tickets() == []


def run(daemon: RunningDaemon, *arguments: str) -> Ran:
    return ran(daemon, "run", *arguments)


# ---- It becomes the command


def test_the_exit_code_is_that_of_the_command(daemon: RunningDaemon, client: Client) -> None:
    assert run(daemon, "db", "--", "sh", "-c", "exit 7") == (7, "", "")
    assert run(daemon, "db", "--", "true").code == 0
    wait_until(lambda: nobody_is_there(client))


def test_a_command_that_dies_of_a_signal(daemon: RunningDaemon, client: Client) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGPIPE):
        assert run(daemon, "db", "--", "sh", "-c", f"kill -{number} $$").code == -number
    wait_until(lambda: nobody_is_there(client))


def test_input_output_and_arguments_pass_through(daemon: RunningDaemon, client: Client) -> None:
    script = 'cat; echo "$0 $# $2" >&2'
    arguments = ["run", "db", "--", "sh", "-c", script, "zero", "-n", "--", "a b"]
    with start(daemon, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        out, err = process.communicate("in\n", timeout=PATIENCE_SECONDS)
    assert (process.returncode, out, err) == (0, "in\n", "zero 3 --\n")


def test_it_is_the_same_process_and_ps_shows_the_command(
    daemon: RunningDaemon, client: Client
) -> None:
    with start(daemon, "run", "db", "--", "sleep", "60") as process:
        wait_until(lambda: held(client) == 1)
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        (ticket,) = client.list_tickets("db")
        assert (ticket.pid, ticket.command, ticket.state) == (process.pid, "sleep 60", "held")
        process.kill()
    wait_until(lambda: nobody_is_there(client))


@pytest.mark.parametrize(
    "environment",
    [{}, {"LANG": "C", "X": "a=b\n"}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}],
    ids=["empty", "LANG=C", "LC_CTYPE", "LC_ALL"],
)
def test_the_environment_is_unchanged(
    daemon: RunningDaemon, client: Client, environment: dict[str, str]
) -> None:
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    environment["ATMOST_SOCKET"] = str(daemon.socket)
    done = ran(daemon, "run", "db", "--", "/usr/bin/env", "-0", env=environment)
    assert sorted(done.out.split("\0")) == sorted(
        ["", *(f"{name}={value}" for name, value in environment.items())]
    )


def test_signals_and_descriptors_are_as_they_were(daemon: RunningDaemon, client: Client) -> None:
    script = "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd"
    bare = ran(daemon, command=["/bin/sh", "-c", script])
    assert "SigIgn" in bare.out
    assert run(daemon, "db", "--", "/bin/sh", "-c", script) == bare
    nohup = ["nohup", *COMMAND, "run", "db", "--", "grep", "SigIgn", "/proc/self/status"]
    ignored = subprocess.run(nohup, env=daemon.environment(), capture_output=True, text=True)
    assert int(ignored.stdout.split()[1], 16) == 1 << signal.SIGHUP - 1


# ---- The slots belong to its process


def test_slots_are_free_when_the_command_is_killed(daemon: RunningDaemon, client: Client) -> None:
    with start(daemon, "run", "-n2", "db", "--", "sleep", "60") as process:
        wait_until(lambda: held(client) == 2)
        process.kill()
        wait_until(lambda: held(client) == 0)


def test_slots_are_kept_through_an_exec(daemon: RunningDaemon, client: Client) -> None:
    script = "echo first; read x; exec sh -c 'echo second; read x'"
    arguments = ["run", "db", "--", "sh", "-c", script]
    with start(daemon, *arguments, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in ("first\n", "second\n"):
            assert process.stdout.readline() == word
            assert held(client) == 1
            process.stdin.write("\n")
            process.stdin.flush()
        wait_until(lambda: held(client) == 0)
        assert process.wait(PATIENCE_SECONDS) == 0


def test_slots_are_free_although_a_child_lives_on(daemon: RunningDaemon, client: Client) -> None:
    script = "sleep 60 >&- 2>&- & echo $!"
    child = int(run(daemon, "db", "--", "sh", "-c", script).out)
    try:
        wait_until(lambda: held(client) == 0)
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


# ---- Which slots


def test_several_limits_with_slots_of_their_own(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("gpu", 4)
    client.create_limit("a=b", 9)
    arguments = ["db", "gpu", "-n", "gpu=4", "--slots=a=b=3", "-n", "2"]
    with start(daemon, "run", *arguments, "--", "sleep", "60") as process:
        wait_until(lambda: held(client) == 2)
        assert (held(client, "gpu"), held(client, "a=b")) == (4, 3)
        process.kill()
    wait_until(lambda: nobody_is_there(client))


@pytest.mark.parametrize(
    ("arguments", "name", "slots"),
    [
        (["a=2"], "a=2", 1),
        (["-n", "a=2=2"], "a=2", 2),
        (["a:2"], "a:2", 1),
        (["-n3", "-"], "-", 3),
        (["--slots=-x=2"], "-x", 2),
        (["--slots=--=2"], "--", 2),
        (["--slots=a b=2", "a b"], "a b", 2),
        (["-n2", "db", "-n", "db=1"], "db", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_awkward_names(
    daemon: RunningDaemon, client: Client, arguments: list[str], name: str, slots: int
) -> None:
    if name != "db":
        client.create_limit(name, 3)
    with start(daemon, "run", *arguments, "--", "sleep", "60") as process:
        wait_until(lambda: held(client, name) == slots)
        assert {ticket.limit for ticket in client.list_tickets()} == {name}
        process.kill()


def test_rates_are_spent(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("api", 10, 0.001)
    client.create_limit("tokens", 1000, 0.001)
    arguments = ["--rate", "api", "--rate", "tokens", "-n", "tokens=500", "db"]
    assert run(daemon, *arguments, "--", "true") == (0, "", "")
    wait_until(lambda: held(client) == 0)
    assert client.read_limit("api").active_slots == 1
    assert client.read_limit("tokens").active_slots == 500
    assert run(daemon, "--rate", "api", "--", "true").code == 0
    assert client.read_limit("api").active_slots == 2
    assert {limit.name for limit in client.list_limits()} == {"db", "api", "tokens"}


# ---- Not had


def test_not_in_time(daemon: RunningDaemon, client: Client) -> None:
    with client.acquire("db", 2):
        code, out, err = run(daemon, "db", "-w", "0.05", "--", "echo", "ran")
        assert (code, out) == (124, "")
        assert err.startswith("atmost: no 1 slot of 'db' within 0.0")
        assert f"held by pid {os.getpid()}" in err
        assert run(daemon, "db", "--no-wait", "-E", "0", "--", "echo", "ran")[:2] == (0, "")
        assert run(daemon, "db", "--no-wait", "-qE7", "--", "echo", "ran") == (7, "", "")
        assert client.read_limit("db").waiting == 0
        assert held(client) == 2
    assert run(daemon, "db", "--no-wait", "--", "echo", "ran") == (0, "ran\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n3", "db"], "3 slots of 'db' can never be had"),
        (["--strict", "db", "nix", "nada"], "no limit named 'nada', 'nix'"),
        (["--strict", "db", "off"], "not enforced (inactive): 'off'"),
        (["--rate", "db"], "rate_limit needs a slot decay"),
        (["db", "--rate", "db"], "rate_limit needs a slot decay"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(daemon: RunningDaemon, client: Client, arguments: list[str], words: str) -> None:
    client.create_limit("off", 1, active=False)
    code, out, err = run(daemon, *arguments, "--", "echo", "ran")
    assert (code, out) == (125, "")
    assert err.startswith("atmost: ")
    assert words in err
    assert [limit.name for limit in client.list_limits()] == ["db", "off"]
    assert nobody_is_there(client)


def test_the_daemon_goes_away_while_it_waits(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path).start()
    with daemon.client() as client:
        client.create_limit("db", 1)
        client.acquire("db")
        with start(daemon, "run", "db", "--", "echo", "ran", stdout=PIPE, stderr=PIPE) as process:
            wait_until(lambda: client.read_limit("db").waiting == 1)
            daemon.stop()
            # It waits for the daemon for as long as our patience would last.
            out, err = process.communicate(timeout=2 * PATIENCE_SECONDS)
    assert (process.returncode, out) == (125, "")
    assert err.startswith("atmost: no atmost daemon at ")


def test_commands_that_are_none(daemon: RunningDaemon, client: Client, tmp_path: Path) -> None:
    data, orphan = tmp_path / "data", tmp_path / "orphan"
    data.write_text("x")
    orphan.write_text("#!/no/such/interpreter\n")
    orphan.chmod(0o755)
    cases = [
        ("no-such-command", 127, "command not found"),
        ("", 127, "command not found"),
        (str(tmp_path / "nothing"), 127, "command not found"),
        (str(data / "x"), 127, "command not found"),
        (str(data), 126, "Permission denied"),
        (str(tmp_path), 126, "Is a directory"),
        (str(orphan), 126, "No such file or directory"),
    ]
    for command, expected, words in cases:
        code, out, err = run(daemon, "db", "--", command)
        assert (code, out) == (expected, ""), command
        assert err.startswith(f"atmost: cannot run {command!r}: ")
        assert words in err
        assert nobody_is_there(client)


def test_a_command_that_is_not_there_is_not_waited_for(
    daemon: RunningDaemon, client: Client
) -> None:
    with client.acquire("db", 2):
        assert run(daemon, "db", "--", "no-such-command").code == 127


def test_a_command_is_found_as_a_shell_finds_it(
    daemon: RunningDaemon, client: Client, tmp_path: Path
) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, mode in ((first, 0o644), (second, 0o755)):
        folder.mkdir()
        (folder / "tool").write_text('echo "$0 $1"\n')  # no #! line: a script for the shell
        (folder / "tool").chmod(mode)
    environment = daemon.environment()
    environment["PATH"] = f"{first}:{second}:{environment['PATH']}"
    done = ran(daemon, "run", "db", "--", "tool", "x", env=environment)
    assert done == (0, f"{second}/tool x\n", "")


# ---- The line


def test_first_come_first_served(daemon: RunningDaemon, client: Client, tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = f"echo $0 >> {order}"
    with contextlib.ExitStack() as stack:
        with client.acquire("db", 2):
            processes: list[subprocess.Popen[str]] = []
            for number in range(3):
                arguments = ["run", "-n2", "db", "--", "sh", "-c", script, str(number)]
                processes.append(stack.enter_context(start(daemon, *arguments)))
                wait_until(lambda: client.read_limit("db").waiting == len(processes))
        for process in processes:
            assert process.wait(PATIENCE_SECONDS) == 0
    assert order.read_text().split() == ["0", "1", "2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_while_it_waits_ends_it_and_leaves_the_line(
    daemon: RunningDaemon, client: Client, number: signal.Signals
) -> None:
    with (
        client.acquire("db", 2),
        start(daemon, "run", "db", "--", "echo", "ran", stdout=PIPE, stderr=PIPE) as process,
    ):
        wait_until(lambda: client.read_limit("db").waiting == 1)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, out, err) == (-number, "", "")
        wait_until(lambda: client.read_limit("db").waiting == 0)


def test_ctrl_c_at_a_terminal_while_it_waits(daemon: RunningDaemon, client: Client) -> None:
    with client.acquire("db", 2), Terminal(daemon, "run", "db", "--", "echo", "ran") as screen:
        screen.read_until("atmost: waiting for 'db': number 1 in line; held by pid ")
        screen.type("\x03")
        assert screen.end() == -signal.SIGINT
        wait_until(lambda: client.read_limit("db").waiting == 0)
        assert "Traceback" not in screen.text
        assert "ran" not in screen.text


def test_a_shell_sees_130_after_ctrl_c(daemon: RunningDaemon, client: Client) -> None:
    shell = ["sh", "-c", '"$@"; echo $?', "sh", *COMMAND]
    with (
        client.acquire("db", 2),
        start(
            daemon, "run", "db", "--", "true", command=shell, stdout=PIPE, stderr=PIPE
        ) as process,
    ):
        wait_until(lambda: client.read_limit("db").waiting == 1)
        waiting = client.list_tickets("db")[-1]
        os.kill(waiting.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (out, err) == ("130\n", "")


# ---- What it says


def test_a_limit_that_nobody_created_is_said_to_guard_nothing(
    daemon: RunningDaemon, client: Client
) -> None:
    code, out, err = run(daemon, "new", "--", "echo", "ran")
    assert (code, out) == (0, "ran\n")
    assert err.startswith(
        "atmost: limit 'new' was never created, so nothing is enforced; set it up"
    )
    assert "atmost update new --limit N --enable" in err
    assert run(daemon, "-q", "new", "--", "echo", "ran") == (0, "ran\n", "")
    assert "(for several slots, write: -n db=2)" in run(daemon, "db=2", "--", "true").err
    client.create_limit("off", 1, active=False)
    assert run(daemon, "off", "--", "true").err == ""


def test_the_terminal_is_the_commands_own(daemon: RunningDaemon, client: Client) -> None:
    script = "test -t 0 && stty -g > /dev/null && read x && echo got $x"
    with Terminal(daemon, "run", "db", "--", "sh", "-c", script) as screen:
        wait_until(lambda: held(client) == 1)
        screen.type("it\n")
        assert screen.end() == 0
        assert screen.text == "it\ngot it\n"
    with Terminal(daemon, "run", "db", "--", "sleep", "60") as screen:
        pid = screen.process.pid
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        screen.type("\x03")
        assert screen.end() == -signal.SIGINT
    wait_until(lambda: nobody_is_there(client))


def test_a_program_that_runs_the_command_keeps_its_ctrl_c(
    daemon: RunningDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the command could not be started, and this process goes on."""
    before = signal.getsignal(signal.SIGINT)
    with client.concurrency("db", occupy=2):
        run = client_of(daemon, capsys)("run", "--no-wait", "db", "--", "true")
    assert run.code == 124
    assert signal.getsignal(signal.SIGINT) is before
