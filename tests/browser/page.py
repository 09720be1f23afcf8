"""The page as somebody sees and uses it: what can be read, what can be clicked and typed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.site import WebProcess
from tests.support import PATIENCE_SECONDS

LOOK_SECONDS = 0.03
T = TypeVar("T")

# What can be read, once: text of elements that are drawn, names of fields, what inputs have in them.
_SEEN = """
const [css, words] = arguments;
const shown = [...document.querySelectorAll(css)].filter((one) => one.checkVisibility());
const said = (one) => `${one.innerText ?? ''} ${one.getAttribute('aria-label') ?? ''}`;
return shown.find((one) => said(one).replace(/\\s+/g, ' ').includes(words)) ?? null;
"""


class Page:
    """One window."""

    def __init__(self, driver: Chrome, web: WebProcess) -> None:
        self.driver = driver
        self.web = web
        driver.get(web.entrance)

    def open(self, path: str) -> None:
        """Go there; it has answered and is drawn when `see` says so."""
        self.driver.get(self.web.url + path)

    def find(self, css: str, words: str = "") -> WebElement | None:
        """The first visible element with these words in it."""
        found: WebElement | None = self.driver.execute_script(_SEEN, css, words)
        return found

    def see(self, words: str, css: str = "body") -> WebElement:
        """Wait until it can be read there."""
        return self.until(lambda: self.find(css, words), f"{css} with {words!r}")

    def see_not(self, words: str, css: str = "body") -> None:
        """Wait until it can't be read there any more."""
        self.until(lambda: self.find(css, words) is None, f"no {css} with {words!r}")

    def until(self, state: Callable[[], T | None], what: str) -> T:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if found := state():
                    return found
            except StaleElementReferenceException:
                pass  # drawn anew in between
            if time.monotonic() > deadline:
                raise AssertionError(f"never seen: {what}; the page says:\n{self.text()}")
            time.sleep(LOOK_SECONDS)

    def click(self, words: str, css: str = "button, a") -> None:
        """Click what is called so, once it is there and can be used."""

        def clicked() -> bool:
            found = self.find(css, words)
            if found is None or found.get_attribute("aria-disabled") == "true":
                return False
            try:
                found.click()
            except WebDriverException as error:
                if "click intercepted" not in str(error):
                    raise
                return False
            return True

        self.until(clicked, f"{css} called {words!r}, to click")

    def fill(self, field: str, text: str) -> None:
        """Type it into the field of a form, in place of what is there."""
        found = self.until(lambda: self.find(f"#field-{field}"), f"the field {field}")
        found.send_keys(Keys.CONTROL, "a")
        found.send_keys(Keys.DELETE)
        if text:
            found.send_keys(text)

    def value(self, field: str) -> str:
        return str(self.js(f"return document.getElementById('field-{field}').value"))

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def select_all(self) -> None:
        held = ActionChains(self.driver, duration=0).key_down(Keys.CONTROL)
        held.send_keys("a").key_up(Keys.CONTROL).perform()

    def focused(self) -> str:
        """What has the focus, as its words."""
        return str(
            self.js(
                "const at = document.activeElement;"
                "return at.getAttribute('aria-label') || at.id || at.innerText || at.tagName"
            )
        )

    def text(self) -> str:
        return str(self.js("return document.body.innerText"))

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def devtools(self, command: str, **arguments: object) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def look_like(self, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """A window of this size, in this colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
