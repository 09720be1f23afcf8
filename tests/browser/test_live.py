"""What happens elsewhere is seen here, also when the daemon or the web process goes and comes back."""

from __future__ import annotations

import signal

from tests.browser.conftest import Console
from tests.browser.page import Page
from tests.browser.site import Site
from tests.support import wait_until

# What the console says of a server that is not there.
GONE = (
    "ERR_CONNECTION_REFUSED",
    "ERR_CONNECTION_RESET",
    "ERR_EMPTY_RESPONSE",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
)

# How often the page was drawn while this ran: changes less than 60 ms apart belong to one drawing.
_DRAWINGS = """
const [seconds, done] = arguments;
let drawings = 0, last = -Infinity;
const all = {subtree: true, childList: true, attributes: true, characterData: true};
const watcher = new MutationObserver(() => {
  const now = performance.now();
  if (now - last > 60) drawings += 1;
  last = now;
});
watcher.observe(document.getElementById("main"), all);
setTimeout(() => { watcher.disconnect(); done(drawings); }, seconds * 1000);
"""


def test_what_the_command_line_does_is_seen_at_once(site: Site, page: Page) -> None:
    page.open("/limits?q=elsewhere")
    page.see("No limit matches")
    site.cli("create", "elsewhere", "--limit", "2")
    page.see("elsewhere", ".limits .name")
    page.see("0 / 2", ".use")
    site.job("elsewhere")
    page.see("1 / 2", ".use")
    site.cli("update", "elsewhere", "--limit", "1")
    page.see("1 / 1", ".use")
    site.job("elsewhere")
    page.see("full", ".state")
    page.see("1", ".waiting .hot")
    site.cli("disable", "elsewhere")
    page.see("inactive", ".state")
    site.cli("delete", "elsewhere", "--yes")
    page.see("No limit matches")


def test_a_limit_that_is_deleted_under_its_page(site: Site, page: Page) -> None:
    site.client.create_limit("going", 1)
    page.open("/limits/going")
    page.see("Nobody holds a slot")
    site.cli("delete", "going", "--yes")
    page.see("No such limit", "h1")
    site.cli("create", "going", "--limit", "3")
    page.see("0 of 3", "[data-what=slots]")


def test_who_waits_for_what_and_what_happened(site: Site, page: Page) -> None:
    """The line says what else a request lacks; the events, the charts and the code are there."""
    site.client.create_limit("line", 1)
    site.client.create_limit("other", 1)
    holder = site.holds("line")
    other = site.job("other")
    page.open("/limits/line")
    both = site.holds("line", "other")
    page.see(str(both.pid), "[aria-label='Who waits']")
    page.see("other", "[aria-label='Who waits'] .also")
    page.see("waits", ".events .tag")
    page.see("watching since", ".history")
    page.see("Slots in use", ".chart")
    page.until(lambda: page.js("return document.querySelectorAll('.chart canvas').length") == 4, "")
    page.click("1 h", ".history button")
    page.see("1 h", ".history [aria-pressed=true]")
    page.click("async Python")
    page.see("async with concurrency('line')", ".snippet")
    page.click("Command")
    page.see("atmost run line", ".snippet")
    holder.kill()
    page.see("died", ".events .tag")
    page.see("Nobody holds a slot")
    other.kill()
    page.see(str(both.pid), "[aria-label='Who holds']")


def test_times_are_those_of_the_reader(site: Site, page: Page) -> None:
    """Ages are shown, the exact time in the reader's own zone is told on hover."""
    page.devtools("Emulation.setTimezoneOverride", timezoneId="Pacific/Auckland")
    site.client.create_limit("timed", 1)
    site.job("timed")
    page.open("/limits/timed")
    since = page.see("s", "[aria-label='Who holds'] time")
    assert "(Pacific/Auckland)" in (since.get_attribute("title") or "")
    page.devtools("Emulation.setTimezoneOverride", timezoneId="")


def test_it_is_drawn_at_most_four_times_a_second(site: Site, page: Page) -> None:
    """Though much more happens, and all of it is seen in the end."""
    site.client.create_limit("busy", 1000, slot_decay_per_second=1000)
    page.open("/limits/busy")
    page.see("Nobody holds", ".people")
    page.driver.set_script_timeout(30)
    site.churn("busy")
    page.see("released", ".events .tag")
    seconds = 3
    drawings = page.driver.execute_async_script(_DRAWINGS, seconds)
    assert 2 <= drawings <= 4 * seconds + 1
    site.end_jobs()
    page.see("Nobody holds", ".people")


def test_the_daemon_is_killed_and_comes_back(
    own_site: Site, own_page: Page, console: Console
) -> None:
    """A banner with the way out, the last known data greyed, no control that would fail; then all of it
    is alive again, and nobody lost anything."""
    console.expect("503 (Service Unavailable)")
    own_site.client.create_limit("kept", 1)
    own_page.open("/limits/kept")
    holder = own_site.job("kept")
    own_page.see("1 of 1", "[data-what=slots]")
    own_page.click("Edit")
    own_page.fill("limit", "4")
    own_site.daemon.stop(signal.SIGKILL)
    own_page.see("The daemon is gone", ".banner")
    own_page.see("start one with", ".banner")
    own_page.see("nothing can be changed until it is back", "dialog")
    assert own_page.value("limit") == "4"
    assert own_page.js("return getComputedStyle(document.querySelector('main')).opacity") < "0.7"
    own_page.see("1 of 1", "[data-what=slots]")
    off = own_page.find(".acts button", "Delete")
    assert off is not None
    assert off.get_attribute("aria-disabled") == "true"
    assert "The daemon is gone" in (off.get_attribute("title") or "")
    own_site.daemon.start()
    own_page.see_not("", ".banner")
    own_page.click("Save")
    own_page.see("1 of 4", "[data-what=slots]")
    wait_until(lambda: own_site.states("kept") == (1, 0))
    assert holder.poll() is None


def test_the_web_process_is_killed_and_comes_back(
    own_site: Site, own_page: Page, console: Console
) -> None:
    console.expect(*GONE)
    own_site.client.create_limit("still", 2)
    own_page.open("/limits")
    own_page.see("still", ".limits .name")
    own_site.web.kill()
    own_page.see("Not connected", ".banner")
    own_page.see("still", ".limits .name")
    own_site.web.start()
    own_page.see_not("", ".banner")
    own_site.cli("update", "still", "--limit", "5")
    own_page.see("0 / 5", ".use")


def test_a_web_process_with_another_token(own_site: Site, own_page: Page, console: Console) -> None:
    """What the page is not let in to see, it says where to get in."""
    console.expect(*GONE, "401 (Unauthorized)")
    own_page.open("/limits")
    own_page.see("No limits yet")
    own_site.web.kill()
    own_page.see("Is `atmost web` still running?", ".banner")
    own_site.web.forget_token()
    own_site.web.start()
    own_page.see("open the address that `atmost web` printed", ".banner")
    own_page.driver.get(own_site.web.entrance)
    own_page.see("No limits yet")
    own_page.see_not("", ".banner")


def test_more_tabs_than_a_browser_has_connections(site: Site, page: Page) -> None:
    """Who is not looked at gives its connection back, and is up to date when looked at again."""
    site.client.create_limit("tabbed", 2)
    page.open("/limits/tabbed")
    page.see("0 of 2", "[data-what=slots]")
    first = page.driver.current_window_handle
    for _ in range(8):
        page.driver.switch_to.new_window("tab")
        page.open("/limits/tabbed")
        page.see("0 of 2", "[data-what=slots]")
    site.cli("update", "tabbed", "--limit", "6")
    page.see("0 of 6", "[data-what=slots]")
    for handle in page.driver.window_handles:
        page.driver.switch_to.window(handle)
        page.see("0 of 6", "[data-what=slots]")
        if handle != first:
            page.driver.close()
    page.driver.switch_to.window(first)
