"""A real Chromium, as the tests and the screenshots use it."""

from __future__ import annotations

import shutil
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

# It runs as root in a container, without a screen, and talks to nobody but the page.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en-GB",
    "--window-size=1280,900",
)


def why_there_is_none() -> str:
    """What to install, or "" if a browser is there."""
    if all(map(shutil.which, ("chromium", "chromedriver"))):
        return ""
    return "no Chromium; on Debian or Ubuntu: sudo apt install chromium chromium-driver"


def start(profile: Path) -> Chrome:
    """A new one, with an empty profile in that folder."""
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(shutil.which("chromedriver")))
