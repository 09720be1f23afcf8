"""The list of all limits: search, sort, filter; 10,000 of them; names that mean harm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Console
from tests.browser.page import Page
from tests.browser.site import Site

MANY = 10_000
ROWS_MAX = 80  # in the document at a time
QUICK_SECONDS = 3.0  # for what takes some 0.2 s on an idle machine

NAMES = (
    "\u202egnp.exe",  # from here on, right to left
    "\u2067\u05d0\u05d1\u05d2 123",
    "😀" * 200,
    "\"'onmouseover='alert(1)",
    "${alert(1)} {{7*7}} `x`",
    ".",
    "a b+c?d#e",
    "x" * 200,
)
JOURNEYS = ("..", "'onfocus='alert(1)' \"autofocus", "\u202ecod.exe")
COMMANDS = ("<img src=x onerror=alert(1)>", "two\nlines", "\u202egnp.exe", "😀" * 200)


def names(page: Page) -> list[str]:
    found = page.js(
        "return [...document.querySelectorAll('.limits .name a')]"
        ".map((a) => [a.closest('[data-index]').dataset.index, a.innerText])"
        ".sort((a, b) => a[0] - b[0]).map((row) => row[1])"
    )
    return [str(name) for name in found]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """10,000 limits."""
    folder = tmp_path_factory.mktemp("crowd")
    made = Site(folder)
    file = folder / "limits.toml"
    file.write_text(
        "".join(
            f'[[limit]]\nname = "limit-{number:05}"\nlimit = {number % 7 + 1}\n'
            for number in range(MANY)
        )
    )
    made.cli("apply", "-f", str(file))
    yield made
    made.close()


def test_ten_thousand_limits(crowd: Site, driver: Chrome, console: Console) -> None:
    page = Page(driver, crowd.web)
    page.look_like()
    page.see("10,000", "h1 .count")

    def quickly(what: str, words: str) -> None:
        began = time.monotonic()
        page.see(words, ".limits .name")
        took = time.monotonic() - began
        assert took < QUICK_SECONDS, f"{what}: {took:.2f} s"
        assert len(names(page)) <= ROWS_MAX

    page.open("/limits")
    quickly("the first rows", "limit-00000")
    page.js("document.querySelector('.limits .name a').focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert page.focused() == "limit-00001"
    page.js("scrollTo(0, document.body.scrollHeight)")
    quickly("the last rows", "limit-09999")
    page.js("scrollTo(0, document.body.scrollHeight / 2)")
    quickly("the middle", "limit-05000")
    page.click("Limit", "button.sort")
    quickly("sorting", "limit-09999")
    found = page.find("input[type=search]")
    assert found is not None
    found.send_keys("limit-0777")
    page.see("10 of 10,000", "h1 .count")
    quickly("searching", "limit-07779")
    crowd.job("limit-07777")
    crowd.job("limit-07777")
    page.see("full", ".state")
    page.click("Waiting now")
    page.until(lambda: names(page) == ["limit-07777"] or crowd.states("limit-07777") == (2, 0), "")


def test_search_sort_and_filter(own_site: Site, own_page: Page, tmp_path: Path) -> None:
    page = own_page
    for name, limit, active in (("b", 3, True), ("a", 1, True), ("C-off", 2, False)):
        own_site.client.create_limit(name, limit, active=active)
    own_site.client.acquire("made-by-use", timeout_seconds=0).release()
    own_site.job("a")
    own_site.job("a")
    own_site.job("b")
    page.open("/limits")
    page.until(lambda: sorted(names(page)) == ["C-off", "a", "b", "made-by-use"], "all four")
    page.click("Waiting now")
    page.until(lambda: names(page) == ["a"], "the one with a line")
    page.click("Waiting now")
    page.click("Inactive")
    page.until(lambda: "C-off" in names(page) and "a" not in names(page), "the inactive ones")
    page.click("Made implicitly")
    page.until(lambda: names(page) == ["made-by-use"], "both filters hold")
    page.click("Made implicitly")
    page.click("Inactive")
    page.click("Waiting", "button.sort")
    page.until(lambda: names(page)[:1] == ["a"], "the longest line first")
    assert "sort=waiting" in page.driver.current_url
    page.driver.refresh()
    page.until(lambda: names(page)[:1] == ["a"], "the same after a reload")
    page.press("/")
    page.press("MADE")
    page.until(lambda: names(page) == ["made-by-use"], "found whatever the case")
    page.select_all()
    page.press("nothing like it")
    page.see("No limit matches")
    page.click("Show all")
    page.until(lambda: len(names(page)) == 4, "all of them again")


def test_what_the_file_says(tmp_path: Path, driver: Chrome, console: Console) -> None:
    """Limits of the configuration file, and which were changed since."""
    config = tmp_path / "atmostd.toml"
    config.write_text("[[limit]]\nname = 'kept'\nlimit = 2\n[[limit]]\nname = 'moved'\nlimit = 2\n")
    site = Site(tmp_path, "--config", str(config))
    try:
        site.client.update_limit("moved", limit=3)
        site.client.create_limit("by-hand", 1)
        page = Page(driver, site.web)
        page.look_like()
        page.click("From the file")
        page.until(lambda: names(page) == ["kept", "moved"], "those of the file")
        page.click("Drifted")
        page.until(lambda: names(page) == ["moved"], "the one that was changed")
        tag = page.see("drifted", ".state .tag")
        assert "limit 2" in (tag.get_attribute("title") or "")
        driver.get("about:blank")
    finally:
        site.close()


def test_hostile_names(site: Site, page: Page) -> None:
    """Each is text, in the list and on its own page."""
    for name in NAMES:
        site.client.create_limit(name, 2)
    for name in NAMES:
        page.open("/limits")
        page.see(name, ".limits .name")
        page.until(partial(page.find, ".limits .name a", name), "the link").click()
        page.see(name, "h1 bdi")
        assert page.js("return document.documentElement.scrollWidth <= innerWidth"), name


@pytest.mark.parametrize("name", JOURNEYS, ids=["dots", "markup", "right-to-left"])
def test_a_hostile_name_all_the_way(name: str, site: Site, page: Page) -> None:
    """It can be opened, changed and deleted like any other."""
    site.client.create_limit(name, 2)
    page.see(name, ".limits .name")
    page.until(lambda: page.find(".limits .name a", name), "the link").click()
    page.see(name, "h1 bdi")
    page.click("Edit")
    page.see(name, "dialog bdi")
    page.fill("limit", "3")
    page.click("Save")
    page.see("0 of 3", "[data-what=slots]")
    page.driver.refresh()
    page.see(name, "h1 bdi")
    page.click("Delete")
    page.see(name, "dialog bdi")
    page.click("Delete", "dialog button")
    page.see("Limits", "h1")
    assert name not in [record.name for record in site.client.list_limits()]


def test_hostile_commands(site: Site, page: Page) -> None:
    site.client.create_limit("hostile", len(COMMANDS) - 1)
    for command in COMMANDS:
        site.job("hostile", "sh", "-c", "sleep 600", command)
    page.open("/limits/hostile")
    page.see("1 in line")
    page.see("<img src=x onerror=alert(1)>", ".people .command")
    assert page.js("return document.querySelectorAll('img').length") == 0
    heights = page.js(
        "return [...document.querySelectorAll('.people .command bdi')].map((one) => one.offsetHeight)"
    )
    assert len(heights) == len(COMMANDS)
    assert max(heights) < 1.6 * min(heights), "each on one line"
    page.click("Release", ".people button")
    page.see("has lost what it holds", "dialog")
    page.click("Cancel")
