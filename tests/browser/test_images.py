"""Tests of the images on the page: cards of all shapes, thumbnails, and the comparison."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external

SHAPES = ("?w=200&h=300", "?w=100&h=300", "?w=300&h=100", "?w=16&h=16")
BLOCKED = Reply(403, body=b"")


def open_request(open_page: OpenPage, service: Service, body: bytes) -> tuple[str, str]:
    """Upload a file and wait until it has finished. Return the URL of its page, and its ID."""
    request_id = service.upload(body)
    service.finished(request_id)
    return f"{service.url}/#/request/{request_id}", request_id


def test_images_of_all_shapes_stay_inside_their_cards(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    rows = [(n, f"Shape {n}", origin.photo(n, "jpg", q)) for n, q in enumerate(SHAPES)]
    url, _ = open_request(open_page, service, table(rows))
    ui = open_page(url)
    expect(ui.cards).to_have_count(len(SHAPES))
    for card in ui.cards.all():
        image, frame = card.locator("img"), card.locator(".thumb")
        expect(image).to_have_js_property("complete", value=True)
        outer, inner = frame.bounding_box(), image.bounding_box()
        assert outer == inner
        name = card.locator(".card-name").bounding_box()
        assert name is not None
        assert inner is not None
        assert inner["y"] + inner["height"] <= name["y"] + 1


def test_gallery_loads_thumbnails_instead_of_outputs(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    url, _ = open_request(open_page, service, table([(1, "Rug", origin.photo(1))]))
    ui = open_page("about:blank")
    paths: list[str] = []
    ui.page.on("request", lambda request: paths.append(request.url.partition("/images/")[2]))
    ui.page.goto(url)
    expect(ui.cards.first.locator("img")).to_have_js_property("complete", value=True)
    assert [path.rpartition("/")[2] for path in paths if path] == ["thumbnail"]


def test_whole_output_is_shown_if_the_original_cannot_be_loaded(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    lost = origin.script("/lost.jpg", Reply(photo="/photo/3.jpg"), BLOCKED)
    url, _ = open_request(open_page, service, table([(1, "Lost", lost)]))
    ui = open_page(url)
    ui.cards.first.click()
    dialog = ui.page.get_by_role("dialog")
    expect(dialog.get_by_text("The original cannot be shown here")).to_be_visible()
    clip = dialog.locator(".after").evaluate("e => getComputedStyle(e).clipPath")
    assert clip == "none"
    expect(dialog.locator(".handle")).to_be_hidden()
    expect(dialog.get_by_role("slider")).to_be_hidden()


def test_whole_output_is_shown_while_the_original_loads(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    photo = "/photo/3.jpg"
    slow = origin.script("/slow.jpg", Reply(photo=photo), Reply(photo=photo, gate="original"))
    url, _ = open_request(open_page, service, table([(1, "Slow", slow)]))
    ui = open_page(url)
    ui.cards.first.click()
    dialog = ui.page.get_by_role("dialog")
    expect(dialog.get_by_text("Loading the original…")).to_be_visible()
    assert dialog.locator(".after").evaluate("e => getComputedStyle(e).clipPath") == "none"
    origin.open_gate("original")
    expect(dialog.get_by_role("slider")).to_be_visible()
    expect(dialog.get_by_text("Loading the original…")).to_be_hidden()


def test_dialog_of_a_failed_image_has_one_reason_and_what_to_do(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    gone = origin.script("/gone.jpg", BLOCKED)
    url, _ = open_request(open_page, service, table([(1, "Gone", gone)]))
    ui = open_page(url)
    ui.cards.first.click()
    dialog = ui.page.get_by_role("dialog")
    expect(dialog.locator(".notice")).to_have_text(
        "Access denied (403).Use a public URL, or allow this server at the host."
    )
    expect(dialog.locator("img")).to_have_count(0)
    expect(dialog).not_to_contain_text("The original cannot be shown")


def test_arrow_keys_leaf_through_the_dialog_and_keep_slider_and_zoom(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    rows = [(n, f"Photo {n}", origin.photo(n, "jpg", "?w=1400&h=900")) for n in range(3)]
    url, _ = open_request(open_page, service, table(rows))
    ui = open_page(url)
    page = ui.page
    ui.cards.first.click()
    dialog = page.get_by_role("dialog")
    slider = dialog.get_by_role("slider")
    slider.fill("30")
    dialog.get_by_role("button", name="Actual size").click()
    dialog.get_by_role("heading").focus()
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_have_text("Photo 1")
    expect(slider).to_have_value("30")
    zoom = dialog.get_by_role("button", name="Actual size")
    expect(zoom).to_have_attribute("aria-pressed", "true")
    assert dialog.locator(".image-pair").evaluate("e => e.clientWidth") == 1400
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_have_text("Photo 2")
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("heading")).to_have_text("Photo 1")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("31")
    dialog.locator(".viewport").dispatch_event("wheel", {"deltaY": 100, "ctrlKey": True})
    expect(zoom).to_have_attribute("aria-pressed", "false")


def test_new_urls_are_copied_and_downloaded_where_the_image_is(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    rows = [(n, f"Photo {n}", origin.photo(n)) for n in range(2)]
    url, request_id = open_request(open_page, service, table(rows))
    images = [image for p in service.status(request_id)["products"] for image in p["images"]]
    new_urls = [image["outputUrl"] for image in images]
    ui = open_page(url)
    page = ui.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    clipboard = "navigator.clipboard.readText()"
    page.get_by_role("button", name="Copy 2 new URLs").click()
    expect(page.locator("#toast")).to_have_text("Copied.")
    assert page.evaluate(clipboard) == "\n".join(new_urls)
    item = page.locator(".cards li").first
    item.hover()
    item.get_by_role("button", name="Copy the new URL").click()
    page.wait_for_function(f"{clipboard}.then(text => !text.includes('\\n'))")
    assert page.evaluate(clipboard) == new_urls[0]
    ui.cards.nth(1).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Copy the new URL").click()
    page.wait_for_function(f"{clipboard}.then(text => text === '{new_urls[1]}')")
    with page.expect_download() as download:
        dialog.get_by_role("link", name="Download").click()
    assert re.fullmatch(r"photo-1-1\.jpg", download.value.suggested_filename)


def test_new_url_is_copied_without_the_clipboard_interface(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    """Browsers have no `navigator.clipboard` on http pages of other hosts than localhost."""
    url, _ = open_request(open_page, service, table([(1, "Rug", origin.photo(1))]))
    page = open_page("about:blank").page
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.goto(url)
    page.evaluate("""() => document.addEventListener("copy", () => {
        window.copied = document.activeElement.value;
    })""")
    page.get_by_role("button", name="Copy 1 new URL").click()
    page.wait_for_function("window.copied?.startsWith('http')")
