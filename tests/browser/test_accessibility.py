"""Every state of the page, in both themes and three widths: no violation, nothing cut off."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.page_object import PageObject
from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external

LOOKS = [(width, scheme) for width in (360, 768, 1440) for scheme in ("light", "dark")]


def assert_fine(visitor: PageObject, state: str) -> None:
    assert (state, visitor.violations()) == (state, [])
    assert (state, visitor.too_wide()) == (state, 0)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_state(
    visit: Visit, service: Service, origin: Origin, width: int, scheme: str
) -> None:
    visitor = visit(service.url, width=width, scheme=scheme)
    page = visitor.page
    expect(page.get_by_text("Choose a file")).to_be_visible()
    page.get_by_text("What the file looks like").click()
    assert_fine(visitor, "empty")
    visitor.choose(b"S. No.,Product Name,Input Image Urls\n1,,ftp://shop.example/a.jpg\n")
    expect(page.locator(".faults")).to_be_visible()
    assert_fine(visitor, "faults")
    gone = origin.script("/gone.jpg", Reply(404))
    slow = origin.script("/slow.jpg", Reply(gate="look", photo="/photo/9.jpg"))
    visitor.choose(table([(1, "Desk lamp", [origin.photo(1), gone]), (2, "Oak shelf", slow)]))
    page.get_by_text("Options").click()
    assert_fine(visitor, "options")
    page.get_by_role("button", name="Compress ").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "2")
    assert_fine(visitor, "progress")
    origin.open_gate("look")
    visitor.finished("Partly done")
    assert_fine(visitor, "finished")
    visitor.cards.first.click()
    expect(page.get_by_role("slider")).to_be_visible()
    assert_fine(visitor, "comparison")
    page.get_by_role("button", name="Next image").click()
    assert_fine(visitor, "failed image")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete").click()
    assert_fine(visitor, "confirmation")
    page.keyboard.press("Escape")
    page.goto(f"{service.url}/#/requests")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert_fine(visitor, "list")
    page.get_by_label("Status").select_option("Cancelled")
    expect(page.locator(".empty")).to_be_visible()
    assert_fine(visitor, "empty list")
    page.goto(f"{service.url}/docs")
    expect(page.locator(".operation").first).to_be_visible()
    for summary in page.locator("main summary").all():
        summary.click()
    assert_fine(visitor, "docs")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_the_key_dialog(visit: Visit, start_service: StartService, width: int, scheme: str) -> None:
    service = start_service(server={"api_keys": ["open-sesame"]})
    visitor = visit(f"{service.url}/#/requests", width=width, scheme=scheme)
    visitor.page.get_by_role("textbox", name="API key").fill("wrong")
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.get_by_text("This key does not fit.")).to_be_visible()
    assert_fine(visitor, "key")
    visitor.page.keyboard.press("Escape")
    expect(visitor.page.get_by_role("alert")).to_be_visible()
    assert_fine(visitor, "no key")
