"""The images of a request, as they become what they are."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import APIResponse, Route, expect

from tests.browser.conftest import Visit
from tests.browser.page_object import with_a_failure
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external


@pytest.mark.parametrize("words", ["", "held"])
def test_an_image_that_is_looked_at_early_shows_what_becomes_of_it(
    visit: Visit, service: Service, origin: Origin, words: str
) -> None:
    held = origin.script("/held.jpg", Reply(gate="early", photo="/photo/5.jpg"))
    visitor = visit(service.url)
    visitor.upload(table([(1, "Held", held)]))
    visitor.page.get_by_role("searchbox").fill(words)
    if words:
        expect(visitor.page.locator(".found")).to_have_text("1 of 1 image")
    visitor.cards.first.click()
    dialog = visitor.page.get_by_role("dialog", name="Held")
    expect(dialog.locator(".badge")).to_have_text(re.compile("Waiting|Working"))
    expect(dialog.get_by_role("slider")).to_have_count(0)
    origin.open_gate("early")
    expect(dialog.get_by_role("slider")).to_be_visible()
    visitor.page.keyboard.press("Escape")
    expect(visitor.cards.first).to_be_focused()


def test_what_another_page_tries_again_and_deletes(
    visit: Visit, service: Service, origin: Origin
) -> None:
    here = visit(service.url)
    request_id = here.upload(with_a_failure(origin))
    here.finished("Partly done")
    expect(here.page.locator(".card.failed")).to_have_count(1)
    origin.script("/gone.jpg", Reply(gate="again", photo="/photo/3.jpg"))
    there = visit(here.page.url)
    there.page.get_by_role("button", name="Try 1 failed image again").click()
    there.finished("Working")
    here.page.get_by_role("button", name="Try 1 failed image again").click()
    here.finished("Working")
    expect(here.page.locator(".card.failed")).to_have_count(0)
    origin.open_gate("again")
    here.finished("Done")
    expect(here.page.locator(".card.completed")).to_have_count(3)
    assert service.call("DELETE", f"/deleteRequest/{request_id}").status == 204
    here.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(here.page.get_by_role("alert")).to_contain_text("There is no request with this id")
    expect(here.cards).to_have_count(0)


def test_images_that_were_read_before_they_were_tried_again(
    visit: Visit, service: Service, origin: Origin
) -> None:
    request_id = service.upload(with_a_failure(origin))
    service.finished(request_id)
    visitor = visit("about:blank")
    before: list[tuple[Route, APIResponse]] = []

    def keep_the_first_answer(route: Route) -> None:
        if before:
            route.continue_()
        else:
            before.append((route, route.fetch()))

    visitor.page.route("**/checkStatus/*offset=0*", keep_the_first_answer)
    visitor.page.goto(f"{service.url}/#/request/{request_id}")
    again = visitor.page.get_by_role("button", name="Try 1 failed image again")
    while not before:
        visitor.page.wait_for_timeout(20)
    origin.script("/gone.jpg", Reply(photo="/photo/3.jpg"))
    again.click()
    visitor.finished("Done")
    [(route, answer)] = before
    route.fulfill(response=answer)
    expect(visitor.page.locator(".card.completed")).to_have_count(3)


def test_without_events_it_asks_again_and_again(
    visit: Visit, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/5.jpg"))
    visitor = visit(service.url)
    visitor.page.route("**/watchStatus/*", lambda route: route.fulfill(status=500))
    visitor.upload(table([(1, "Held", held)]))
    visitor.finished("Working")
    expect(visitor.page.locator(".card.processing")).to_have_count(1)
    origin.open_gate("go")
    visitor.finished("Done")
    expect(visitor.page.locator(".card.completed")).to_have_count(1)


def test_long_rows_after_short_ones_are_read(
    visit: Visit, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="never"))
    rows = [(n, "Long", [held] * 1000 if n > 25 else held) for n in range(1, 176)]
    request_id = service.upload(table(rows))
    page = visit(f"{service.url}/#/request/{request_id}").page
    expect(page.locator(".found")).to_have_text("150,025 images")
    origin.open_gate("never")


def test_what_is_finished_while_its_images_are_read_is_read_again(
    visit: Visit, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    visitor = visit(service.url)
    late: list[tuple[Route, APIResponse]] = []

    def keep_the_first_answer(route: Route) -> None:
        if late:
            route.continue_()
        else:
            late.append((route, route.fetch()))

    visitor.page.route("**/checkStatus/*offset=0*", keep_the_first_answer)
    visitor.upload(table([(1, "Held", held)]))
    visitor.finished("Working")
    while not late:
        visitor.page.wait_for_timeout(20)
    origin.open_gate("go")
    visitor.finished("Done")
    [(route, answer)] = late
    route.fulfill(response=answer)
    expect(visitor.page.locator(".card.completed")).to_have_count(1)


def test_how_many_images_were_found_is_said_once(
    visit: Visit, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    visitor = visit(service.url)
    visitor.upload(table([(1, "Held", held)]))
    found = visitor.page.locator(".found")
    expect(found).to_have_text("1 image")
    found.evaluate("""found => {
        window.said = 0;
        new MutationObserver(() => { window.said += 1; }).observe(found, { childList: true });
    }""")
    origin.open_gate("go")
    expect(visitor.page.locator(".card.completed")).to_have_count(1)
    assert visitor.page.evaluate("window.said") == 0


def test_images_are_read_once_where_nothing_changes(
    visit: Visit, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="still", photo="/photo/6.jpg"))
    request_id = service.upload(table([(1, "Held", held)]))
    origin.wait_for_hits("/held.jpg", 1)
    visitor = visit("about:blank")
    calls: list[str] = []
    visitor.page.on("request", lambda call: calls.append(call.url))
    visitor.page.goto(f"{service.url}/#/request/{request_id}")
    expect(visitor.page.locator(".card.processing")).to_be_visible()
    assert len([url for url in calls if "offset=0" in url]) == 1
    origin.open_gate("still")
    visitor.finished("Done")
    expect(visitor.page.locator(".card.completed")).to_be_visible()


def test_all_images_are_read_while_one_in_sight_is_slow(
    visit: Visit, service: Service, origin: Origin
) -> None:
    slow = origin.script("/slow.jpg", Reply(gate="never"))
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    visitor = visit(service.url)
    first_page: list[tuple[Route, APIResponse]] = []
    visitor.page.route(
        "**/checkStatus/*offset=0*", lambda route: first_page.append((route, route.fetch()))
    )
    visitor.upload(table([(1, "Slow", slow), *((n, f"Held {n}", held) for n in range(2, 31))]))
    visitor.finished("Working")
    while not first_page:
        visitor.page.wait_for_timeout(20)
    origin.open_gate("go")
    expect(visitor.page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "29")
    route, answer = first_page[0]
    route.fulfill(response=answer)
    expect(visitor.page.locator(".found")).to_have_text("30 images")
    origin.open_gate("never")


def test_images_that_were_not_read_are_read_when_there_is_news(
    visit: Visit, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    visitor = visit(service.url)
    visitor.page.route("**/checkStatus/*offset=0*", lambda route: route.abort())
    visitor.upload(table([(1, "Held", held)]))
    expect(visitor.page.get_by_role("alert")).to_contain_text("cannot be reached")
    visitor.page.unroute("**/checkStatus/*offset=0*")
    origin.open_gate("go")
    expect(visitor.page.locator(".card.completed")).to_have_count(1)
    expect(visitor.page.get_by_role("alert")).to_have_count(0)
