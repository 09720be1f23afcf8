"""Who may not change limits sees all, and sees why nothing can be changed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.bounded import NOBODY
from tests.browser.conftest import Console
from tests.browser.page import Page
from tests.browser.site import Site
from tests.support_tools import leave_out


@pytest.fixture
def nobodys_site() -> Iterator[Site]:
    """Its web process belongs to a user without rights, in a folder that this user can reach."""
    leave_out("" if os.geteuid() == 0 else "it takes root, to become another user")
    folder = Path(tempfile.mkdtemp(prefix="atmost-"))
    folder.chmod(0o755)
    made = Site(folder, user=NOBODY)
    yield made
    made.close()
    shutil.rmtree(folder)


def test_controls_are_off_with_the_reason(
    nobodys_site: Site, driver: Chrome, console: Console
) -> None:
    nobodys_site.client.create_limit("not-yours", 1)
    holder = nobodys_site.job("not-yours")
    page = Page(driver, nobodys_site.web)
    page.look_like()
    page.open("/limits/not-yours")
    page.see("1 of 1", "[data-what=slots]")
    page.see("may use limits but not change them", ".why")
    for words in ("Edit", "Disable", "Reset spent", "Delete", "One slot more"):
        off = page.see(words, "button")
        assert off.get_attribute("aria-disabled") == "true", words
        assert "not change them" in (off.get_attribute("title") or ""), words
        off.click()
    page.see("Release what pid", "button").click()
    assert page.find("dialog") is None
    page.open("/new")
    page.see("not change them", "form .refused")
    page.fill("name", "mine")
    page.see("Create", "form button").click()
    assert [record.name for record in nobodys_site.client.list_limits()] == ["not-yours"]
    assert nobodys_site.client.read_limit("not-yours").limit == 1
    assert holder.poll() is None
    driver.get("about:blank")
