"""Tests of what precedes a request: cancelling, dropping, trying some images, old browsers."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import OpenPage
from tests.browser.page_object import table_with_failing_image
from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table
from tests.waiting import block_until

pytestmark = pytest.mark.external

KEY = "open-sesame-open-sesame"


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    """Drop files on the page. Fail if the page does not catch them: the browser would leave it."""
    data = page.evaluate_handle(
        """files => {
            const data = new DataTransfer();
            for (const [name, text] of files)
                data.items.add(new File([text], name, { type: "text/csv" }));
            return data;
        }""",
        [[name, body.decode()] for name, body in files],
    )
    assert page.evaluate(
        """data => ["dragover", "drop"].every((type) => !document.body.dispatchEvent(
            new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true })))""",
        data,
    )


def hold(_: Route) -> None:
    """Send no response."""


def request_names(service: Service) -> list[str | None]:
    return [request["name"] for request in service.get("/listRequests").json()["requests"]]


def test_cancel_upload_stops_it_and_shows_the_form_again(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(table([(1, "Rug", origin.photo(1))]))
    compress = page.get_by_role("button", name="Compress 1 image")
    page.get_by_text("Options").click()
    page.get_by_label("Name", exact=True).fill("spring")
    page.route("**/processImages*", hold)
    compress.click()
    page.get_by_role("button", name="Cancel upload").click()
    expect(compress).to_be_focused()
    expect(page.get_by_label("Name", exact=True)).to_have_value("spring")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.unroute("**/processImages*")
    assert request_names(service) == []
    compress.click()
    ui.wait_for_status("Done")
    assert request_names(service) == ["spring"]


def test_choosing_another_file_stops_the_check(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    ui.page.route("**/processImages*", hold)
    with ui.page.expect_event("requestfailed") as failed:
        ui.choose_file(table([(1, "Rug", origin.photo(1))]))
        expect(ui.page.get_by_text("Checking every row…")).to_be_visible()
        ui.page.get_by_role("button", name="Choose another file").click()
    assert "dryRun" in failed.value.url
    expect(ui.page.locator("#file")).to_be_focused()


def test_file_dropped_on_another_view_is_checked(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    page = open_page(f"{service.url}/#/requests").page
    expect(page.get_by_role("heading", name="No requests yet")).to_be_visible()
    body = table([(1, "Rug", origin.photo(1))])
    drop(page, ("first.csv", body), ("second.csv", body))
    expect(page.get_by_role("heading", name="first.csv")).to_be_visible()
    expect(page.locator("#toast")).to_have_text(
        "Only one file can be uploaded at a time: first.csv."
    )
    expect(page.get_by_role("button", name="Compress 1 image")).to_be_visible()


def test_trial_shows_images_and_expected_bytes_and_is_deleted(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    rows = [(n, f"Product {n}", [origin.photo(n), origin.photo(n + 10)]) for n in range(4)]
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(table(rows))
    page.get_by_text("Options").click()
    page.get_by_label("Format").select_option("WebP")
    page.get_by_role("button", name="Try 3 images first").click()
    trial = page.get_by_role("region", name="About")
    expect(trial.get_by_role("heading")).to_have_text(
        re.compile(r"^About \d+% smaller: [\d.]+ kB → [\d.]+ kB expected for 8 images$")
    )
    expect(trial.locator(".card")).to_have_count(3)
    assert request_names(service) == ["Trial"]
    assert origin.hits() == 3
    trial.locator(".card").first.click()
    dialog = page.get_by_role("dialog", name="Product 0")
    expect(dialog.get_by_role("slider")).to_be_visible()
    expect(dialog).to_contain_text("WEBP")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compress 8 images").click()
    ui.wait_for_status("Done")
    block_until(lambda: request_names(service) == ["products.csv"], "the deletion of the trial")


def test_unfinished_trial_is_cancelled_and_deleted_when_the_page_is_closed(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="never"))
    ui = open_page(service.url)
    ui.choose_file(table([(1, "Held", held)]))
    ui.page.get_by_role("button", name="Try 1 image first").click()
    origin.wait_for_hits("/held.jpg", 1)
    ui.page.get_by_role("link", name="Requests", exact=True).click()
    block_until(lambda: request_names(service) == [], "the deletion of the trial")
    origin.open_gate("never")


def test_equal_problems_are_folded(open_page: OpenPage, service: Service) -> None:
    ui = open_page(service.url)
    rows = [(n, f"Product {n}", "www.shop.example/1.jpg") for n in range(60)]
    ui.choose_file(table([*rows, (60, "", "https://shop.example/1.jpg")]))
    errors = ui.page.locator(".file-errors")
    expect(errors.locator("tbody th")).to_have_text(["2", "3", "4", "5", "6", "62"])
    drop_zone = ui.page.locator(".drop-zone").bounding_box()
    assert drop_zone is not None
    assert drop_zone["y"] < 1_200
    errors.get_by_role("button", name="Show 55 more rows with the same problems").click()
    expect(errors.locator("tbody th")).to_have_count(61)


@pytest.mark.parametrize("name", ["AbortSignal.any", "Map.groupBy"])
def test_old_browser_is_told_which_versions_work(
    open_page: OpenPage, service: Service, name: str
) -> None:
    page = open_page("about:blank").page
    page.add_init_script(f"delete {name};")
    page.goto(service.url)
    expect(page.get_by_role("alert")).to_contain_text("This browser is too old for this page.")


def test_new_browser_gets_no_warning(open_page: OpenPage, service: Service) -> None:
    page = open_page(service.url).page
    expect(page.get_by_text("Choose a file")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_failing_script_is_reported(open_page: OpenPage, service: Service) -> None:
    page = open_page(service.url).page
    expect(page.get_by_text("Choose a file")).to_be_visible()
    page.evaluate(
        "window.dispatchEvent(new ErrorEvent('error', { error: new TypeError('x is not y') }))"
    )
    expect(page.get_by_role("alert")).to_contain_text(
        "Something went wrong on this page: x is not y."
    )


def test_page_says_that_one_must_sign_in_and_stays_calm_after_signing_out(
    open_page: OpenPage, start_service: StartService, origin: Origin
) -> None:
    service = start_service(server={"api_keys": [KEY]})
    page = open_page(f"{service.url}/#/requests").page
    page.get_by_role("textbox", name="API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No requests yet")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#toast")).to_have_text("Signed out.")
    expect(page.get_by_text("Sign in to upload a file.")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_list_of_requests_moves_and_is_searched_by_name(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    service.upload(table([(1, "Held", held)]), "?name=Spring catalogue".replace(" ", "%20"))
    service.finished(service.upload(table_with_failing_image(origin), "?name=autumn"))
    page = open_page(f"{service.url}/#/requests").page
    rows = page.locator("tbody tr")
    expect(rows.filter(has_text="Spring")).to_contain_text("0 of 1")
    expect(rows.filter(has_text="autumn")).to_contain_text("2 of 3 · 1 failed")
    link = page.get_by_role("link", name="Spring catalogue")
    link.focus()
    origin.open_gate("go")
    expect(rows.filter(has_text="Spring")).to_contain_text("Done")
    expect(link).to_be_focused()
    service.upload(table([(1, "New", origin.photo(7))]), "?name=winter")
    expect(rows.first).to_contain_text("winter")
    expect(page.get_by_role("heading", name="saved in 3 requests")).to_be_visible()
    page.get_by_role("searchbox", name="Search by name").fill("SPRING")
    expect(rows).to_have_count(1)
    page.get_by_role("searchbox", name="Search by name").fill("summer")
    expect(page.get_by_role("heading", name="No request is named “summer”")).to_be_visible()


def test_recent_requests_move(open_page: OpenPage, service: Service, origin: Origin) -> None:
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    service.upload(table([(1, "Held", held)]), "?name=spring")
    page = open_page(service.url).page
    row = page.get_by_role("table", name="Recent requests").locator("tbody tr")
    expect(row).to_contain_text("0 of 1")
    origin.open_gate("go")
    expect(row).to_contain_text("Done")
    expect(page.get_by_text(re.compile(r"saved in 1 request, 1 image$"))).to_be_visible()
