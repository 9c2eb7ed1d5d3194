"""Tests that every state of the page is accessible and fits the window, in all themes and widths."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.page_object import PageObject
from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external

WIDTHS_AND_SCHEMES = [(width, scheme) for width in (360, 768, 1440) for scheme in ("light", "dark")]


def assert_accessible(ui: PageObject, state: str) -> None:
    assert (state, ui.accessibility_violations()) == (state, [])
    assert (state, ui.horizontal_overflow()) == (state, 0)


@pytest.mark.parametrize(("width", "scheme"), WIDTHS_AND_SCHEMES)
def test_every_state_is_accessible_and_fits_the_window(
    open_page: OpenPage, service: Service, origin: Origin, width: int, scheme: str
) -> None:
    ui = open_page(service.url, width=width, scheme=scheme)
    page = ui.page
    expect(page.get_by_text("Choose a file")).to_be_visible()
    page.get_by_text("Example file").click()
    assert_accessible(ui, "empty")
    ui.choose_file(b"S. No.,Product Name,Input Image Urls\n1,,ftp://shop.example/a.jpg\n")
    expect(page.locator(".file-errors")).to_be_visible()
    assert_accessible(ui, "file errors")
    ui.choose_file(table([("Lampe", origin.photo(1), "Ulm")], ("Artikel", "Bild", "Ort")))
    expect(page.get_by_label("Column with image URLs")).to_be_focused()
    assert_accessible(ui, "unknown columns")
    page.get_by_role("button", name="Choose another file").click()
    ui.choose_file(table([(1, "Кружка", origin.photo(1))]).decode().encode("cp1251"))
    expect(page.get_by_label("Encoding of the text")).to_be_focused()
    assert_accessible(ui, "unknown encoding")
    page.get_by_role("button", name="Choose another file").click()
    ui.choose_file(table([(1, "Desk lamp", origin.photo(1))]))
    page.get_by_role("button", name="Try 1 image first").click()
    expect(page.locator(".trial .card")).to_be_visible()
    assert_accessible(ui, "trial")
    page.get_by_role("button", name="Choose another file").click()
    gone = origin.script("/gone.jpg", Reply(404))
    slow = origin.script("/slow.jpg", Reply(gate="progress", photo="/photo/9.jpg"))
    rows = [(1, "Desk lamp", [origin.photo(1), gone]), (2, "Oak shelf", slow), (3, "Rug", "x:")]
    ui.choose_file(table(rows))
    page.get_by_role("button", name="Upload without this row").click()
    page.get_by_text("Change how the file is read").click()
    page.get_by_text("Options").click()
    assert_accessible(ui, "options")
    page.get_by_role("button", name="Compress ").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "2")
    assert_accessible(ui, "progress")
    origin.open_gate("progress")
    ui.wait_for_status("Finished, 1 failed")
    expect(page.get_by_role("region", name="1 row skipped").get_by_role("listitem")).to_be_visible()
    assert_accessible(ui, "finished")
    ui.cards.first.click()
    expect(page.get_by_role("slider")).to_be_visible()
    assert_accessible(ui, "comparison")
    page.get_by_role("button", name="Next image").click()
    assert_accessible(ui, "failed image")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Run again").click()
    assert_accessible(ui, "run again")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete").click()
    assert_accessible(ui, "confirmation")
    page.keyboard.press("Escape")
    page.goto(f"{service.url}/#/requests")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert_accessible(ui, "list")
    page.get_by_label("Status").select_option("Cancelled")
    expect(page.locator(".empty")).to_be_visible()
    assert_accessible(ui, "empty list")
    page.goto(f"{service.url}/docs")
    expect(page.locator(".operation").first).to_be_visible()
    for summary in page.locator("main summary").all():
        summary.click()
    assert_accessible(ui, "docs")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_sign_in_dialog_is_accessible_and_fits_the_window(
    open_page: OpenPage, start_service: StartService, width: int, scheme: str
) -> None:
    service = start_service(server={"api_keys": ["open-sesame-open-sesame"]})
    ui = open_page(f"{service.url}/#/requests", width=width, scheme=scheme)
    ui.page.get_by_role("textbox", name="API key").fill("wrong")
    ui.page.keyboard.press("Enter")
    expect(ui.page.get_by_text("Wrong API key.")).to_be_visible()
    assert_accessible(ui, "sign-in dialog")
    ui.page.keyboard.press("Escape")
    expect(ui.page.get_by_role("alert")).to_be_visible()
    assert_accessible(ui, "not signed in")
    ui.page.locator("#sign-in").click()
    ui.page.get_by_role("textbox", name="API key").fill("open-sesame-open-sesame")
    ui.page.keyboard.press("Enter")
    expect(ui.page.get_by_role("button", name="Sign out")).to_be_visible()
    expect(ui.page.get_by_role("heading", name="No requests yet")).to_be_visible()
    assert_accessible(ui, "signed in")
