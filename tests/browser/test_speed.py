"""Tests of the speed of the page: bytes of the first load, and 10,000 images."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Response, expect

from tests.browser.conftest import OpenPage
from tests.browser.page_object import VISIBLE_IMAGES_LOADED
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external

MAX_FIRST_LOAD_BYTES = 150_000
MAX_IMAGE_BYTES = 150_000
OBSERVE_LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longTasks.push(Math.round(entry.duration));
}).observe({ type: "longtask", buffered: true });
"""


def test_first_load_of_start_page_stays_under_the_byte_limit(
    open_page: OpenPage, service: Service
) -> None:
    page = open_page("about:blank").page
    sizes: dict[str, int] = {}

    def add(response: Response) -> None:
        sizes[response.url] = len(response.body())

    page.on("response", add)
    page.goto(service.url, wait_until="networkidle")
    expect(page.get_by_text("Choose a file")).to_be_visible()
    assert sum(sizes.values()) < MAX_FIRST_LOAD_BYTES, sizes
    print(f"first load: {sum(sizes.values())} bytes, {len(sizes)} files")


def long_tasks(page: Page) -> list[int]:
    """Return the durations, in milliseconds, of the tasks over 50 ms since the last call."""
    return list(page.evaluate("window.longTasks.splice(0)"))


def test_gallery_of_10000_images_keeps_few_cards_in_the_document(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    # The table repeats twenty images and one that fails. Each is downloaded once.
    urls = [origin.photo(n) for n in range(20)] + [origin.script("/gone.jpg", Reply(404))]
    request_id = service.upload(
        table(
            (
                n,
                f"Walnut board {n}" if n % 10 == 0 else f"Product {n}",
                [urls[(n * 4 + k) % 21] for k in range(4)],
            )
            for n in range(2_500)
        )
    )
    service.finished(request_id)
    ui = open_page("about:blank")
    page = ui.page
    page.add_init_script(OBSERVE_LONG_TASKS)
    page.goto(f"{service.url}/#/request/{request_id}")
    result_count = page.locator(".result-count")
    expect(result_count).to_have_text("10,000 images")
    tasks = {"load": long_tasks(page)}
    max_cards = 0
    for _ in range(40):
        page.mouse.wheel(0, 2_000)
        page.wait_for_timeout(30)
        max_cards = max(max_cards, ui.cards.count())
    for fraction in (0.2, 0.9, 0.5, 1.0, 0.0):
        page.evaluate("y => scrollTo(0, document.documentElement.scrollHeight * y)", fraction)
        expect(ui.cards.first).to_be_visible()
        max_cards = max(max_cards, ui.cards.count())
    tasks["scroll"] = long_tasks(page)
    page.get_by_role("searchbox").press_sequentially("walnut", delay=30)
    expect(result_count).to_have_text("1,000 of 10,000 images")
    page.get_by_role("radio", name="Failed").check()
    expect(result_count).not_to_have_text("1,000 of 10,000 images")
    page.get_by_role("searchbox").fill("no such thing")
    expect(result_count).to_contain_text("No image matches")
    page.get_by_role("searchbox").fill("")
    page.get_by_role("radio", name="All").check()
    expect(result_count).to_have_text("10,000 images")
    tasks["filter"] = long_tasks(page)
    max_cards = max(max_cards, ui.cards.count())
    # The duration of tasks depends on the load of the machine, so the test asserts the number of cards
    # instead. On an idle machine no task is longer than 200 ms.
    print(f"tasks over 50 ms: {tasks}; cards in the document: {max_cards}")
    assert max_cards < 200, "only visible cards are in the document"


def test_images_before_the_first_scroll_stay_under_the_byte_limit(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    """The table repeats forty photographs, more than are visible. Each has its own thumbnail."""
    urls = [origin.photo(n, "jpg", "?w=1000&h=750") for n in range(40)]
    sizes: dict[str, int] = {}
    longest = {}
    for images in (50, 5_000):
        rows = ((n, f"Product {n}", urls[n % 40]) for n in range(images))
        request_id = service.upload(table(rows))
        service.finished(request_id)
        page = open_page("about:blank").page
        page.add_init_script(OBSERVE_LONG_TASKS)
        sizes.clear()
        page.on("response", lambda response: add_image(sizes, response))
        page.goto(f"{service.url}/#/request/{request_id}")
        expect(page.locator(".result-count")).to_contain_text(f"{images:,} images")
        page.wait_for_function(VISIBLE_IMAGES_LOADED)
        longest[images] = max(long_tasks(page), default=0)
        assert 0 < sum(sizes.values()) < MAX_IMAGE_BYTES, sizes
        print(f"{images} images: {sum(sizes.values())} bytes in {len(sizes)} images")
    # As above, the duration is reported and not asserted.
    print(f"longest task of 50 and of 5,000 images, in milliseconds: {longest}")


def add_image(sizes: dict[str, int], response: Response) -> None:
    if "/images/" in response.url:
        sizes[response.url] = len(response.body())
