"""One browser for the whole run, one daemon and web process for most tests; a console without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.browser import chromium
from tests.browser.page import Page
from tests.browser.site import Site
from tests.support_tools import leave_out


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """The browser."""
    leave_out(chromium.why_there_is_none())
    started = chromium.start(tmp_path_factory.mktemp("chromium"))
    yield started
    started.quit()


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.close()


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """The one that tests share: each uses limits with names of its own."""
    jobs = shared_site.jobs()
    yield shared_site
    shared_site.end_jobs(jobs)


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """One for this test alone, which may break it."""
    made = Site(tmp_path)
    yield made
    made.close()


class Console:
    """What the browser has to complain about. Answers with an error are told there too: a test says
    which it has asked for."""

    def __init__(self) -> None:
        self.expected: tuple[str, ...] = ()

    def expect(self, *answers: str) -> None:
        self.expected += answers

    def surprises(self, entries: list[dict[str, Any]]) -> list[str]:
        return [
            entry["message"]
            for entry in entries
            if not any(known in entry["message"] for known in self.expected)
        ]


def log_of(driver: Chrome) -> list[dict[str, Any]]:
    """What the console was told since this was last asked."""
    told: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return told


@pytest.fixture
def console(driver: Chrome) -> Iterator[Console]:
    kept = Console()
    log_of(driver)
    yield kept
    driver.get("about:blank")  # so that nothing of this page goes on
    assert kept.surprises(log_of(driver)) == []


def _page(driver: Chrome, site: Site) -> Page:
    opened = Page(driver, site.web)
    opened.look_like()
    return opened


@pytest.fixture
def page(driver: Chrome, site: Site, console: Console) -> Page:
    """The page of the shared site."""
    return _page(driver, site)


@pytest.fixture
def own_page(driver: Chrome, own_site: Site, console: Console) -> Page:
    """The page of this test's own site."""
    return _page(driver, own_site)
