"""Tests of the gallery: how its images follow the state of the request."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import APIResponse, Route, expect

from tests.browser.conftest import OpenPage
from tests.browser.page_object import table_with_failing_image
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external


@pytest.mark.parametrize("search", ["", "held"])
def test_dialog_of_unfinished_image_is_updated_when_the_image_is_finished(
    open_page: OpenPage, service: Service, origin: Origin, search: str
) -> None:
    held = origin.script("/held.jpg", Reply(gate="dialog", photo="/photo/5.jpg"))
    ui = open_page(service.url)
    ui.upload(table([(1, "Held", held)]))
    ui.page.get_by_role("searchbox").fill(search)
    if search:
        expect(ui.page.locator(".result-count")).to_have_text("1 of 1 image")
    ui.cards.first.click()
    dialog = ui.page.get_by_role("dialog", name="Held")
    expect(dialog.locator(".badge")).to_have_text(re.compile("Queued|In progress"))
    expect(dialog.get_by_role("slider")).to_have_count(0)
    origin.open_gate("dialog")
    expect(dialog.get_by_role("slider")).to_be_visible()
    ui.page.keyboard.press("Escape")
    expect(ui.cards.first).to_be_focused()


def test_request_page_follows_retry_and_delete_in_another_window(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    first = open_page(service.url)
    request_id = first.upload(table_with_failing_image(origin))
    first.wait_for_status("Finished, 1 failed")
    expect(first.page.locator(".card.failed")).to_have_count(1)
    origin.script("/gone.jpg", Reply(gate="retry", photo="/photo/3.jpg"))
    second = open_page(first.page.url)
    second.page.get_by_role("button", name="Try 1 failed image again").click()
    second.wait_for_status("In progress")
    first.page.get_by_role("button", name="Try 1 failed image again").click()
    first.wait_for_status("In progress")
    expect(first.page.locator(".card.failed")).to_have_count(0)
    origin.open_gate("retry")
    first.wait_for_status("Done")
    expect(first.page.locator(".card.completed")).to_have_count(3)
    assert service.call("DELETE", f"/deleteRequest/{request_id}").status == 204
    first.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(first.page.get_by_role("alert")).to_contain_text("There is no request with this ID")
    expect(first.cards).to_have_count(0)


def test_gallery_drops_a_response_from_before_the_retry(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    request_id = service.upload(table_with_failing_image(origin))
    service.finished(request_id)
    ui = open_page("about:blank")
    delayed: list[tuple[Route, APIResponse]] = []

    def delay_first_response(route: Route) -> None:
        if delayed:
            route.continue_()
        else:
            delayed.append((route, route.fetch()))

    ui.page.route("**/checkStatus/*offset=0*", delay_first_response)
    ui.page.goto(f"{service.url}/#/request/{request_id}")
    retry = ui.page.get_by_role("button", name="Try 1 failed image again")
    while not delayed:
        ui.page.wait_for_timeout(20)
    origin.script("/gone.jpg", Reply(photo="/photo/3.jpg"))
    retry.click()
    ui.wait_for_status("Done")
    [(route, response)] = delayed
    route.fulfill(response=response)
    expect(ui.page.locator(".card.completed")).to_have_count(3)


def test_request_page_polls_if_server_sent_events_fail(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/5.jpg"))
    ui = open_page(service.url)
    ui.page.route("**/watchStatus/*", lambda route: route.fulfill(status=500))
    ui.upload(table([(1, "Held", held)]))
    ui.wait_for_status("In progress")
    expect(ui.page.locator(".card.processing")).to_have_count(1)
    origin.open_gate("go")
    ui.wait_for_status("Done")
    expect(ui.page.locator(".card.completed")).to_have_count(1)


def test_gallery_loads_long_rows_after_short_rows(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="never"))
    rows = [(n, "Long", [held] * 1000 if n > 25 else held) for n in range(1, 176)]
    request_id = service.upload(table(rows))
    page = open_page(f"{service.url}/#/request/{request_id}").page
    expect(page.locator(".result-count")).to_have_text("150,025 images")
    origin.open_gate("never")


def test_gallery_reloads_images_that_finished_during_the_load(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    ui = open_page(service.url)
    delayed: list[tuple[Route, APIResponse]] = []

    def delay_first_response(route: Route) -> None:
        if delayed:
            route.continue_()
        else:
            delayed.append((route, route.fetch()))

    ui.page.route("**/checkStatus/*offset=0*", delay_first_response)
    ui.upload(table([(1, "Held", held)]))
    ui.wait_for_status("In progress")
    while not delayed:
        ui.page.wait_for_timeout(20)
    origin.open_gate("go")
    ui.wait_for_status("Done")
    [(route, response)] = delayed
    route.fulfill(response=response)
    expect(ui.page.locator(".card.completed")).to_have_count(1)


def test_image_count_is_not_announced_again_if_unchanged(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    ui = open_page(service.url)
    ui.upload(table([(1, "Held", held)]))
    result_count = ui.page.locator(".result-count")
    expect(result_count).to_have_text("1 image")
    result_count.evaluate("""element => {
        window.announcements = 0;
        const observer = new MutationObserver(() => { window.announcements += 1; });
        observer.observe(element, { childList: true });
    }""")
    origin.open_gate("go")
    expect(ui.page.locator(".card.completed")).to_have_count(1)
    assert ui.page.evaluate("window.announcements") == 0


def test_gallery_loads_images_once_if_nothing_changes(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="unchanged", photo="/photo/6.jpg"))
    request_id = service.upload(table([(1, "Held", held)]))
    origin.wait_for_hits("/held.jpg", 1)
    ui = open_page("about:blank")
    urls: list[str] = []
    ui.page.on("request", lambda request: urls.append(request.url))
    ui.page.goto(f"{service.url}/#/request/{request_id}")
    expect(ui.page.locator(".card.processing")).to_be_visible()
    assert len([url for url in urls if "offset=0" in url]) == 1
    origin.open_gate("unchanged")
    ui.wait_for_status("Done")
    expect(ui.page.locator(".card.completed")).to_be_visible()


def test_gallery_loads_all_pages_while_a_visible_image_is_slow(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    slow = origin.script("/slow.jpg", Reply(gate="never"))
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    ui = open_page(service.url)
    first_page: list[tuple[Route, APIResponse]] = []
    ui.page.route(
        "**/checkStatus/*offset=0*", lambda route: first_page.append((route, route.fetch()))
    )
    ui.upload(table([(1, "Slow", slow), *((n, f"Held {n}", held) for n in range(2, 31))]))
    ui.wait_for_status("In progress")
    while not first_page:
        ui.page.wait_for_timeout(20)
    origin.open_gate("go")
    expect(ui.page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "29")
    route, response = first_page[0]
    route.fulfill(response=response)
    expect(ui.page.locator(".result-count")).to_have_text("30 images")
    # The page asks again as the request ends, perhaps after the service has stopped.
    ui.page.unroute_all(behavior="ignoreErrors")
    origin.open_gate("never")


def test_gallery_loads_images_after_a_connection_error_when_the_status_changes(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    ui = open_page(service.url)
    ui.page.route("**/checkStatus/*offset=0*", lambda route: route.abort())
    ui.upload(table([(1, "Held", held)]))
    expect(ui.page.get_by_role("alert")).to_contain_text("cannot be reached")
    ui.page.unroute("**/checkStatus/*offset=0*")
    origin.open_gate("go")
    expect(ui.page.locator(".card.completed")).to_have_count(1)
    expect(ui.page.get_by_role("alert")).to_have_count(0)
