"""A picture of each case: bars, plain SVG, to be read on white and on black. Pure."""

from __future__ import annotations

from html import escape
from math import ceil, floor, log10
from typing import Any

from bench.figures import MORE_IS_BETTER, number

WIDTH, LABELS, RIGHT = 860, 380, 110  # of the picture, of the names, of the figures
ROW, TOP = 22, 44
SPREAD_OF_TENS = 30  # greatest by least, beyond which the axis counts in tens

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600 } .small { font-size: 11px; fill: #666 }
.ours { fill: #1f6feb } .peer { fill: #9aa4ae } .floor { fill: #3f9142 } .aside { fill: #c3b091 }
.span { stroke: #222; stroke-width: 1.5 } .step { stroke: #ccc }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .small { fill: #999 } .span { stroke: #ddd } .step { stroke: #444 }
  .ours { fill: #58a6ff } .peer { fill: #6e7681 } .floor { fill: #56b35a } .aside { fill: #8a7a5c }
}
"""

Line = dict[str, Any]


def plots(record: dict[str, Any]) -> dict[str, str]:
    """SVG by the name of the case, of those that have something to compare."""
    found = {}
    for case, table in record["cases"].items():
        unit = _main_unit(table["figures"])
        lines = [line for line in table["figures"] if line["unit"] == unit and line["median"] > 0]
        if len(lines) > 1:
            found[case] = plot(f"{case}: {table['title']}", unit, lines, record["begun"][:10])
    return found


def plot(title: str, unit: str, lines: list[Line], date: str) -> str:
    """One picture."""
    greatest = max(line["high"] for line in lines)
    least = min(line["low"] for line in lines)
    tens = least > 0 and greatest / least > SPREAD_OF_TENS
    height = TOP + ROW * len(lines) + 14
    better = "more" if unit in MORE_IS_BETTER else "less"
    axis = f"{unit}, {better} is better{'; from line to line ten times as much' if tens else ''}; {date}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="8" y="18">{escape(_short(title))}</text>',
        f'<text class="small" x="8" y="34">{escape(axis)}</text>',
    ]
    if tens:
        parts += [_step(10.0**power, height, least, greatest) for power in _powers(least, greatest)]
    for place, line in enumerate(lines):
        parts.append(_bar(line, TOP + ROW * place, least, greatest, tens))
    return "\n".join([*parts, "</svg>", ""])


def length(figure: float, least: float, greatest: float, tens: bool) -> float:
    """Of a bar. In tens, it begins at half of the least."""
    room = WIDTH - LABELS - RIGHT
    if not tens:
        return room * figure / greatest
    begin = log10(least / 2)
    return room * (log10(max(figure, least)) - begin) / (log10(greatest) - begin)


def _powers(least: float, greatest: float) -> range:
    """Of ten, that lie between."""
    return range(ceil(log10(least)), floor(log10(greatest)) + 1)


def _step(figure: float, height: int, least: float, greatest: float) -> str:
    x = LABELS + length(figure, least, greatest, tens=True)
    return f'<line class="step" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - 10}"/>'


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


def _short(title: str) -> str:
    return title if len(title) <= 120 else f"{title[:117]}..."
