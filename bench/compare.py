"""Two runs beside each other: what a change did. Pure."""

from __future__ import annotations

from typing import Any

from bench.figures import MORE_IS_BETTER, NAME_WIDTH, number

SAME = 0.03  # a difference below is not told apart from chance, whatever the spreads say


def compared(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """For people: each figure that both have."""
    lines = [f"Since {old.get('begun', 'then')}: figures before and now, and now as times before"]
    if old.get("machine", {}).get("processor") != new.get("machine", {}).get("processor"):
        lines.append("Another machine: only the ratios within a run can be compared.")
    for case, table in new["cases"].items():
        before = {line["contender"]: line for line in _figures(old, case)}
        pairs = [
            (before[line["contender"]], line)
            for line in table["figures"]
            if line["contender"] in before
        ]
        if pairs:
            lines += ["", case, *(_line(was, now) for was, now in pairs)]
    return lines


def verdict(was: dict[str, Any], now: dict[str, Any]) -> str:
    """better, worse, or the same as far as can be told: the middle halves of the rounds overlap."""
    overlap = was["low"] <= now["high"] and now["low"] <= was["high"]
    if overlap or abs(now["median"] - was["median"]) <= SAME * abs(was["median"]):
        return "="
    more = now["median"] > was["median"]
    return "better" if more == (now["unit"] in MORE_IS_BETTER) else "WORSE"


def _line(was: dict[str, Any], now: dict[str, Any]) -> str:
    told = (
        f"  {now['contender']:{NAME_WIDTH}} {number(was['median']):>9} {number(now['median']):>9}"
    )
    if was["median"]:
        told += f" {now['median'] / was['median']:6.2f} x"
    return f"{told}  {verdict(was, now)}"


def _figures(record: dict[str, Any], case: str) -> list[dict[str, Any]]:
    table = record["cases"].get(case, {})
    return list(table.get("figures", []))
