"""`atmost top`, on a terminal and its parts without one."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
from typing import Any

import pytest

from atmost import wire
from atmost.cli.keys import Keys
from atmost.cli.output import width_of
from atmost.cli.topview import Row, View, lines_of
from atmost.sync import Client
from tests.support import RunningDaemon, wait_until
from tests.support_cli import Terminal, ran

LEFT = "\x1b[?1049l"


def limit(name: str, held: int = 0, waiting: int = 0) -> wire.LimitStatistics:
    empty: Any = []
    return wire.LimitStatistics(
        *(name, 5, True, False, held, 0.5, waiting, 3.0 * waiting, 5, 4, {}, 1, 1, 1),
        *(1.5, empty, 2.5, empty, 0.5),
    )


def resize(terminal: Terminal, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal._ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


# What is shown


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 80, 200])
@pytest.mark.parametrize("rows", [1, 2, 3, 24])
def test_no_line_is_wider_and_not_more_are_there(columns: int, rows: int) -> None:
    names = ["x" * 200, "größe 🐘" * 20, "a\u202eb", "db"]
    view = View(rows=[Row(limit(name, 1, n), 12345.6) for n, name in enumerate(names)])
    ticket = wire.TicketRecord("db", "held", 1, 17, "ada", "🐘" * 99, 12.5, None, 1)
    views = [view, View(helping=True), View(trouble="x" * 300), View(words="y", typing=True)]
    views.append(View(rows=view.rows, picked="db", inside=True, tickets=[ticket] * 50))
    for one in views:
        lines = lines_of(one, columns, rows)
        assert len(lines) <= rows
        for line in lines:
            assert width_of(plain(line)) <= columns
            assert plain(line).isprintable()


def test_at_twenty_columns_the_name_and_the_use_are_there() -> None:
    lines = lines_of(View(rows=[Row(limit("database", 3), 0)]), 20, 5)
    assert plain(lines[2]).split() == ["database", "4/5"]


def test_sorting_picking_and_searching() -> None:
    view = View(rows=[Row(limit("b", 1), 0), Row(limit("a", 3), 9), Row(limit("c", 0, 2), 0)])

    def names() -> list[str]:
        return [row.limit.name for row in view.shown_rows()]

    assert names() == ["c", "a", "b"]
    for order in (["a", "b", "c"], ["c", "a", "b"], ["a", "b", "c"], ["a", "b", "c"]):
        view.press("s")
        assert names() == order
    for key, picked in (("down", "a"), ("j", "b"), ("j", "c"), ("j", "c"), ("up", "b")):
        view.press(key)
        assert view.picked == picked
    for key in ("/", "C", "x", "back", "enter"):
        assert view.press(key)
    assert names() == ["c"]
    view.press("escape")
    assert len(names()) == 3
    view.press("enter")
    assert view.inside
    assert view.press("q")
    assert not view.inside
    assert not view.press("q")


def test_the_picked_one_stays_in_sight() -> None:
    view = View(rows=[Row(limit(f"n{n:03}"), 0) for n in range(100)], sort=4)
    for key in (*["down"] * 40, *["up"] * 35, "end", "home"):
        view.press(key)
        assert any(view.picked in line for line in lines_of(view, 80, 10)[2:])


def test_who_looks_inside_while_paused_sees_nobody_elses() -> None:
    ticket = wire.TicketRecord("db", "held", 1, 17, "ada", "x", 12.5, None, 1)
    view = View(rows=[Row(limit("a"), 0)], picked="a", paused=True, tickets=[ticket])
    view.press("enter")
    assert "pid 17" not in "".join(lines_of(view, 80, 24))


def test_without_colours() -> None:
    view = View(rows=[Row(limit("a", 1, 1), 0)], colours=False)
    assert not re.search(r"\x1b\[3\dm", "".join(lines_of(view, 80, 24)))


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("jk", ["j", "k"]),
        ("\x1b[A\x1bOB\x1b[5~\x1b[1~\x1bOF", ["up", "down", "page up", "home", "end"]),
        ("\x1b[1;5A\x1b[3~\x1bOP\x1b[[A\x1b[<0;1;2Mq", ["q"]),  # of what we know nothing
        ("\x1bq\x1b[C", []),  # Alt and a key is not that key
        ("größe\r\x7f\x04", [*"größe", "enter", "back", "end of input"]),
        ("a\tb\0c\x01\u202e", ["a", "b", "c"]),
    ],
)
def test_keys_however_they_come(typed: str, keys: list[str]) -> None:
    """All at once, or byte for byte."""
    data = typed.encode()
    assert Keys().feed(data) == keys
    slow = Keys()
    assert [key for n in range(len(data)) for key in slow.feed(data[n : n + 1])] == keys
    assert slow.finish() == []


def test_the_escape_key_is_what_does_not_go_on() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.unfinished
    assert keys.finish() == ["escape"]
    assert keys.feed(b"\x1b[1;") == []
    assert keys.finish() == []
    assert keys.feed(b"\x1b[" + b"1;" * 40)[-1:] == [";"]  # nor does anything wait for ever
    assert keys.feed(b"q") == ["q"]


# On a terminal


def test_a_person_looks_around(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("database", 1)
    client.create_limit("other", 7)
    grant = client.acquire("database")
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("database")
        assert "1/1" in terminal.text
        terminal.type("/data\r")
        terminal.read_until("/data")
        terminal.type("j\r")
        terminal.read_until("who holds, who waits")
        terminal.read_until(f"pid {os.getpid()}")
        terminal.type("qh")
        terminal.read_until("sort by the next column")
        terminal.type("xp")
        terminal.read_until("PAUSED")
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.text.endswith(LEFT + "\x1b[0m")
    grant.release()


def test_paused_it_does_nothing_but_wait(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("database", 1)
    grant = client.acquire("database")
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("database")
        terminal.type("p")
        terminal.read_until("PAUSED")
        began, frames = ticks(terminal), terminal.text.count("\x1b[H")
        for n in range(3):  # each time somebody else's frame says that time has passed
            with Terminal(daemon, "top") as other:
                other.read_until("database")
                other.type("\x04")
                assert other.end() == 0, n
        assert terminal._read().count("\x1b[H") == frames
        assert ticks(terminal) - began <= 1
        terminal.type("j\r")  # but who holds is looked at
        terminal.read_until(f"pid {os.getpid()}")
        terminal.type("\x04")
        assert terminal.end() == 0
    grant.release()


def ticks(terminal: Terminal) -> int:
    """Of processor time that the command has had."""
    with open(f"/proc/{terminal.process.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_sequence_that_comes_in_pieces(daemon: RunningDaemon, client: Client) -> None:
    """Over a slow line. As the escape key, its beginning would forget the words."""
    for name in ("one", "two"):
        client.create_limit(name, 1)
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("one")
        terminal.type("/t\r")
        terminal.read_until("/t ")
        for piece in ("\x1b", "[", "B", "\r"):
            terminal.type(piece)
        terminal.read_until("two: who holds, who waits")
        terminal.type("\x1b")  # back
        seen = len(terminal.text)
        wait_until(lambda: "NAME" in terminal._read()[seen:], "the limits again")
        assert "/t" in terminal.text[seen:]
        terminal.type("q")
        assert terminal.end() == 0


def test_the_last_column_is_not_erased(daemon: RunningDaemon, client: Client) -> None:
    """What is erased behind it is the character in it."""
    client.create_limit("database", 1)
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("active")
        assert not re.search(r"(?<!\n)(?<!\x1b\[H)\x1b\[[JK]", terminal.text)
        terminal.type("q")
        assert terminal.end() == 0


def test_after_a_stop_that_nobody_could_prepare_for(daemon: RunningDaemon) -> None:
    """The shell has set its terminal as it likes it."""
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("no limits")
        terminal.process.send_signal(signal.SIGSTOP)
        mode = termios.tcgetattr(terminal._ours)
        mode[3] |= termios.ICANON | termios.ECHO
        termios.tcsetattr(terminal._ours, termios.TCSANOW, mode)
        seen = len(terminal.text)
        terminal.process.send_signal(signal.SIGCONT)
        wait_until(lambda: "\x1b[?1049h" in terminal._read()[seen:], "it takes the terminal again")
        assert not termios.tcgetattr(terminal._ours)[3] & termios.ICANON
        terminal.type("q")
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal._ours)[3] & termios.ICANON


def test_the_terminal_changes_its_size(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("database", 1)
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("GRANTS/S")
        seen = len(terminal.text)
        resize(terminal, 20, 5)
        wait_until(lambda: "NAME" in terminal._read()[seen:], "another frame")
        last = terminal.text[seen:].split("\x1b[H")[-1]
        wait_until(lambda: "GRANTS/S" not in terminal._read().split("\x1b[H")[-1])
        assert max(map(len, plain(last).split("\n"))) <= 80
        terminal.type("\x03")
        assert terminal.end() == -signal.SIGINT
        assert LEFT in terminal.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(
    daemon: RunningDaemon, number: int, code: int
) -> None:
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("no limits")
        before = termios.tcgetattr(terminal._ours)
        assert not before[3] & termios.ICANON
        terminal.process.send_signal(number)
        assert terminal.end() == code
        assert LEFT in terminal.text
        assert "Traceback" not in terminal.text
        assert termios.tcgetattr(terminal._ours)[3] & termios.ICANON


def test_stopped_and_in_the_foreground_again(daemon: RunningDaemon) -> None:
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("no limits")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.read_until(LEFT)
        # An orphaned session cannot be stopped by that (POSIX): it comes back at once. By a shell it
        # is stopped there, and goes on the same way.
        terminal.process.send_signal(signal.SIGCONT)
        seen = len(terminal.text)
        wait_until(lambda: "no limits" in terminal._read()[seen:], "it draws again")
        terminal.type("q")
        assert terminal.end() == 0


def test_the_daemon_goes_and_comes_back(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("database", 1)
    with Terminal(daemon, "top") as terminal:
        terminal.read_until("database")
        daemon.stop()
        terminal.read_until("daemon away")
        daemon.start()
        seen = len(terminal.text)
        wait_until(lambda: "1 limit, " in terminal._read()[seen:], "it is back")
        terminal.type("q")
        assert terminal.end() == 0


def test_without_a_terminal(daemon: RunningDaemon) -> None:
    ended = ran(daemon, "top", stdin=subprocess.DEVNULL)
    assert ended.code == 2
    assert "atmost watch" in ended.err
    assert ended.out == ""
    with Terminal(daemon, "top", TERM="dumb") as terminal:
        assert terminal.end() == 2


def test_without_a_daemon(daemon: RunningDaemon) -> None:
    daemon.stop()
    with Terminal(daemon, "top") as terminal:
        assert terminal.end() == 1
        assert "no atmost daemon" in terminal.text
        assert "\x1b[?1049h" not in terminal.text
