"""Make docs/page-*.png: the page in a real Chromium, on a real daemon.

    python3 dev.py screenshots [FOLDER] [SECONDS]

Rule: nothing is painted: what the pictures show has happened a moment before, in real processes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium.webdriver import Chrome

from tests.browser import chromium
from tests.browser.page import Page
from tests.browser.site import Site

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 1280
SETTLING_SECONDS = 400.0  # of traffic, so that the charts have something to show

CONFIG = """\
[[limit]]
name = "warehouse"
limit = 12

[[limit]]
name = "search-index"
limit = 4

[[template]]
match = "customer-*"
limit = 3
rate = "2/s"
"""

# name, slots, rate in slots a second
LIMITS = (
    ("database", 5, 0.0),
    ("gpu", 2, 0.0),
    ("openai-tokens", 500, 100 / 60),
    ("api.example.com", 10, 0.5),
    ("nightly-report", 1, 0.0),
)

_WORKER = """
import os, random, time
from atmost.errors import AcquireTimeout
from atmost.sync import concurrency, rate_limit
name, kind, low, high, seed = os.environ["WORK"].split()
low, high = float(low), float(high)
random.seed(seed)
while True:
    if kind == "spend":
        rate_limit(name, occupy=int(random.uniform(low, high)))
    else:
        try:
            with concurrency(name, timeout_seconds=high if kind == "try" else None):
                time.sleep(random.uniform(low, high) * random.choice([0.3, 1, 1, 2]))
        except AcquireTimeout:
            time.sleep(20)
    time.sleep(random.uniform(0, 2 if kind == "spend" else high / 3))
"""

# how many workers; the limit; hold, try with a time-out, or spend; from, to: seconds held, or slots
# spent; as what they show
CROWD = (
    (9, "database", "hold", 0.8, 6.0, "etl.py --table orders"),
    (1, "database", "try", 0.2, 0.7, "health.py"),
    (3, "gpu", "hold", 4.0, 15.0, "train.py --epochs 10"),
    (9, "warehouse", "hold", 0.2, 5.0, "load.py --since yesterday"),
    (2, "search-index", "hold", 0.3, 1.0, "index.py"),
    (3, "openai-tokens", "spend", 5, 60, "summarise.py"),
    (2, "api.example.com", "spend", 1, 3, "crawl.py api.example.com"),
    (2, "customer-17", "hold", 0.2, 1.5, "sync.py customer-17"),
    (1, "customer-42", "hold", 0.2, 1.0, "sync.py customer-42"),
)


class Crowd:
    """Processes that use the limits, each with a command line of its own."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._processes = []
        for number, (workers, name, kind, low, high, shown) in enumerate(CROWD):
            script, *words = shown.split()
            (folder / script).write_text(_WORKER)
            for worker in range(workers):
                work = f"{name} {kind} {low} {high} {number}.{worker}"
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, script, *words],
                        cwd=folder,
                        env=site.daemon.environment() | {"WORK": work},
                    )
                )

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def furnish(site: Site) -> None:
    for name, limit, rate in LIMITS:
        site.client.create_limit(name, limit, slot_decay_per_second=rate)
    site.client.update_limit("nightly-report", active=False)
    site.client.update_limit("search-index", limit=6)  # other than the file says
    site.client.acquire("new-feature", timeout_seconds=0).release()  # made by its first use


def picture(page: Page, folder: Path, name: str, path: str, height: int) -> None:
    """One view, light and dark."""
    page.open(path)
    page.see("live", ".link-state")
    page.see_not("Loading…", "main")
    for scheme in ("light", "dark"):
        page.look_like(WIDTH, height, dark=scheme == "dark")
        time.sleep(1.5)  # the charts are drawn anew
        target = folder / f"{name}-{scheme}.png"
        page.driver.save_screenshot(str(target))
        print(target)


def take(driver: Chrome, site: Site, folder: Path) -> None:
    page = Page(driver, site.web)
    page.devtools("Emulation.setLocaleOverride", locale="en-GB")
    page.devtools("Emulation.setScrollbarsHidden", hidden=True)
    picture(page, folder, "page", "/limits", 690)
    picture(page, folder, "page-limit", "/limits/database", 1230)
    picture(page, folder, "page-overview", "/overview", 1040)


def main(words: list[str]) -> int:
    folder = Path(words[0]).resolve() if words else ROOT / "docs"
    seconds = float(words[1]) if len(words) > 1 else SETTLING_SECONDS
    if reason := chromium.why_there_is_none():
        print(f"screenshots: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="atmost-") as place:
        config = Path(place) / "atmostd.toml"
        config.write_text(CONFIG)
        site = Site(Path(place), "--config", str(config))
        driver = chromium.start(Path(place) / "profile")
        try:
            furnish(site)
            crowd = Crowd(site, Path(place))
            try:
                time.sleep(seconds)
                take(driver, site, folder)
            finally:
                crowd.end()
        finally:
            driver.quit()
            site.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
