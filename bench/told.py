"""A run as README tells it: a table, the plots, what is met and what is not. Pure."""

from __future__ import annotations

from typing import Any

from bench.figures import number

BEGIN, END = "<!-- bench: begin (dev.py bench --told FILE --publish) -->", "<!-- bench: end -->"
RESULTS = "bench/results"
HEADING = "## How fast"
BEFORE = "## Develop"  # where the section comes if there is none yet

WHY = (
    " What asks another process can't be as quick as what does not: a lock that the kernel keeps "
    "(flock(1) for one command, portalocker, filelock while nobody else is there), or a semaphore that "
    "one process alone knows of. They have one slot or one process, no rates, and most have no line."
)
TOLD_APART = 0.97  # of a speed: what is nearer to 1 is not told apart from chance
SHOWN = (
    "acquire",
    "hand_over",
    "tasks",
    "command",
)  # plots in README; the others are beside the table

Record = dict[str, Any]


def joined(records: list[Record]) -> Record:
    """One record with the cases of all, so that `soak` may run by itself. Of a case that several have, the
    last one's. Raises ValueError if they can't be told as one."""
    first, *more = records
    cases = dict(first["cases"])
    for other in more:
        for what in ("processor", "cores", "python"):
            if other["machine"].get(what) != first["machine"].get(what):
                raise ValueError("the runs are of different machines: tell them one by one")
        cases |= other["cases"]
    return {
        **first,
        "cases": cases,
        "quick": any(record["quick"] for record in records),
        "versions": first["versions"] if all(record["versions"] for record in records) else {},
    }


def targets(record: Record) -> list[str]:
    """For people: each target, and whether it was met."""
    lines = ["Targets:"]
    for case, line, want in _wanted(record):
        met = "met    " if want["met"] else "NOT MET"
        lines.append(
            f"  {met} {case}: {line['contender']}: {want['what']}; it is {number(want['figure'])}"
        )
    return lines if len(lines) > 1 else ["No target was measured."]


def markdown(record: Record) -> str:
    """All of it: every line of every case, under README's heading."""
    head = [HEADING, "", _how(record), "", *_losses(record), *_missed(record)]
    return "\n".join([*head, *_table(record, whole=True)]).rstrip() + "\n"


def section(record: Record, plots: list[str]) -> str:
    """README's: ours and whatever was wanted, and some plots."""
    head = [HEADING, "", _how(record), "", *_losses(record), *_missed(record)]
    more = f"[All lines, and a plot for each case]({RESULTS}/README.md)."
    pictures = [f"![{name}]({RESULTS}/{name}.svg)" for name in SHOWN if name in plots]
    return "\n".join([*head, *_table(record, whole=False), "", more, "", *pictures]).rstrip() + "\n"


def page(record: Record, plots: list[str]) -> str:
    """The one in the folder of results."""
    pictures = [f"![{name}]({name}.svg)" for name in plots]
    head = ["# What a full run has measured", "", _about(record), ""]
    return "\n".join([*head, *_table(record, whole=True), "", *pictures]).rstrip() + "\n"


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
    return (
        f"{_about(record)} The median of the rounds of one run, contenders in turn, servers on one core "
        "and clients on another. `python3 dev.py bench` repeats it: see "
        "[bench/README.md](bench/README.md)."
    )


def _about(record: Record) -> str:
    machine, versions = record["machine"], record.get("versions", {})
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{record['begun'][:10]}, {machine['processor']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, Python {machine['python']}; {told}."
    )


def _table(record: Record, whole: bool) -> list[str]:
    rows = ["| | | figure | of the floor | of the best peer's speed | wanted | |"]
    rows.append("|---|---|--:|--:|--:|---|---|")
    for case, table in record["cases"].items():
        told = case
        for line in table["figures"]:
            if whole or line["role"] == "ours" or line["wanted"]:
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
        f"{_times(ratio[0]['median'])} x" if ratio else "",
        f"{_times(speed[0]['median'])} x" if speed else "",
        wanted,
        met,
    ]
    return "| " + " | ".join(cells) + " |"


def _losses(record: Record) -> list[str]:
    """Where we lose, to whom."""
    lost = [
        f"- `{case}`: {line['contender']} has {_times(one['median'])} x the speed of {one['to']}"
        for case, table in record["cases"].items()
        for line in table["figures"]
        for one in line["compared"]
        if line["role"] == "ours" and one["speed"] and one["median"] < TOLD_APART
    ]
    return ["**Where we lose.**" + WHY, "", *dict.fromkeys(lost), ""] if lost else []


def _missed(record: Record) -> list[str]:
    """The targets, and which are not reached."""
    wanted = _wanted(record)
    not_met = [
        f"- `{case}`: {line['contender']}: wanted {want['what']}, it is {number(want['figure'])}"
        for case, line, want in wanted
        if not want["met"]
    ]
    reached = f"Of {len(wanted)} targets {len(wanted) - len(not_met)} are met"
    return [f"{reached}; not met:", "", *not_met, ""] if not_met else [f"{reached}.", ""]


def _times(figure: float) -> str:
    return number(figure) if figure >= 0.1 else f"{figure:.2g}"


def _wanted(record: Record) -> list[tuple[str, Record, Record]]:
    """Case, line, want."""
    return [
        (case, line, want)
        for case, table in record["cases"].items()
        for line in table["figures"]
        for want in line["wanted"]
    ]
