"""Tests of the page with the API documentation."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.conftest import StartService
from tests.service_process import Service

pytestmark = pytest.mark.external


def test_docs_page_shows_every_operation(open_page: OpenPage, service: Service) -> None:
    api = service.get("/openapi.json").json()
    expected = {
        f"{method.upper()}{path}"
        for path, item in (api["paths"] | api["webhooks"]).items()
        for method in item
        if method in {"get", "post", "put", "delete", "head", "patch"}
    }
    page = open_page(f"{service.url}/docs").page
    expect(page.locator(".operation").first).to_be_visible()
    assert set(page.locator(".operation h3").all_text_contents()) == expected
    expect(page.locator("main")).not_to_contain_text("`")


def test_docs_page_describes_webhooks_without_a_form(open_page: OpenPage, service: Service) -> None:
    page = open_page(f"{service.url}/docs").page
    page.get_by_role("navigation", name="Operations").get_by_text("request.finished").click()
    webhook = page.get_by_role("region", name="Webhooks").locator(".operation")
    expect(webhook).to_be_focused()
    expect(webhook.get_by_role("heading", level=3)).to_have_text("POSTrequest.finished")
    expect(webhook).to_contain_text("webhook-signature")
    webhook.get_by_text("application/json").click()
    expect(webhook.get_by_text("finishedAt", exact=True)).to_be_visible()
    expect(webhook.get_by_text("Try it")).to_have_count(0)


def test_docs_page_sends_an_api_call_and_shows_the_response(
    open_page: OpenPage, service: Service
) -> None:
    page = open_page(f"{service.url}/docs#listRequests").page
    operation = page.locator(".operation", has=page.get_by_role("heading", name="/listRequests"))
    operation.get_by_text("Try it").click()
    operation.get_by_label("limit").fill("7")
    expect(operation.get_by_label("curl command")).to_contain_text(
        f"curl '{service.url}/listRequests?limit=7'"
    )
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    operation.get_by_role("button", name="Copy the command").click()
    expect(page.locator("#toast")).to_have_text("Copied.")
    assert "limit=7" in page.evaluate("navigator.clipboard.readText()")
    operation.get_by_role("button", name="Send").click()
    response = operation.get_by_role("group", name="Response")
    expect(response.locator(".status")).to_have_text("200 OK")
    body = response.get_by_role("group", name="Body")
    assert json.loads(body.inner_text())["requests"] == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    expect(page.get_by_role("heading", name="/health/live")).to_be_visible()


def test_curl_command_of_a_zip_saves_it(open_page: OpenPage, service: Service) -> None:
    page = open_page(f"{service.url}/docs").page
    operation = page.locator(".operation", has=page.get_by_role("heading", name="/downloadImages"))
    operation.get_by_text("Try it").click()
    expect(operation.get_by_label("curl command")).to_contain_text("curl -OJ '")


def test_docs_page_sends_a_csv_with_the_api_key(
    open_page: OpenPage, start_service: StartService
) -> None:
    service = start_service(server={"api_keys": ["open-sesame-open-sesame"]})
    page = open_page(f"{service.url}/docs").page
    page.get_by_label("API key for the calls below").fill("open-sesame-open-sesame")
    operation = page.locator(".operation", has=page.get_by_role("heading", name="/processImages"))
    operation.get_by_text("Try it").click()
    operation.get_by_label("dryRun").select_option("true")
    expect(operation.get_by_label("curl command")).to_contain_text("Bearer YOUR_KEY")
    operation.get_by_role("button", name="Send").click()
    response = operation.get_by_role("group", name="Response")
    expect(response.locator(".status")).to_have_text("200 OK")


def test_docs_page_shows_the_error_that_a_problem_report_links_to(
    open_page: OpenPage, service: Service
) -> None:
    problem = service.post("/processImages", b"Product Name\nLamp\n").json()
    page = open_page(service.url + problem["help"]).page
    entry = page.locator("article.error", has=page.get_by_role("heading", name="invalid-csv"))
    expect(page.locator(".operation").first).to_be_visible()
    expect(entry).to_be_focused()
    expect(entry).to_be_in_viewport()
    expect(entry).to_contain_text("What to do:")
    page.get_by_role("navigation", name="Operations").get_by_text("Image errors").click()
    expect(page.locator("#errors-dns_failure")).to_be_in_viewport()
