"""Limits and templates as a file declares them: bytes of TOML become values, or every mistake at once.

Both sides read such files: the daemon its configuration, `atmost apply` what it is given.

Rule 1: a file with one mistake gives nothing. Each mistake says where it is (the line, if that is
known, and the key), what stands there and what was expected.
Rule 2: no file is touched here but by read_file(), which takes no more than FILE_BYTES_MAX.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from typing import Any, TypeVar

from atmost import values
from atmost.errors import ConfigInvalid, InvalidValue
from atmost.rates import RATE_WORDS, slots_per_second
from atmost.wire import Declaration, TemplateDeclaration

FILE_BYTES_MAX = 8 * 1024 * 1024  # 100,000 limits; what is longer is another file
MISTAKES_MAX = 100  # more are counted: they have to fit a frame, and a reader
TEMPLATES_MAX = 1_000  # each name that has no limit is compared with all of them
VALUE_CHARS_MAX = 60  # of a wrong value, quoted
SECTIONS = ("socket", "admin", "state", "bounds", "log", "daemon", "limit", "template")

_LIMIT_KEYS = ("name", "limit", "rate", "slot_decay_per_second", "active")
_TEMPLATE_KEYS = ("match", "limit", "rate", "slot_decay_per_second")
_ALIKE_MIN = 0.6  # a name less alike than that was not meant
_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_-]+)\s*\]\]?\s*(#.*)?")
_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")

T = TypeVar("T")


def read_file(path: str, wait: bool = False) -> bytes:
    """The bytes of a file. Raises ConfigInvalid: it can't be read, or is too long. A pipe is read to its
    end if there is time to `wait` for it, and else refused: what it has by now may be the half."""
    try:
        with open(path, "rb", opener=None if wait else _not_blocking) as file:
            if not wait and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise ConfigInvalid(path, ["cannot read it: it is a pipe: expected a file"])
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigInvalid(path, [f"cannot read it: {error.strerror or error}"]) from error
    check_length(path, data)
    return data


def check_length(path: str, data: bytes) -> None:
    """Raises ConfigInvalid if the file is longer than any that is read."""
    if len(data) > FILE_BYTES_MAX:
        raise ConfigInvalid(
            path,
            [
                f"it has more than {FILE_BYTES_MAX // (1024 * 1024)} MiB, which is no "
                "configuration: expected less"
            ],
        )


class Reader:
    """A file in the reading: hands out its sections, and collects the mistakes."""

    def __init__(self, path: str, data: bytes) -> None:
        """Raises ConfigInvalid if the bytes are no TOML: then no other mistake can be told."""
        self.path = path
        self.mistakes: list[str] = []
        self._count = 0
        self._lines: dict[tuple[str, int, str], int] | None = None
        self._text, self._tables = _parsed(path, data)
        for section in self._tables:
            if section not in SECTIONS:
                self.wrong(section, 0, "", _unknown("section", section, SECTIONS))

    @property
    def names(self) -> list[str]:
        """Of the sections that the file has."""
        return list(self._tables)

    def section(self, name: str) -> Table:
        """The section of that name; an empty one if the file has none."""
        found = self._tables.get(name, {})
        if not isinstance(found, dict):
            self.wrong(name, 0, "", f"[{name}] is no section: expected [{name}] and keys below it")
            found = {}
        return Table(self, name, 0, found)

    def tables(self, name: str) -> Iterable[Table]:
        """All of [[name]], in their order."""
        found = self._tables.get(name, [])
        if not isinstance(found, list):
            expected = f"expected [[{name}]], with two brackets, once for each"
            self.wrong(name, 0, "", f"[{name}]: {expected}")
            return
        for index, fields in enumerate(found):
            if isinstance(fields, dict):
                yield Table(self, name, index, fields)
            else:
                self.wrong(name, index, "", f"{name}: {_quoted(fields)} is no [[{name}]]")

    def wrong(self, section: str, index: int, key: str, text: str) -> None:
        """Note a mistake."""
        self._count += 1
        if len(self.mistakes) < MISTAKES_MAX:
            line = self.line(section, index, key)
            self.mistakes.append(f"line {line}: {text}" if line else text)

    def line(self, section: str, index: int, key: str = "") -> int | None:
        """The line of a key, or of its section; None if that is not known."""
        if self._lines is None:
            self._lines = _lines_of(self._text, self._tables)
        return self._lines.get((section, index, key)) or self._lines.get((section, index, ""))

    def end(self) -> None:
        """Raises ConfigInvalid if there was any mistake."""
        if self.mistakes:
            more = self._count - len(self.mistakes)
            told = [*self.mistakes, f"and {more} more mistakes"] if more else self.mistakes
            raise ConfigInvalid(self.path, told)


class Table:
    """One section, or one of several that have the same name."""

    def __init__(self, reader: Reader, name: str, index: int, fields: dict[str, Any]) -> None:
        self._reader = reader
        self._name = name
        self._index = index
        self._fields = fields

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def expect(self, keys: Sequence[str]) -> None:
        """Every other key is a mistake."""
        for key in self._fields:
            if key not in keys:
                self.wrong(key, _unknown("key", key, keys))

    def take(self, key: str, check: Callable[[Any], T], default: T) -> T:
        """The value of a key as `check` returns it, which raises InvalidValue; else the default."""
        return self.need(key, check, default) if key in self._fields else default

    def need(self, key: str, check: Callable[[Any], T], default: T) -> T:
        """The same; that it is not there is a mistake."""
        value = self._fields.get(key)
        try:
            return check(value)
        except InvalidValue as error:
            if key in self._fields:
                self.wrong(key, f"{key} = {_quoted(value)}: expected {error.expected}")
            else:
                self.wrong("", f"{key} is missing: expected {error.expected}")
        return default

    def wrong(self, key: str, text: str) -> None:
        """Note a mistake at a key."""
        self._reader.wrong(self._name, self._index, key, f"{self.title}: {text}")

    def line(self) -> int | None:
        return self._reader.line(self._name, self._index)

    @property
    def title(self) -> str:
        """How a mistake calls it."""
        called = self._fields.get("name", self._fields.get("match"))
        if self._name not in ("limit", "template"):
            return f"[{self._name}]"
        return f"[[{self._name}]] " + (
            _quoted(called) if called is not None else f"number {self._index + 1}"
        )


def limits_of(reader: Reader) -> list[Declaration]:
    """All [[limit]], in their order."""
    found: list[Declaration] = []
    lines: dict[str, Table] = {}
    for table in reader.tables("limit"):
        table.expect(_LIMIT_KEYS)
        name = table.need("name", values.check_name, "")
        if name in lines:
            table.wrong("name", f"this name was declared already{_at_line(lines[name])}")
        elif name:
            lines[name] = table
        found.append(
            Declaration(
                name,
                table.need("limit", values.check_limit, 0),
                _rate(table),
                table.take("active", _check_active, True),
            )
        )
    return found


def templates_of(reader: Reader) -> list[TemplateDeclaration]:
    """All [[template]], in their order: the first that matches a name counts."""
    found: list[TemplateDeclaration] = []
    lines: dict[str, Table] = {}
    for table in reader.tables("template"):
        table.expect(_TEMPLATE_KEYS)
        match = table.need("match", check_match, "")
        if match in lines:
            table.wrong("match", f"this pattern was declared already{_at_line(lines[match])}")
        elif match:
            lines[match] = table
        limit = table.need("limit", values.check_limit, 0)
        found.append(TemplateDeclaration(match, limit, _rate(table)))
    if len(found) > TEMPLATES_MAX:
        reader.wrong("template", 0, "", f"{len(found)} templates: expected at most {TEMPLATES_MAX}")
    return found


def check_match(match: Any) -> str:
    """A template's pattern, as a shell has it: * ? [abc]. Raises InvalidValue."""
    expected = "a pattern of names, such as user-*: 1 to 200 characters that a name may have"
    try:
        values.check_name(match, "match")
    except InvalidValue as error:
        raise InvalidValue("match", error.value, expected) from None
    text: str = match
    if translate(text).count(r"\[") > text.count("[[]"):
        raise InvalidValue("match", text, "a ] behind [; a [ that is meant so is written [[]")
    try:
        re.compile(translate(text))
    except re.error:
        raise InvalidValue("match", text, expected) from None
    return text


def _rate(table: Table) -> float:
    if "rate" in table and "slot_decay_per_second" in table:
        table.wrong("rate", "rate and slot_decay_per_second say the same: expected one of them")
    if "rate" in table:
        return table.take("rate", _check_rate, 0.0)
    return table.take("slot_decay_per_second", values.check_decay, 0.0)


def _check_rate(rate: Any) -> float:
    slots = slots_per_second(rate) if isinstance(rate, str) else None
    if slots is None:
        raise InvalidValue("rate", repr(rate), RATE_WORDS)
    return values.check_decay(slots)


def _check_active(active: Any) -> bool:
    if isinstance(active, bool):
        return active
    raise InvalidValue("active", repr(active), "true or false")


def _at_line(table: Table) -> str:
    line = table.line()
    return f" in line {line}: expected each once" if line else ": expected each once"


def _not_blocking(path: str, flags: int) -> int:
    """A pipe that nobody writes to must not keep a daemon from its clients."""
    return os.open(path, flags | os.O_NONBLOCK)


def _parsed(path: str, data: bytes) -> tuple[str, dict[str, Any]]:
    check_length(path, data)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigInvalid(
            path, [f"line {line}: byte {error.start} is no UTF-8: expected text"]
        ) from error
    try:
        return text, tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ConfigInvalid(path, [f"it is no TOML: {reason}"]) from error


def _lines_of(text: str, tables: dict[str, Any]) -> dict[tuple[str, int, str], int]:
    """Where sections and keys stand. TOML's reader doesn't tell, so this looks for them; a section
    that it would count wrongly, because it is written in another way, it says nothing about."""
    found: dict[tuple[str, int, str], int] = {}
    counts: dict[str, int] = {}
    section, index = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.fullmatch(line):
            section = header[2]
            index = counts.get(section, 0) if header[1] == "[[" else 0
            counts[section] = index + 1
            found.setdefault((section, index, ""), number)
        elif key := _KEY.match(line):
            found.setdefault((section, index, key[1]) if section else (key[1], 0, ""), number)
    return {
        where: number
        for where, number in found.items()
        if not isinstance(tables.get(where[0]), list)
        or counts.get(where[0]) == len(tables[where[0]])
    }


def _unknown(what: str, name: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, names, 1, _ALIKE_MIN)
    hint = f"did you mean {near[0]}?" if near else "expected one of " + ", ".join(names)
    return f"there is no {what} {_quoted(name)}: {hint}"


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "..."
