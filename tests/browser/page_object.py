"""What a visitor does with the page, and sees of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.origin import Origin, Reply
from tests.service_process import table

TRANSITIONS_END = """
Promise.all(document.getAnimations()
  .filter((animation) => animation.effect.getTiming().iterations !== Infinity)
  .map((animation) => animation.finished.catch(() => null)))
  .then(() => null)
"""


def with_a_failure(origin: Origin) -> bytes:
    """Two products with three images, of which `/gone.jpg` fails."""
    missing = origin.script("/gone.jpg", Reply(404))
    return table([(1, "Whole", origin.photo(1)), (2, "Broken", [origin.photo(2), missing])])


class PageObject:
    """A page in a browser, with the steps that several tests take."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def choose(self, body: bytes, name: str = "products.csv") -> None:
        """Choose a file, as by its dialog."""
        self.page.set_input_files("#file", {"name": name, "mimeType": "text/csv", "buffer": body})

    def upload(self, body: bytes, name: str = "products.csv") -> str:
        """Choose a file, wait for its check, send it; return the request's id."""
        self.choose(body, name)
        self.page.get_by_role("button", name="Compress ").click()
        self.page.wait_for_url("**/#/request/*")
        return self.page.url.rpartition("/")[2]

    def finished(self, word: str) -> None:
        """Wait until the request's heading says that it is `word`."""
        expect(self.page.locator("main .section-head .badge")).to_have_text(word, timeout=60_000)

    @property
    def cards(self) -> Locator:
        return self.page.locator(".card")

    def download(self, name: str) -> bytes:
        """Follow a download link, and return what came."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name=name, exact=True).click()
        return Path(download.value.path()).read_bytes()

    def violations(self) -> list[str]:
        """What axe-core finds wrong with the page as it is now."""
        spec = find_spec("axe_playwright_python")
        assert spec is not None
        assert spec.origin is not None
        self.settle()
        self.page.evaluate((Path(spec.origin).parent / "axe.min.js").read_text())
        found: dict[str, Any] = self.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']})"
        )
        return [
            f"{violation['id']}: {', '.join(str(node['target']) for node in violation['nodes'])}"
            for violation in found["violations"]
        ]

    def settle(self) -> None:
        """Let transitions end: a colour on its way is nobody's choice."""
        self.page.evaluate(TRANSITIONS_END)

    def too_wide(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))
