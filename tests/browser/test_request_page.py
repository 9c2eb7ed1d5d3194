"""Tests of a request's page: waiting hosts, counts, actions, and where the gallery begins."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import OpenPage
from tests.browser.page_object import table_with_failing_image
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external

LONG_WAIT = {"Retry-After": "900"}


def test_waiting_host_is_shown_with_reason_and_next_attempt_and_can_be_given_up(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    down = origin.script("/down.jpg", Reply(503, headers=LONG_WAIT))
    request_id = service.upload(table([(1, "Rug", origin.photo(1)), (2, "Lamp", down)]))
    ui = open_page(f"{service.url}/#/request/{request_id}")
    page = ui.page
    waiting = page.get_by_role("region", name="Waiting for another attempt")
    host = f"127.0.0.1:{origin.port}"
    expect(waiting).to_contain_text(f"Server error (503): {host} (1 image)")
    expect(waiting).to_contain_text(re.compile(r"Next attempt in \d+ min"))
    expect(page.get_by_text("Waiting for hosts that do not answer")).to_be_visible()
    waiting.get_by_role("button", name=f"Stop trying {host}").click()
    ui.wait_for_status("Cancelled")
    expect(waiting).to_be_hidden()
    expect(page.locator(".progress-line")).to_have_text("1 of 2 images done, 1 cancelled")


def test_cancelled_images_can_be_continued(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    request_id = service.upload(table([(1, "Held", held)]))
    service.post(f"/cancelRequest/{request_id}")
    origin.open_gate("go")
    ui = open_page(f"{service.url}/#/request/{request_id}")
    ui.page.get_by_role("button", name="Continue with 1 cancelled image").click()
    ui.wait_for_status("Done")


def test_request_runs_again_with_other_settings(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    request_id = service.upload(table([(1, "Rug", origin.photo(1))]), "?name=spring.csv")
    service.finished(request_id)
    ui = open_page(f"{service.url}/#/request/{request_id}")
    page = ui.page
    expect(page.get_by_text("Quality 50% of the original · same format")).to_be_visible()
    page.get_by_role("button", name="Run again").click()
    dialog = page.get_by_role("dialog", name="Run this request again")
    dialog.get_by_label("Format").select_option("WebP")
    dialog.get_by_label("Download every image again").check()
    dialog.get_by_role("button", name="Run again").click()
    page.wait_for_url(lambda url: "#/request/" in url and request_id not in url)
    ui.wait_for_status("Done")
    expect(page.get_by_text("Quality 50% of the original · WebP")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text("spring.csv")
    assert origin.hits("/photo/1.jpg") == 2


def test_cancel_that_comes_too_late_is_no_alarm(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    ui = open_page(service.url)
    page = ui.page
    ui.upload(table([(1, "Held", held)]))

    def finish_first(route: Route) -> None:
        origin.open_gate("go")
        service.finished(page.url.rpartition("/")[2])
        route.continue_()

    page.route("**/cancelRequest/*", finish_first)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the request").click()
    expect(page.get_by_text("It finished before it could be cancelled.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    ui.wait_for_status("Done")


def test_error_disappears_when_the_server_answers_again(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    ui = open_page(service.url)
    page = ui.page
    ui.upload(table([(1, "Held", held)]))
    page.route("**/cancelRequest/*", lambda route: route.abort())
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the request").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    origin.open_gate("go")
    ui.wait_for_status("Done")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_retry_counts_failures_and_reports_the_time_of_the_last_run(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    request_id = service.upload(table_with_failing_image(origin))
    first = service.finished(request_id)
    ui = open_page(f"{service.url}/#/request/{request_id}")
    expect(ui.page.locator(".progress-line")).to_have_text("2 of 3 images done, 1 failed")
    origin.script("/gone.jpg", Reply(photo="/photo/3.jpg"))
    ui.page.get_by_role("button", name="Try 1 failed image again").click()
    ui.wait_for_status("Done")
    expect(ui.page.locator(".progress-line")).to_have_text("3 of 3 images done")
    assert service.status(request_id)["startedAt"] > first["finishedAt"]


def test_finished_request_notices_a_retry_by_another_page(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    request_id = service.upload(table_with_failing_image(origin))
    service.finished(request_id)
    ui = open_page("about:blank")
    ui.page.clock.install()
    ui.page.goto(f"{service.url}/#/request/{request_id}")
    ui.wait_for_status("Finished, 1 failed")
    origin.script("/gone.jpg", Reply(gate="go", photo="/photo/3.jpg"))
    service.post(f"/retryFailed/{request_id}")
    ui.page.clock.run_for(11_000)
    ui.wait_for_status("In progress")
    origin.open_gate("go")
    ui.wait_for_status("Done")


def test_gallery_begins_in_the_upper_part_of_the_window_despite_failures(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    request_id = service.upload(table_with_failing_image(origin), "?name=spring.csv")
    service.finished(request_id)
    ui = open_page(f"{service.url}/#/request/{request_id}", width=1280, height=800)
    expect(ui.page.get_by_role("heading", name="1 image failed")).to_be_visible()
    gallery = ui.page.locator(".gallery").bounding_box()
    assert gallery is not None
    assert gallery["y"] < 500


def test_filter_bar_stays_visible_and_covers_no_focused_card(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    rows = ((n, f"Product {n}", origin.photo(n % 5)) for n in range(200))
    request_id = service.upload(table(rows))
    service.finished(request_id)
    ui = open_page(f"{service.url}/#/request/{request_id}", width=800, height=600)
    page = ui.page
    expect(page.locator(".result-count")).to_have_text("200 images")
    ui.cards.first.focus()
    page.keyboard.press("End")
    expect(ui.cards.last).to_be_focused()
    expect(page.get_by_role("searchbox")).to_be_in_viewport()
    for _ in range(12):
        page.keyboard.press("ArrowUp")
        focused, bar = page.locator(".card:focus").bounding_box(), page.locator(".toolbar")
        box = bar.bounding_box()
        assert focused is not None
        assert box is not None
        assert focused["y"] >= box["y"] + box["height"]


def test_unknown_request_offers_no_retry(open_page: OpenPage, service: Service) -> None:
    page = open_page(f"{service.url}/#/request/00000000-0000-4000-8000-000000000000").page
    expect(page.get_by_role("alert")).to_contain_text("Request not found")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
