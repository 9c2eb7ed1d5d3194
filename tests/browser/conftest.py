"""A real Chromium on the real page of the real service."""

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
"""What Chromium says of every answer that is an error, expected or not."""

PATIENCE_MS = 30_000
"""A busy machine may keep the browser waiting: how long decides no test."""
expect.set_options(timeout=PATIENCE_MS)

Visit = Callable[..., PageObject]


@pytest.fixture(scope="package")  # its event loop must not outlast the package
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    """`visit(url, width=1440, scheme="light")` opens a page there, in a browser of its own.

    The test fails where a script raised, where the Content-Security-Policy stopped something, and where
    the browser asked any host but loopback for anything.
    """
    contexts = []
    complaints: list[str] = []

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: complaints.append(f"raised: {error}"))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text)
                if message.type in {"error", "warning"} and not message.text.startswith(LOAD_FAILED)
                else None
            ),
        )
        page.on("request", seen)

    def seen(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in {"http", "https"} and url.hostname not in {"127.0.0.1", "localhost"}:
            complaints.append(f"asked a foreign host: {request.url}")

    def go(url: str, *, width: int = 1440, height: int = 900, scheme: str = "light") -> PageObject:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            locale="en-GB",
            accept_downloads=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        watch(page)
        page.goto(url)
        return PageObject(page)

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
