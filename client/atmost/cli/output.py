"""What people and programs get to see: tables on a terminal, tab-separated lines elsewhere, JSON.

Rule: text that others wrote passes through `shown`, whose result is one line and safe to print.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

COLUMNS_WITHOUT_A_WORD = 80  # of a terminal that doesn't know its own width
SHRUNK_COLUMNS_MIN = 12  # a name cut shorter than that says nothing
GAP = "  "

BOLD, DIM, RED, YELLOW = "1", "2", "31", "33"


class Column(NamedTuple):
    """A column of a table on a terminal."""

    header: str
    right: bool = False  # numbers
    shrinks: bool = False  # gives way when the terminal is narrow
    styles: Mapping[str, str] = {}  # cell -> colour


def talk(text: str) -> None:
    """Say a line on stderr."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"atmost: {shown(text)}", file=sys.stderr, flush=True)


def flush() -> None:
    """What was written is out, or this raises OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up() -> None:
    """Nothing can be written to stdout any more: the end of Python does not try either."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shown(text: str) -> str:
    """The text with every character escaped that is none to look at: control, direction, line ends."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def terminal_columns() -> int:
    """How wide stdout's terminal is; $COLUMNS has the first word."""
    with contextlib.suppress(KeyError, ValueError):
        if (columns := int(os.environ["COLUMNS"])) > 0:
            return columns
    with contextlib.suppress(OSError):
        if columns := os.get_terminal_size(1).columns:
            return columns
    return COLUMNS_WITHOUT_A_WORD


# Writing


def write_text(text: str, encoding: str | None = None) -> None:
    """The text as it is; a character that the locale cannot say, as its escape. Raises OSError."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, f"stdout: {os.strerror(errno.EBADF)}")
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    binary.write(text.encode(encoding or sys.stdout.encoding, "backslashreplace"))


def write_json(value: Any) -> None:
    """The value as JSON, in UTF-8 whatever the locale says."""
    import msgspec

    _write_encoded(msgspec.json.format(msgspec.json.encode(value), indent=2))


def write_json_line(value: Any) -> None:
    """The same, in one line."""
    import msgspec

    _write_encoded(msgspec.json.encode(value))


def _write_encoded(json: bytes) -> None:
    # C1 controls need no escape in JSON, but on a terminal they do.
    text = json.decode().translate({code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)})
    write_text(text + "\n", encoding="utf-8")


def fields_of(record: Any, but: Sequence[str] = ()) -> Any:
    """A message or record of the wire by the names of its fields: as such it is an array in JSON."""
    if isinstance(record, list):
        return [fields_of(one) for one in record]
    names = getattr(record, "__struct_fields__", None)
    if names is None:
        return record
    return {name: fields_of(getattr(record, name)) for name in names if name not in but}


def write_lines(records: Iterable[Iterable[Any]]) -> None:
    """A line for each record, its fields separated by tabs."""
    write_text("".join("\t".join(map(plain, record)) + "\n" for record in records))


def write_fields(fields: Mapping[str, Any], notes: Mapping[str, str]) -> None:
    """A line for each field of one record: aligned, and with notes, on a terminal."""
    if not on_terminal():
        write_lines(fields.items())
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        note = f" ({notes[name]})" if notes.get(name) else ""
        write_text(f"{_paint(name.ljust(width), BOLD)}{GAP}{plain(value)}{note}\n")


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns with a header, as wide as the terminal at most where that is possible."""
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [
        max([width_of(column.header), *(width_of(row[at]) for row in cells)])
        for at, column in enumerate(columns)
    ]
    _shrink(widths, columns, terminal_columns())
    header = [
        _fit(column, column.header, width) for column, width in zip(columns, widths, strict=True)
    ]
    lines = [_paint(GAP.join(header).rstrip(), BOLD)]
    lines += [
        GAP.join(
            _paint(_fit(column, cell, width), column.styles.get(cell, ""))
            for column, cell, width in zip(columns, row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    write_text("\n".join(lines) + "\n")


def plain(value: Any) -> str:
    """A field as a program reads it: never empty, never more than one word of the line."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value).removesuffix(".0")
        case _:
            return shown(str(value))


def width_of(text: str) -> int:
    """The columns that it takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _shrink(widths: list[int], columns: Sequence[Column], room: int) -> None:
    """Take what is too much from the last column that may shrink, then from those before it."""
    too_much = sum(widths) + len(GAP) * (len(widths) - 1) - room
    for at in reversed(range(len(columns))):
        if columns[at].shrinks and too_much > 0:
            taken = min(too_much, max(0, widths[at] - SHRUNK_COLUMNS_MIN))
            widths[at] -= taken
            too_much -= taken


def _fit(column: Column, cell: str, width: int) -> str:
    """The cell, cut or filled to the width."""
    if width_of(cell) > width:
        while width_of(cell) >= width:
            cell = cell[:-1]
        cell += "…"
    space = " " * (width - width_of(cell))
    return space + cell if column.right else cell + space


def _paint(text: str, style: str) -> str:
    if not style or not _colours():
        return text
    return f"\x1b[{style}m{text}\x1b[0m"


def _colours() -> bool:
    return on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
