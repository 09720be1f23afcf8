"""What of a run is kept in the repository: its record, a page with all lines and plots, README's section.

All but the record are made from it, so a test can say whether they agree: see `files`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.plot import plots
from bench.told import BEGIN, RESULTS, page, section, with_section

README = "README.md"


def publish(record: dict[str, Any], root: Path) -> str:
    """Write them into that checkout; says so."""
    results = root / RESULTS
    results.mkdir(parents=True, exist_ok=True)
    for old in results.glob("*.svg"):
        old.unlink()
    kept = results / f"{record['begun'][:10]}.json"
    kept.write_text(json.dumps(record, indent=1) + "\n")
    made = files(record, (root / README).read_text())
    for name, text in made.items():
        (root / name).write_text(text)
    return f"wrote {RESULTS}/{kept.name}, {', '.join(made)}"


def files(record: dict[str, Any], readme: str) -> dict[str, str]:
    """Text by name, from the root of the checkout. `readme`: what README is now."""
    drawn = plots(record)
    found = {f"{RESULTS}/{name}.svg": text for name, text in drawn.items()}
    found[f"{RESULTS}/{README}"] = page(record, list(drawn))
    found[README] = with_section(readme, section(record, list(drawn)))
    return found


def newest(root: Path) -> dict[str, Any] | None:
    """The record that was begun last, of those that are kept."""
    records = [json.loads(path.read_text()) for path in (root / RESULTS).glob("*.json")]
    return max(records, key=lambda record: str(record["begun"]), default=None)


def disagreements(root: Path) -> list[str]:
    """What is not as the newest record tells it."""
    record = newest(root)
    readme = (root / README).read_text()
    there = {f"{RESULTS}/{path.name}" for path in (root / RESULTS).glob("*.svg")}
    if record is None:
        return sorted(there) + ([README] if BEGIN in readme else [])
    wanted = files(record, readme)
    wrong = [name for name, text in wanted.items() if _text(root / name) != text]
    return sorted({*wrong, *(there - set(wanted))})


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
