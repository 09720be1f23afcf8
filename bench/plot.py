"""A picture of each case: bars, plain SVG, to be read on white and on black. Pure."""

from __future__ import annotations

from html import escape
from math import ceil, floor, log10
from textwrap import wrap
from typing import Any

from bench.figures import MORE_IS_BETTER, number

WIDTH, LABELS, RIGHT = 880, 380, 150  # of the picture, of the names, of the figures
ROW, TOP, LINE = 22, 46, 17
LETTERS, LETTER = 108, 6  # of a line of the title; the width of a small one
SPREAD_OF_TENS = 30  # greatest by least, beyond which the axis counts in tens

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600 } .small { font-size: 11px; fill: #666 }
.ours { fill: #1f6feb } .peer { fill: #9aa4ae } .floor { fill: #3f9142 } .aside { fill: #c3b091 }
.inside { fill: #a371c7 }
.span { stroke: #222; stroke-width: 1.5 } .step { stroke: #ddd }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .small { fill: #999 } .span { stroke: #ddd } .step { stroke: #333 }
  .ours { fill: #58a6ff } .peer { fill: #6e7681 } .floor { fill: #56b35a } .aside { fill: #8a7a5c }
  .inside { fill: #8957b5 }
}
"""

MEANING = {
    "ours": "atmost",
    "peer": "others",
    "floor": "the floor",
    "inside": "one process alone",
    "aside": "beside",
}

Line = dict[str, Any]


def plots(record: dict[str, Any]) -> dict[str, str]:
    """SVG by the name of the case, of those that have something to compare."""
    found = {}
    for case, table in record["cases"].items():
        unit = _main_unit(table["figures"])
        lines = [line for line in table["figures"] if line["unit"] == unit]
        if len(lines) > 1 and any(line["high"] > 0 for line in lines):
            found[case] = plot(f"{case}: {table['title']}", unit, lines, record["begun"][:10])
    return found


def plot(title: str, unit: str, lines: list[Line], date: str) -> str:
    """One picture."""
    greatest = max(line["high"] for line in lines)
    least = min(line["low"] for line in lines)
    tens = least > 0 and greatest / least > SPREAD_OF_TENS
    words = wrap(title, LETTERS)
    top = TOP + LINE * (len(words) - 1)
    bottom = top + ROW * len(lines)
    better = "more" if unit in MORE_IS_BETTER else "less"
    axis = f"{unit}, {better} is better{'; each step is ten times as much' if tens else ''}; {date}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 24}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        *(
            f'<text class="title" x="8" y="{18 + LINE * place}">{escape(line)}</text>'
            for place, line in enumerate(words)
        ),
        f'<text class="small" x="8" y="{top - 10}">{escape(axis)}</text>',
        *_legend({line["role"] for line in lines}, top - 10),
    ]
    for figure in _steps(least, greatest, tens):
        x = LABELS + length(figure, least, greatest, tens)
        parts.append(_step(x, top, bottom, f"{figure:,g} {unit}"))
    for place, line in enumerate(lines):
        parts.append(_bar(line, top + ROW * place, least, greatest, tens))
    return "\n".join([*parts, "</svg>", ""])


def _legend(roles: set[str], y: int) -> list[str]:
    """What the colours mean, from the right."""
    parts, x = [], WIDTH - 8
    for role in [role for role in reversed(MEANING) if role in roles]:
        x -= LETTER * len(MEANING[role])
        parts.append(f'<text class="small" x="{x:.0f}" y="{y}">{MEANING[role]}</text>')
        parts.append(
            f'<rect class="{role}" x="{x - 14:.0f}" y="{y - 9}" width="10" height="10" rx="2"/>'
        )
        x -= 28
    return parts


def _steps(least: float, greatest: float, tens: bool) -> list[float]:
    """Where the axis has a mark."""
    if tens:
        return [10.0**power for power in range(ceil(log10(least)), floor(log10(greatest)) + 1)]
    power = 10.0 ** floor(log10(greatest))
    step = next(power * share for share in (0.2, 0.5, 1, 2, 5) if greatest / power / share <= 5)
    return [step * number for number in range(1, floor(greatest / step + 1e-9) + 1)]


def length(figure: float, least: float, greatest: float, tens: bool) -> float:
    """Of a bar. In tens, it begins at half of the least."""
    room = WIDTH - LABELS - RIGHT
    if not tens:
        return room * figure / greatest
    begin = log10(least / 2)
    return room * (log10(max(figure, least)) - begin) / (log10(greatest) - begin)


def _step(x: float, top: int, bottom: int, told: str) -> str:
    return (
        f'<line class="step" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="small" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{escape(told)}</text>'
    )


def _bar(line: Line, y: float, least: float, greatest: float, tens: bool) -> str:
    def at(figure: float) -> float:
        return LABELS + length(figure, least, greatest, tens)

    low, end, high = at(line["low"]), at(line["median"]), at(line["high"])
    figure = f"{number(line['median'])} {line['unit']}"
    return (
        f'<text x="{LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(line["contender"])}</text>'
        f'<rect class="{line["role"]}" x="{LABELS}" y="{y + 3}" width="{end - LABELS:.1f}" '
        f'height="{ROW - 7}" rx="2"/>'
        f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{y + 10.5}" y2="{y + 10.5}"/>'
        f'<text x="{max(end, high) + 6:.1f}" y="{y + 14}">{escape(figure)}</text>'
    )


def _main_unit(lines: list[Line]) -> str:
    """That of the first of ours."""
    units = [line["unit"] for line in lines if line["role"] == "ours"]
    return units[0] if units else ""
