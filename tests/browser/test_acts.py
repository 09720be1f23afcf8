"""What one does on the page, in a real browser: each act says before what will happen, and happens."""

from __future__ import annotations

import pytest

from atmost.errors import LimitNotFound
from tests.browser.conftest import Console
from tests.browser.page import Page
from tests.browser.site import Site
from tests.support import wait_until


def test_the_first_limit(own_site: Site, own_page: Page) -> None:
    """Nothing there yet: the page says how to make one, checks while one types, and makes it."""
    page = own_page
    page.see("No limits yet")
    page.see("atmost create database --limit 5")
    page.click("New limit")
    page.fill("name", "a/b")
    page.see("A name has none of / % & > <, and this one has /.", "#wrong-name")
    page.fill("name", "api")
    page.see_not("A name has none of", "#wrong-name")
    page.fill("limit", "-3")
    page.see("A whole number, from 0 on.", "#wrong-limit")
    page.fill("limit", "5")
    page.fill("decay", "100 per minute")
    page.see("A rate such as 100/min", "#wrong-decay")
    page.fill("decay", "100/min")
    page.see("100 a minute", ".foretold")
    page.click("Create", "dialog button, form button")
    page.see("api", "h1")
    page.see("100 a minute", ".figures")
    made = own_site.client.read_limit("api")
    assert (made.limit, made.active) == (5, True)
    assert made.slot_decay_per_second == pytest.approx(100 / 60)


def test_a_limit_that_is_there_already(site: Site, page: Page, console: Console) -> None:
    """The daemon's own refusal stands beside the field, and what was typed is still there."""
    site.client.create_limit("taken", 3)
    console.expect("409 (Conflict)")
    page.open("/new")
    page.fill("name", "taken")
    page.fill("limit", "7")
    page.see("taken", "#wrong-name")
    page.click("Create", "form button")
    page.see("taken", "#wrong-name")
    assert (page.value("name"), page.value("limit")) == ("taken", "7")
    page.fill("name", "not-taken")
    page.click("Create", "form button")
    page.see("not-taken", "h1")
    assert site.client.read_limit("not-taken").limit == 7
    assert site.client.read_limit("taken").limit == 3


def test_an_inactive_limit(site: Site, page: Page) -> None:
    page.open("/new")
    page.fill("name", "sleeping")
    page.click("", "#field-active")
    page.click("Create", "form button")
    page.see("inactive", ".title")
    assert not site.client.read_limit("sleeping").active


def test_what_was_typed_outlives_a_look_elsewhere(page: Page) -> None:
    page.open("/new")
    page.fill("name", "half-typed")
    page.click("Limits", "nav a")
    page.see("Limits", "h1")
    page.click("New limit")
    page.see("New limit", "h2")
    assert page.value("name") == "half-typed"


def test_raise_a_limit(site: Site, page: Page) -> None:
    """It says how many would start; they do, and the page shows them."""
    site.client.create_limit("raised", 1)
    for _ in range(4):
        site.job("raised")
    page.open("/limits/raised")
    page.see("3 in line")
    page.click("Edit")
    page.fill("limit", "3")
    page.see("2 of 3 waiters would start at once", ".foretold")
    page.click("Save")
    wait_until(lambda: site.states("raised") == (3, 1))
    page.see("3 holders")
    page.see("1 in line")
    page.see_not("", "dialog")


def test_turn_it_up_with_one_click(site: Site, page: Page) -> None:
    site.client.create_limit("one-click", 1)
    site.job("one-click")
    site.job("one-click")
    page.open("/limits/one-click")
    page.click("One slot more")
    wait_until(lambda: site.states("one-click") == (2, 0))
    page.see("2 of 2", "[data-what=slots]")
    page.click("One slot fewer")
    page.see("2 of 1", "[data-what=slots]")
    assert site.states("one-click") == (2, 0)


def test_disable_and_enable(site: Site, page: Page) -> None:
    site.client.create_limit("switched", 1)
    site.job("switched")
    site.job("switched")
    page.open("/limits/switched")
    page.click("Disable")
    page.see("would start at once", "dialog")
    page.click("Disable", "dialog button")
    page.see("inactive", ".title")
    wait_until(lambda: site.states("switched") == (1, 0))
    page.click("Enable")
    page.click("Enable", "dialog button")
    page.see("Disable", ".title button")
    assert site.client.read_limit("switched").active


def test_delete_asks_first(site: Site, page: Page) -> None:
    site.client.create_limit("doomed", 1)
    site.job("doomed")
    waiter = site.job("doomed")
    page.open("/limits/doomed")
    page.click("Delete")
    page.see("1 holds it and runs on", "dialog")
    page.see("1 waits and fails", "dialog")
    page.click("Cancel", "dialog button")
    page.see_not("", "dialog")
    assert site.client.read_limit("doomed").limit == 1
    page.click("Delete")
    page.click("Delete", "dialog button")
    page.see("Limits", "h1")
    with pytest.raises(LimitNotFound):
        site.client.read_limit("doomed")
    assert waiter.wait(30) == 125


def test_release_a_holder(site: Site, page: Page) -> None:
    site.client.create_limit("hanging", 1)
    holder = site.job("hanging")
    waiter = site.job("hanging")
    page.open("/limits/hanging")
    page.click(f"Release what pid {holder.pid} holds")
    page.see("has lost what it holds", "dialog")
    page.click("Release", "dialog button")
    page.see(str(waiter.pid), "[aria-label='Who holds']")
    page.see_not(str(holder.pid), "[aria-label='Who holds']")
    assert site.states("hanging") == (1, 0)
    assert holder.poll() is None


def test_reset_what_is_spent(site: Site, page: Page) -> None:
    site.client.create_limit("spending", 4, slot_decay_per_second=0.001)
    site.client.rate_limit("spending", occupy=3)
    page.open("/limits/spending")
    page.see("3 of 4", "[data-what=slots]")
    page.click("Reset spent")
    page.see("spent slots are free at once", "dialog")
    page.click("Reset", "dialog button")
    page.see("0 of 4", "[data-what=slots]")
    assert site.client.read_limit("spending").spent == 0


def test_two_people_edit(site: Site, page: Page, console: Console) -> None:
    """The second is told, and neither loses what was typed."""
    site.client.create_limit("shared", 5)
    page.open("/limits/shared")
    page.click("Edit")
    page.fill("limit", "9")
    site.cli("update", "shared", "--limit", "7")
    page.see("It changed meanwhile", "dialog")
    page.see("7 slots", ".meanwhile")
    console.expect("412 (Precondition Failed)")
    page.click("Save")
    page.see("It changed meanwhile", "dialog")
    assert page.value("limit") == "9"
    assert site.client.read_limit("shared").limit == 7
    page.click("Keep mine")
    page.see_not("It changed meanwhile", "dialog")
    page.click("Save")
    page.see_not("", "dialog")
    wait_until(lambda: site.client.read_limit("shared").limit == 9)


def test_the_daemon_refuses(site: Site, page: Page, console: Console) -> None:
    """In its own words, which only it knows; and once it can, the same form is saved as it stands."""
    site.client.create_limit("unsaved", 5)
    console.expect("503 (Service Unavailable)")
    page.open("/limits/unsaved")
    page.click("Edit")
    page.fill("limit", "6")
    away = site.daemon.state_dir.with_name("away")
    site.daemon.state_dir.rename(away)
    page.click("Save")
    page.see(str(site.daemon.state_dir), "form .refused")
    assert page.value("limit") == "6"
    assert site.client.read_limit("unsaved").limit == 5
    away.rename(site.daemon.state_dir)
    page.click("Save")
    page.see("of 6", "[data-what=slots]")
    assert site.client.read_limit("unsaved").limit == 6


def test_numbers_beyond_all_bounds(site: Site, page: Page) -> None:
    """They are not even sent."""
    site.client.create_limit("refused", 5)
    page.open("/limits/refused")
    page.click("Edit")
    page.fill("decay", "1e400")
    page.see("A rate such as 100/min", "#wrong-decay")
    page.fill("limit", "99999999999999999999")
    page.see("At most", "#wrong-limit")
    page.click("Save")
    assert page.value("limit") == "99999999999999999999"
    assert site.client.read_limit("refused").limit == 5
