"""For everybody: without a mouse, on any screen, in the dark, without motion, for screen readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page
from tests.browser.site import Site

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
VIEWS = ("/limits", "/limits/looked-at", "/overview", "/new", "/limits/not-there")
WIDTHS = (360, 768, 1280, 2560)

# Elements whose text is wider than they are, though nothing says that it is cut.
_CUT_OFF = """
return [...document.querySelectorAll('button, h1, h2, label, .tag, .value, .figure')]
  .filter((one) => one.checkVisibility() && one.scrollWidth > one.clientWidth + 1 && one.clientWidth
    && getComputedStyle(one).textOverflow !== 'ellipsis' && getComputedStyle(one).display !== 'inline')
  .map((one) => `${one.tagName}.${one.className}: ${one.innerText}`);
"""


@pytest.fixture(scope="module")
def looked_at(shared_site: Site) -> Iterator[Site]:
    """Something to see in every view."""
    shared_site.client.create_limit("looked-at", 3, slot_decay_per_second=0.5)
    shared_site.client.acquire("implicit-one", timeout_seconds=0).release()
    jobs = shared_site.jobs()
    for _ in range(4):
        shared_site.job("looked-at")
    yield shared_site
    shared_site.end_jobs(jobs)


def go(page: Page, path: str) -> None:
    page.open(path)
    page.see("", "h1, h2")
    page.see_not("Loading…", "main")


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps somebody out, in both colour schemes."""
    page.js(AXE)
    found = []
    for dark, options in ((False, {}), (True, {"runOnly": ["color-contrast"]})):
        page.look_like(dark=dark)
        found += violations(page, options)
    page.look_like()
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html']:.200} "
        f"{one['nodes'][0].get('failureSummary', '')}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def violations(page: Page, options: Mapping[str, object]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.driver.execute_async_script(
        "const [options, done] = arguments;"
        "axe.run(document, options).then((result) => done(result.violations))",
        options,
    )
    return found


@pytest.fixture
def tested_page(page: Page) -> Iterator[Page]:
    """The page without its policy, since axe-core makes style elements."""
    page.devtools("Page.setBypassCSP", enabled=True)
    yield page
    page.devtools("Page.setBypassCSP", enabled=False)


@pytest.mark.parametrize("path", VIEWS)
def test_no_barriers(path: str, looked_at: Site, tested_page: Page) -> None:
    page = tested_page
    go(page, path)
    assert serious(page) == []


def test_no_barriers_in_dialogs(looked_at: Site, tested_page: Page) -> None:
    page = tested_page
    go(page, "/limits/looked-at")
    page.click("Edit")
    page.fill("limit", "x")
    page.see("A whole number", "dialog")
    assert serious(page) == []
    page.click("Cancel", "dialog button")
    page.click("Delete")
    page.see("run on", "dialog")
    assert serious(page) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width(width: int, looked_at: Site, page: Page) -> None:
    """Nothing has to be scrolled sideways, nothing is cut off without a sign."""
    page.look_like(width=width)
    for path in VIEWS:
        go(page, path)
        wide = page.js("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{path} is {wide} px too wide"
        assert page.js(_CUT_OFF) == [], path


def test_dark_is_dark(looked_at: Site, page: Page) -> None:
    def brightness() -> float:
        colour = page.js("return getComputedStyle(document.body).backgroundColor")
        red, green, blue = (int(part) for part in colour[4:-1].split(","))
        return (red + green + blue) / 3

    go(page, "/limits")
    page.look_like(dark=False)
    assert brightness() > 200
    page.look_like(dark=True)
    assert brightness() < 50


def test_no_motion_for_those_who_want_none(looked_at: Site, page: Page) -> None:
    reduced = {"name": "prefers-reduced-motion", "value": "reduce"}
    page.devtools("Emulation.setEmulatedMedia", features=[reduced])
    go(page, "/limits/looked-at")
    moving = (
        "return [...document.querySelectorAll('*')].filter((one) => "
        "parseFloat(getComputedStyle(one).transitionDuration) > 0 || "
        "getComputedStyle(one).animationName !== 'none').length"
    )
    assert page.js(moving) == 0
    page.look_like()


def test_with_the_keyboard_alone(site: Site, page: Page) -> None:
    """Make a limit, find it, change it, delete it: never a mouse, and the focus is always to be seen."""
    site.client.create_limit("beside", 1)
    page.open("/limits")
    page.see("live", ".link-state")
    tab_to(page, "New limit")
    page.press(Keys.ENTER)
    page.see("New limit", "h2")
    assert page.focused() == "field-name"
    page.press("by-keys", Keys.TAB, "2", Keys.TAB, "60/min", Keys.ENTER)
    page.see("by-keys", "h1")
    assert site.client.read_limit("by-keys").limit == 2
    tab_to(page, "Limits")
    page.press(Keys.ENTER)
    page.see("by-keys", ".limits .name")
    page.press("/")
    page.press("by-keys")
    page.see("1 of", "h1 .count")
    tab_to(page, "by-keys")
    page.press(Keys.ENTER)
    page.see("by-keys", "h1")
    tab_to(page, "One slot more")
    page.press(Keys.SPACE)
    page.see("0 of 3", "[data-what=slots]")
    tab_to(page, "Delete")
    page.press(Keys.ENTER)
    page.see("Delete", "dialog h2")
    page.press(Keys.ESCAPE)
    page.see_not("", "dialog")
    assert page.focused() == "Delete"
    page.press(Keys.ENTER)
    page.see("Delete", "dialog h2")
    assert page.focused() == "Cancel"
    tab_to(page, "Delete")
    page.press(Keys.ENTER)
    page.see("Limits", "h1")
    assert not any(record.name == "by-keys" for record in site.client.list_limits())


def tab_to(page: Page, words: str) -> None:
    """Tab until it has the focus; each step of the way shows where it is."""
    for _ in range(60):
        page.press(Keys.TAB)
        outline = page.js(
            "const style = getComputedStyle(document.activeElement);"
            "return document.activeElement === document.body || parseFloat(style.outlineWidth) > 0"
        )
        assert outline, f"no focus to be seen at {page.focused()!r}"
        if page.focused() == words:
            return
    raise AssertionError(f"{words!r} is not reached by tabbing")


def test_unknown_pages(page: Page) -> None:
    page.open("/limits/never-made")
    page.see("No such limit", "h1")
    page.see("never-made", ".empty")
    page.click("All limits")
    page.see("Limits", "h1")


def test_the_overview(looked_at: Site, page: Page) -> None:
    """The busiest, the longest waiters, what went wrong, how the daemon is."""
    page.open("/overview")
    page.see("looked-at", ".busy")
    page.see("waiting", ".busy .hot")
    page.see("looked-at", ".busy.longest")
    page.see("atmostd", ".health")
    page.see("implicit-one", ".health")
