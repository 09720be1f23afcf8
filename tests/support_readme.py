"""README.md, for tests that do what it says."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Its blocks of code."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """What stands behind the prompts, without the remarks."""
    lines = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in lines]


FIRST_MINUTE, CHECKOUT, EVERY_DAY, SERVICE, SERVING, FROM_A_FILE, LAPTOP, WHY = (
    commands(block) for block in blocks("console")
)
