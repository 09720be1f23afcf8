"""What `atmost top` shows: from the state of its eyes and what the daemon says to lines. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from atmost.cli.output import shown, width_of
from atmost.cli.words import duration
from atmost.wire import LimitStatistics, TicketRecord

NAME_COLUMNS_MIN = 6
NAME_CHARS_MAX = 200  # no name is longer
BOLD, DIM, REVERSE, RED, YELLOW = "1", "2", "7", "31", "33"

HELP = [
    "q           quit (or back)",
    "s           sort by the next column",
    "p or space  pause, go on",
    "up down j k pick a limit",
    "enter       who holds it, who waits",
    "/           show names with these words",
    "escape      back, all names",
    "h           this",
]


class Row(NamedTuple):
    """A limit, and how many grants a second it had since the last look."""

    limit: LimitStatistics
    grants_per_second: float


class _Column(NamedTuple):
    header: str
    width: int
    text: Callable[[Row], str]


_COLUMNS = [
    _Column("USED", 9, lambda row: f"{_used(row):.0f}/{row.limit.limit}"),
    _Column("WAITING", 7, lambda row: str(row.limit.waiting or "-")),
    _Column(
        "OLDEST",
        8,
        lambda row: duration(row.limit.oldest_wait_seconds) if row.limit.waiting else "-",
    ),
    _Column("GRANTS/S", 8, lambda row: f"{row.grants_per_second:.1f}".removesuffix(".0")),
    _Column("SPENT", 7, lambda row: f"{row.limit.spent:.1f}".removesuffix(".0") or "-"),
    _Column("STATE", 8, lambda row: "active" if row.limit.active else "inactive"),
]

SORTS: list[tuple[str, Callable[[Row], object]]] = [
    ("waiting", lambda row: (-row.limit.waiting, -_used(row), row.limit.name)),
    ("used", lambda row: (-_used(row), row.limit.name)),
    ("oldest", lambda row: (-row.limit.oldest_wait_seconds, row.limit.name)),
    ("grants/s", lambda row: (-row.grants_per_second, row.limit.name)),
    ("name", lambda row: row.limit.name),
]


class View(Struct):
    """What the person has chosen, and what was last heard."""

    rows: list[Row] = []
    tickets: list[TicketRecord] = []  # of the limit that is looked into
    trouble: str = ""  # why what is shown is old
    sort: int = 0
    picked: str = ""  # a limit's name
    inside: bool = False  # looking into it
    paused: bool = False
    helping: bool = False
    words: str = ""  # names with these
    typing: bool = False  # the words
    first: int = 0  # the line at the top
    colours: bool = True

    def colour(self, style: str) -> str:
        """That, if there are to be any."""
        return style if self.colours else ""

    def press(self, key: str) -> bool:
        """A key was typed. Returns whether to go on."""
        if key == "end of input":
            return False
        if self.typing:
            self._type(key)
        elif self.helping:
            self.helping = False
        elif key == "q" and not self.inside:
            return False
        elif key in ("q", "escape", "back") and self.inside:
            self.inside = False
        elif key == "escape":
            self.words = ""
        elif key == "s":
            self.sort = (self.sort + 1) % len(SORTS)
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key in ("h", "?"):
            self.helping = True
        elif key == "/":
            self.typing, self.inside = True, False
        elif key == "enter":
            self.inside, self.tickets = bool(self.picked), []
        else:
            self._move(key)
        return True

    def _type(self, key: str) -> None:
        if key == "escape":
            self.typing, self.words = False, ""
        elif key == "enter":
            self.typing = False
        elif key == "back":
            self.words = self.words[:-1]
        elif len(key) == 1 and len(self.words) < NAME_CHARS_MAX:
            self.words += key

    def _move(self, key: str) -> None:
        names = [row.limit.name for row in self.shown_rows()]
        step = {"down": 1, "j": 1, "up": -1, "k": -1, "page down": 10, "page up": -10}.get(key, 0)
        if key in ("home", "end"):
            step = len(names) * (1 if key == "end" else -1)
        if names and step:
            at = names.index(self.picked) if self.picked in names else -1 if step > 0 else 0
            self.picked = names[max(0, min(len(names) - 1, at + step))]

    def shown_rows(self) -> list[Row]:
        """The limits in their order, without those that were not asked for."""
        words = self.words.lower()
        rows = [row for row in self.rows if words in row.limit.name.lower()]
        return sorted(rows, key=SORTS[self.sort][1])  # type: ignore[arg-type]


def lines_of(view: View, columns: int, rows: int) -> list[str]:
    """The screen: at most so many lines, none wider."""
    body = max(0, rows - 2)
    if view.helping:
        content = [_cut(line, columns) for line in HELP]
        header = ""
    elif view.inside:
        header, content = _tickets(view, columns)
        content = content[:body]
    else:
        header, content = _limits(view, columns, body)
    lines = [_title(view, columns), _paint(_cut(header, columns), BOLD), *content]
    return lines[:rows]


def _title(view: View, columns: int) -> str:
    if view.trouble:
        return _paint(_cut(f"daemon away: {shown(view.trouble)}", columns), view.colour(RED))
    held = sum(row.limit.held for row in view.rows)
    waiting = sum(row.limit.waiting for row in view.rows)
    count = len(view.rows)
    said = [f"{count} limit{'' if count == 1 else 's'}, {held} held, {waiting} waiting"]
    if view.paused:
        said.insert(0, "PAUSED")
    if view.typing or view.words:
        said.insert(0, f"/{view.words}{'_' if view.typing else ''}")
    said.append(f"by {SORTS[view.sort][0]}")
    return _paint(_cut("  ".join([*said, "h: help"]), columns), BOLD)


def _limits(view: View, columns: int, body: int) -> tuple[str, list[str]]:
    rows = view.shown_rows()
    fitting = list(_COLUMNS)
    while fitting and columns - sum(c.width + 1 for c in fitting) < NAME_COLUMNS_MIN:
        fitting.pop()
    room = columns - sum(column.width + 1 for column in fitting)
    header = _fit("NAME", room) + "".join(f" {_right(c.header, c.width)}" for c in fitting)
    names = [row.limit.name for row in rows]
    at = names.index(view.picked) if view.picked in names else 0
    view.first = max(0, min(view.first, at, max(0, len(rows) - body)))
    if body and at >= view.first + body:
        view.first = at - body + 1
    lines = []
    for row in rows[view.first : view.first + body]:
        line = _fit(shown(row.limit.name), room)
        line += "".join(f" {_right(column.text(row), column.width)}" for column in fitting)
        lines.append(_paint(line, _style(row, view)))
    return header, lines or [_cut("no limits" if not view.words else "no such limits", columns)]


def _style(row: Row, view: View) -> str:
    if row.limit.name == view.picked:
        return REVERSE
    if view.trouble or not row.limit.active:
        return DIM
    return view.colour(YELLOW) if row.limit.waiting else ""


def _tickets(view: View, columns: int) -> tuple[str, list[str]]:
    header = f"{shown(view.picked)}: who holds, who waits"
    lines = []
    for ticket in view.tickets:
        place = "held" if ticket.place is None else f"#{ticket.place}"
        text = (
            f"{place:>6} {ticket.slots:>3} {duration(ticket.age_seconds):>8} "
            f"pid {ticket.pid} {shown(ticket.user)} {shown(ticket.command)}"
        )
        lines.append(_paint(_cut(text, columns), view.colour(YELLOW) if ticket.place else ""))
    return header, lines or [_cut("nobody", columns)]


def _used(row: Row) -> float:
    return row.limit.held + row.limit.spent


def _cut(text: str, columns: int) -> str:
    if width_of(text) <= columns:
        return text
    while text and width_of(text) >= columns:
        text = text[:-1]
    return text + "…" if columns else ""


def _fit(text: str, columns: int) -> str:
    text = _cut(text, columns)
    return text + " " * (columns - width_of(text))


def _right(text: str, columns: int) -> str:
    text = _cut(text, columns)
    return " " * (columns - width_of(text)) + text


def _paint(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style else text
