"""apply, export, templates: limits as a file declares them."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator

from atmost import wire
from atmost.cli import output
from atmost.cli.output import Column
from atmost.cli.parser import Command, Parser, json_option, wrong
from atmost.errors import ConfigInvalid, InvalidValue, LimitsChanged
from atmost.rates import rate_text, slots_per_second
from atmost.sync import Client
from atmost.wire import Change, Declaration, TemplateDeclaration

EXIT_NOT_APPLIED = 1
TRIES_MAX = 5  # others may change limits again and again, but a person wants to know
PART_BYTES_MAX = wire.FRAME_BYTES_MAX - 1024  # what is around the declarations of a part takes less
STDIN = "-"

_COLUMNS = (
    Column("MATCH", shrinks=True),
    Column("LIMIT", right=True),
    Column("RATE", right=True),
    Column("FROM"),
)
_TEMPLATE_FIELDS = wire.TemplateRecord.__struct_fields__


def apply(given: Namespace) -> int:
    """Make limits and templates what a file says, all or nothing."""
    try:
        limits, templates = _declared(given.file)
    except ConfigInvalid as error:
        for mistake in error.mistakes:
            output.talk(f"{error.path}: {mistake}")
        output.talk(f"nothing was applied: mend {error.path} and try again")
        return EXIT_NOT_APPLIED
    with Client(given.socket) as client:
        changes = _applied(client, limits, templates, given)
    if given.json:
        output.write_json([_change_fields(change) for change in changes])
    else:
        output.write_text("".join(_line(change) + "\n" for change in changes))
    output.talk(_summary(changes, given.dry_run))
    return 0


def export(given: Namespace) -> int:
    """Write what apply reads."""
    with Client(given.socket) as client:
        limits = [one for one in client.list_limits() if one.origin not in ("implicit", "template")]
        found = _templates(client)
    tables = [
        _table("template", "match", row.match, row.limit, row.slot_decay_per_second)
        for row in found
    ]
    tables += [
        _table("limit", "name", one.name, one.limit, one.slot_decay_per_second)
        + ("" if one.active else "active = false\n")
        for one in limits
    ]
    output.write_text("\n".join(tables), encoding="utf-8")
    return 0


def templates(given: Namespace) -> int:
    """The templates, in their order."""
    with Client(given.socket) as client:
        found = _templates(client)
    rows = [{name: getattr(row, name) for name in _TEMPLATE_FIELDS} for row in found]
    if given.json:
        output.write_json(rows)
    elif not output.on_terminal():
        output.write_lines(row.values() for row in rows)
    elif found:
        output.write_table(
            _COLUMNS,
            [
                [
                    row.match,
                    str(row.limit),
                    rate_text(row.slot_decay_per_second),
                    f"{row.origin}, changed" if row.declared else row.origin,
                ]
                for row in found
            ],
        )
    else:
        output.talk(
            "there are no templates; declare one as [[template]] in a file for: atmost apply"
        )
    return 0


# The file


def _declared(path: str) -> tuple[list[Declaration], list[TemplateDeclaration]]:
    """What the file declares. Raises ConfigInvalid."""
    from atmost import declarations

    if path == STDIN:
        path = "stdin"
        if sys.stdin is None:
            raise ConfigInvalid(path, ["cannot read it: it is closed"])
        data = sys.stdin.buffer.read(declarations.FILE_BYTES_MAX + 1)
    else:
        data = declarations.read_file(path, wait=True)
    reader = declarations.Reader(path, data)
    found = declarations.limits_of(reader), declarations.templates_of(reader)
    reader.end()
    others = [f"[{name}]" for name in reader.names if name not in ("limit", "template")]
    if others:
        output.talk(f"{path}: {', '.join(others)} left out: only atmostd reads that")
    return found


# The daemon


def _applied(
    client: Client,
    limits: list[Declaration],
    templates: list[TemplateDeclaration],
    given: Namespace,
) -> list[Change]:
    """What was changed, or would be."""
    for last in [*[False] * (TRIES_MAX - 1), True]:
        try:
            _upload(client, limits, templates)
            changes, version = _changes(client, given.prune)
            if changes and not given.dry_run:
                client._ask(wire.Commit, given.prune, version)
            return changes
        except LimitsChanged:
            if last:
                raise
        except InvalidValue as error:
            if last or error.field != "draft":  # else the daemon was restarted meanwhile
                raise
    raise AssertionError("the last try returns or raises")


def _upload(
    client: Client, limits: list[Declaration], templates: list[TemplateDeclaration]
) -> None:
    begin = True
    for part in _parts([*limits, *templates]):
        of_limits = [one for one in part if isinstance(one, Declaration)]
        of_templates = [one for one in part if isinstance(one, TemplateDeclaration)]
        client._ask(wire.Draft, of_limits, of_templates, begin)
        begin = False


def _parts(
    declared: list[Declaration | TemplateDeclaration],
) -> Iterator[list[Declaration | TemplateDeclaration]]:
    """As much as a frame takes, again and again; at least one part."""
    part: list[Declaration | TemplateDeclaration] = []
    left = PART_BYTES_MAX
    for one in declared:
        size = wire.encoded_bytes(one)
        if size > left:
            yield part
            part, left = [], PART_BYTES_MAX
        part.append(one)
        left -= size
    yield part


def _changes(client: Client, prune: bool) -> tuple[list[Change], int]:
    """All that a Commit would do, and the version for it. Raises LimitsChanged."""
    found: list[Change] = []
    version = 0
    more = True
    while more:
        page = client._ask(wire.ListChanges, prune, len(found))
        assert isinstance(page, wire.Changes)
        if found and page.version != version:
            raise LimitsChanged
        version, more = page.version, page.more
        found += page.changes
    return found, version


def _templates(client: Client) -> list[wire.TemplateRecord]:
    found: list[wire.TemplateRecord] = []
    more = True
    while more:
        page = client._ask(wire.ListTemplates, len(found))
        assert isinstance(page, wire.Templates)
        more = page.more
        found += page.templates
    return found


# What a person sees


def _sign(change: Change) -> str:
    return "+" if change.was is None else "-" if change.becomes is None else "~"


def _line(change: Change) -> str:
    name = f"template {change.name}" if change.kind == "template" else change.name
    line = f"{_sign(change)} {output.shown(name)}"
    details = ", ".join(_details(change))
    return f"{line}: {details}" if details else line


def _details(change: Change) -> Iterator[str]:
    was, becomes = change.was, change.becomes
    if becomes is None:
        return
    if was is None:
        yield f"limit {becomes.limit}"
        if becomes.slot_decay_per_second:
            yield rate_text(becomes.slot_decay_per_second)
        if change.kind == "limit":
            yield _state(becomes)
        return
    if was.limit != becomes.limit:
        yield f"limit {was.limit} -> {becomes.limit}"
    if was.slot_decay_per_second != becomes.slot_decay_per_second:
        yield f"rate {_rate(was)} -> {_rate(becomes)}"
    if was.active != becomes.active:
        yield f"{_state(was)} -> {_state(becomes)}"
    if change.place:
        yield f"moved to place {change.place}"
    elif was == becomes:
        yield "made by a request, now declared"


def _rate(declared: Declaration) -> str:
    return rate_text(declared.slot_decay_per_second).replace("-", "none", 1)


def _state(declared: Declaration) -> str:
    return "active" if declared.active else "inactive"


def _summary(changes: list[Change], dry_run: bool) -> str:
    if not changes:
        return "nothing to change: all is as the file says"
    signs = [_sign(change) for change in changes]
    counts = f"{signs.count('+')} new, {signs.count('~')} changed, {signs.count('-')} deleted"
    return f"{counts}; nothing was done (--dry-run)" if dry_run else counts


def _change_fields(change: Change) -> dict[str, object]:
    return {
        "change": _sign(change),
        "kind": change.kind,
        "name": change.name,
        "was": _declaration_fields(change.was),
        "becomes": _declaration_fields(change.becomes),
        "place": change.place,
    }


def _declaration_fields(declared: Declaration | None) -> dict[str, object] | None:
    """An array on the wire, an object for a program."""
    if declared is None:
        return None
    return {name: getattr(declared, name) for name in declared.__struct_fields__[1:]}


def _table(section: str, key: str, name: str, limit: int, rate: float) -> str:
    """One [[limit]] or [[template]] of a file."""
    import msgspec

    # A string of JSON is one of TOML, for all that a name may have.
    quoted = msgspec.json.encode(name).decode()
    text = f"[[{section}]]\n{key} = {quoted}\nlimit = {limit}\n"
    if rate:
        said = rate_text(rate)
        exact = slots_per_second(said) == rate
        text += f'rate = "{said}"\n' if exact else f"slot_decay_per_second = {rate!r}\n"
    return text


# Arguments


def _apply_options(of: Parser) -> None:
    of.add_argument(
        "-f", "--file", metavar="FILE", type=_file, required=True, help="a file; -: stdin"
    )
    of.add_argument("--dry-run", action="store_true", help="say what would change, change nothing")
    of.add_argument(
        "--prune", action="store_true", help="delete limits and templates that FILE does not have"
    )
    json_option(of)


def _file(text: str) -> str:
    if not text or "\0" in text:
        raise wrong(text, "the path of a file, or - for stdin")
    return text


COMMANDS = {
    "apply": Command(
        "-f FILE [--dry-run] [--prune] [--json]",
        """\
Make limits and templates what FILE says, all in one step or nothing. What changes is written, a
line for each:

  + api: limit 10, 100/min, active            new
  ~ database: limit 5 -> 7                    changed; who fits then goes
  - old                                       deleted, with --prune only

FILE is written as the daemon's own: [[limit]] and [[template]]; other sections are left out. Limits
that requests have made are never pruned. `atmost export` writes such a file.

--json writes a list of objects with change (+ ~ -), kind (limit or template), name, was, becomes
(objects with limit, slot_decay_per_second, active; or null), and place (of a template that moves).

Exit code: 0 it is so, also if nothing had to change; 1 nothing was applied, and stderr says why,
with each mistake of FILE; 2 wrong arguments.""",
        _apply_options,
        apply,
        failure=EXIT_NOT_APPLIED,
    ),
    "export": Command(
        "",
        "Write limits and templates as `atmost apply -f` reads them. Limits that requests have made,\n"
        "by a template or because they were missing, are left out: they are made again.",
        lambda _: None,
        export,
    ),
    "templates": Command(
        "[--json]",
        "List the templates in their order: the first that matches a name counts.\n\n"
        "A table on a terminal. Elsewhere a line for each, fields separated by tabs, no header, - for\n"
        "none:\n  "
        + "\n  ".join(_TEMPLATE_FIELDS)
        + "\n--json has the same fields by name, in a list.",
        json_option,
        templates,
    ),
}
