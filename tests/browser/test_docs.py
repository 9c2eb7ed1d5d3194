"""The API's own page."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.conftest import StartService
from tests.service_process import Service

pytestmark = pytest.mark.external


def test_every_operation_is_there(visit: Visit, service: Service) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    wanted = {
        f"{method.upper()}{path}"
        for path, item in paths.items()
        for method in item
        if method in {"get", "post", "put", "delete", "head", "patch"}
    }
    page = visit(f"{service.url}/docs").page
    expect(page.locator(".operation").first).to_be_visible()
    assert set(page.locator(".operation h3").all_text_contents()) == wanted
    expect(page.locator("main")).not_to_contain_text("`")


def test_a_call_is_tried(visit: Visit, service: Service) -> None:
    page = visit(f"{service.url}/docs#listRequests").page
    operation = page.locator(".operation", has=page.get_by_role("heading", name="/listRequests"))
    operation.get_by_text("Try it").click()
    operation.get_by_label("limit").fill("7")
    expect(operation.get_by_label("curl command")).to_contain_text(
        f"curl '{service.url}/listRequests?limit=7'"
    )
    operation.get_by_role("button", name="Send").click()
    answer = operation.get_by_role("group", name="Answer")
    expect(answer.locator(".status")).to_have_text("200 OK")
    body = answer.get_by_role("group", name="Body")
    assert json.loads(body.inner_text()) == {"requests": [], "nextCursor": None}
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    expect(page.get_by_role("heading", name="/health/live")).to_be_visible()


def test_a_csv_is_sent_with_a_key(visit: Visit, start_service: StartService) -> None:
    service = start_service(server={"api_keys": ["open-sesame"]})
    page = visit(f"{service.url}/docs").page
    page.get_by_label("API key for the calls below").fill("open-sesame")
    operation = page.locator(".operation", has=page.get_by_role("heading", name="/processImages"))
    operation.get_by_text("Try it").click()
    operation.get_by_label("dryRun").select_option("true")
    expect(operation.get_by_label("curl command")).to_contain_text("Bearer YOUR_KEY")
    operation.get_by_role("button", name="Send").click()
    answer = operation.get_by_role("group", name="Answer")
    expect(answer.locator(".status")).to_have_text("200 OK")
