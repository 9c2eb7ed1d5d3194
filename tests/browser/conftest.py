"""Fixtures that open the page of a running service in Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from tests.browser.page_object import PageObject

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LOAD_FAILED = "Failed to load resource"
"""Start of the console message for every error response. Tests expect some of these responses."""

TIMEOUT_MS = 30_000
"""Timeout of browser actions and expectations. Long, because a busy machine slows the browser down."""
expect.set_options(timeout=TIMEOUT_MS)

OpenPage = Callable[..., PageObject]


@pytest.fixture(scope="package")  # its event loop must end with the package
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Return the function `open_page(url, width=1440, height=900, scheme="light")`.

    It opens a URL in a new browser context and returns its `PageObject`. The test fails if a script
    raises, if the Content-Security-Policy blocks something, or if the browser sends a request to a host
    that is not loopback.
    """
    contexts = []
    errors: list[str] = []

    def record_errors(page: Page) -> None:
        page.on("pageerror", lambda error: errors.append(f"raised: {error}"))
        page.on(
            "console",
            lambda message: (
                errors.append(message.text)
                if message.type in {"error", "warning"} and not message.text.startswith(LOAD_FAILED)
                else None
            ),
        )
        page.on("request", record_foreign_request)

    def record_foreign_request(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in {"http", "https"} and url.hostname not in {"127.0.0.1", "localhost"}:
            errors.append(f"sent a request to a foreign host: {request.url}")

    def open_url(
        url: str, *, width: int = 1440, height: int = 900, scheme: str = "light"
    ) -> PageObject:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            locale="en-GB",
            accept_downloads=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        record_errors(page)
        page.goto(url)
        return PageObject(page)

    yield open_url
    for context in contexts:
        context.close()
    assert errors == []
