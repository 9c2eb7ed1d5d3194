"""A page object: the steps on the page that several tests use."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.origin import Origin, Reply
from tests.service_process import table

VISIBLE_IMAGES_LOADED = """
() => [...document.querySelectorAll(".card.completed")].every((card) => {
  const { top, bottom } = card.getBoundingClientRect();
  return bottom <= 0 || top >= innerHeight || card.querySelector("img")?.complete;
})
"""
WAIT_FOR_TRANSITIONS = """
Promise.all(document.getAnimations()
  .filter((animation) => animation.effect.getTiming().iterations !== Infinity)
  .map((animation) => animation.finished.catch(() => null)))
  .then(() => null)
"""


def table_with_failing_image(origin: Origin) -> bytes:
    """Return a CSV of two products with three images, of which `/gone.jpg` fails."""
    missing = origin.script("/gone.jpg", Reply(404))
    return table([(1, "Whole", origin.photo(1)), (2, "Broken", [origin.photo(2), missing])])


class PageObject:
    """A page in a browser, with the steps that several tests use."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def choose_file(self, body: bytes, name: str = "products.csv") -> None:
        """Choose a file, as with the file dialog."""
        self.page.set_input_files("#file", {"name": name, "mimeType": "text/csv", "buffer": body})

    def upload(self, body: bytes, name: str = "products.csv") -> str:
        """Choose a file, wait for its check and upload it. Return the ID of the request."""
        self.choose_file(body, name)
        self.page.get_by_role("button", name="Compress ").click()
        self.page.wait_for_url("**/#/request/*")
        return self.page.url.rpartition("/")[2]

    def wait_for_status(self, text: str) -> None:
        """Wait until the status beside the request's heading is `text`."""
        expect(self.page.locator("main .section-head .badge")).to_have_text(text, timeout=60_000)

    @property
    def cards(self) -> Locator:
        return self.page.locator(".card")

    def download(self, name: str) -> bytes:
        """Click a download link and return the content of the file."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name=name, exact=True).click()
        return Path(download.value.path()).read_bytes()

    def accessibility_violations(self) -> list[str]:
        """Return what axe-core finds wrong with the page in its current state."""
        spec = find_spec("axe_playwright_python")
        assert spec is not None
        assert spec.origin is not None
        self.wait_for_transitions()
        self.page.evaluate((Path(spec.origin).parent / "axe.min.js").read_text())
        results: dict[str, Any] = self.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']})"
        )
        return [
            f"{violation['id']}: {', '.join(str(node['target']) for node in violation['nodes'])}"
            for violation in results["violations"]
        ]

    def wait_for_transitions(self) -> None:
        """Wait for transitions to end: axe-core must not measure the colours in between."""
        self.page.evaluate(WAIT_FOR_TRANSITIONS)

    def horizontal_overflow(self) -> int:
        """Return how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))
