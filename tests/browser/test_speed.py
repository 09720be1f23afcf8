"""How soon there is something to see."""

from __future__ import annotations

import statistics

from tests.browser.page import Page
from tests.browser.site import Site

FIRST_PAINT_MS = 300  # on loopback

# The first frame in which something was drawn, after the navigation began.
_FIRST_PAINT = """
const found = performance.getEntriesByName('first-contentful-paint')[0];
return found ? found.startTime : null;
"""


def test_first_paint(site: Site, page: Page) -> None:
    """Without a cache. The least of several, since other tests have the same cores."""
    site.client.create_limit("painted", 3)
    page.devtools("Network.setCacheDisabled", cacheDisabled=True)
    took = []
    for _ in range(5):
        page.open("/limits")
        page.see("painted", ".limits .name")
        took.append(float(page.until(lambda: page.js(_FIRST_PAINT), "the first paint")))
    page.devtools("Network.setCacheDisabled", cacheDisabled=False)
    print(
        f"first paint: {min(took):.0f} to {max(took):.0f} ms, median {statistics.median(took):.0f}"
    )
    assert min(took) < FIRST_PAINT_MS
