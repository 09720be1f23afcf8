"""A run as README tells it: a table, the plots, what is met and what is not. Pure."""

from __future__ import annotations

from typing import Any

from bench.figures import number

BEGIN, END = "<!-- bench: begin (dev.py bench --told FILE --publish) -->", "<!-- bench: end -->"
HEADING = "## How fast"
BEFORE = "## Develop"  # where the section comes if there is none yet

Record = dict[str, Any]


def targets(record: Record) -> list[str]:
    """For people: each target, and whether it was met."""
    lines = ["Targets:"]
    for case, line, want in _wanted(record):
        met = "met    " if want["met"] else "NOT MET"
        lines.append(
            f"  {met} {case}: {line['contender']}: {want['what']}; it is {number(want['figure'])}"
        )
    return lines if len(lines) > 1 else ["No target was measured."]


def markdown(record: Record, plots: list[str] | None = None) -> str:
    """The section, with its heading."""
    parts = [HEADING, "", _how(record), "", *_table(record), "", _missed(record)]
    if plots:
        parts += ["", *(f"![{name}](bench/results/{name}.svg)" for name in plots)]
    return "\n".join(parts).rstrip() + "\n"


def with_section(readme: str, section: str) -> str:
    """README with this section in place of the one before."""
    told = f"{BEGIN}\n{section}{END}\n"
    if BEGIN in readme and END in readme:
        head, rest = readme.split(BEGIN, 1)
        return head + told + rest.split(f"{END}\n", 1)[1]
    head, found, rest = readme.partition(f"\n{BEFORE}\n")
    if not found:
        return f"{readme.rstrip()}\n\n{told}"
    return f"{head}\n{told}{found}{rest}"


def _how(record: Record) -> str:
    machine, versions = record["machine"], record.get("versions", {})
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{record['begun'][:10]}, {machine['processor']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, Python {machine['python']}; {told}. The median of the rounds of "
        "one run, contenders in turn, servers on one core and clients on another. "
        "`python3 dev.py bench` repeats it: see [bench/README.md](bench/README.md)."
    )


def _table(record: Record) -> list[str]:
    rows = ["| | | figure | of the floor | of the best peer's speed | wanted | |"]
    rows.append("|---|---|--:|--:|--:|---|---|")
    for case, table in record["cases"].items():
        told = case
        for line in table["figures"]:
            rows.append(_row(told, line))
            told = ""
    return rows


def _row(case: str, line: Record) -> str:
    ratio = [one for one in line["compared"] if not one["speed"]]
    speed = [one for one in line["compared"] if one["speed"]]
    wanted = "<br>".join(want["what"] for want in line["wanted"])
    met = "<br>".join("yes" if want["met"] else "**no**" for want in line["wanted"])
    name = f"**{line['contender']}**" if line["role"] == "ours" else line["contender"]
    cells = [
        case,
        name.replace("|", "\\|"),
        f"{number(line['median'])} {line['unit']}".rstrip(),
        f"{ratio[0]['median']:.2f} x" if ratio else "",
        f"{speed[0]['median']:.2f} x" if speed else "",
        wanted,
        met,
    ]
    return "| " + " | ".join(cells) + " |"


def _missed(record: Record) -> str:
    """Where we lose, to whom."""
    lost = [
        f"- `{case}`: {line['contender']} has {one['median']:.2f} x the speed of {one['to']}"
        for case, table in record["cases"].items()
        for line in table["figures"]
        for one in line["compared"]
        if line["role"] == "ours" and one["speed"] and one["median"] < 1
    ]
    not_met = [
        f"- `{case}`: {line['contender']}: wanted {want['what']}, it is {number(want['figure'])}"
        for case, line, want in _wanted(record)
        if not want["met"]
    ]
    parts = []
    if lost:
        parts += ["Where we lose:", "", *dict.fromkeys(lost), ""]
    if not_met:
        parts += ["What we wanted and have not reached:", "", *not_met]
    return "\n".join(parts).rstrip()


def _wanted(record: Record) -> list[tuple[str, Record, Record]]:
    """Case, line, want."""
    return [
        (case, line, want)
        for case, table in record["cases"].items()
        for line in table["figures"]
        for want in line["wanted"]
    ]
