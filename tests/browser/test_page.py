"""The page, from the dropped CSV to the downloaded ZIP."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import Visit
from tests.browser.page_object import with_a_failure
from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external


def products(origin: Origin, count: int = 4) -> bytes:
    """Products with two pictures each."""
    return table(
        (n, f"Product {n}", [origin.photo(2 * n), origin.photo(2 * n + 1, "png")])
        for n in range(1, count + 1)
    )


def test_from_the_csv_to_the_downloads(visit: Visit, service: Service, origin: Origin) -> None:
    visitor = visit(service.url)
    page = visitor.page
    request_id = visitor.upload(products(origin))
    visitor.finished("Done")
    expect(page.get_by_role("heading", level=1)).to_have_text("products.csv")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "8")
    expect(page.get_by_text(re.compile(r"^\d+% saved$"))).to_be_visible()
    expect(visitor.cards).to_have_count(8)
    rows = list(csv.DictReader(io.StringIO(visitor.download("CSV").decode(), newline="")))
    assert [row["Request Id"] for row in rows] == [request_id] * 4
    assert visitor.download("CSV for Excel").startswith(b"\xef\xbb\xbf")
    with zipfile.ZipFile(io.BytesIO(visitor.download("Images as ZIP"))) as archive:
        assert archive.testzip() is None
        assert len([name for name in archive.namelist() if "Product" in name]) == 8


def test_a_dropped_file_is_taken(visit: Visit, service: Service, origin: Origin) -> None:
    page = visit(service.url).page
    expect(page.get_by_text("Choose a file")).to_be_visible()
    data = page.evaluate_handle(
        """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "dropped.csv", { type: "text/csv" }));
            return data;
        }""",
        products(origin).decode(),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": data})
    expect(page.get_by_role("heading", name="dropped.csv")).to_be_visible()
    expect(page.locator(".file-card")).to_contain_text("4 products, 8 images")


def test_the_sample_is_in_order(visit: Visit, service: Service) -> None:
    page = visit(service.url).page
    page.get_by_role("button", name="Try the sample").click()
    expect(page.locator(".file-card")).to_contain_text("7 products, 10 images")
    expect(page.locator(".file-card")).to_contain_text("in order")


def test_faults_are_shown_in_the_files_own_rows(visit: Visit, service: Service) -> None:
    visitor = visit(service.url)
    page = visitor.page
    visitor.choose(
        b"Product Name;Input Image Urls;Colour\r\n"
        b"Lamp;https://shop.example/1.jpg;red\r\n"
        b'"Shelf; long";ftp://shop.example/2.jpg;"oak\r\nbrown"\r\n'
        b"\r\n"
        b";https://shop.example/3.jpg;white\r\n"
    )
    expect(page.get_by_role("heading", name="2 things to mend in products.csv")).to_be_focused()
    rows = page.locator(".faults tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0).locator("th")).to_have_text("3")
    expect(rows.nth(0).locator("td").nth(1)).to_have_text("Shelf; long")
    expect(rows.nth(0).locator("td.faulty mark")).to_have_text("ftp://shop.example/2.jpg")
    expect(rows.nth(0).locator("td").nth(3)).to_contain_text("brown")
    expect(rows.nth(1).locator("th")).to_have_text("5")
    expect(rows.nth(1).locator("td.faulty")).to_have_text("empty")
    expect(page.get_by_text("Choose a file")).to_be_visible()


@pytest.mark.parametrize(
    ("before", "row"), [(b"sep=;\r\n", "3"), (b"\r\n;;\r\n", "5"), (b"SEP=;\n\n", "4")]
)
def test_what_stands_before_the_header_moves_no_row(
    visit: Visit, service: Service, before: bytes, row: str
) -> None:
    visitor = visit(service.url)
    visitor.choose(
        before + b'"Product, its name";"Input Image Urls";Product Name\r\n'
        b"a;https://shop.example/1.jpg;Lamp\r\n"
        b"b;ftp://shop.example/2.jpg;Shelf\r\n"
    )
    errors = visitor.page.locator(".faults")
    expect(errors.locator("thead th").nth(4)).to_have_text("Product Name")
    expect(errors.locator("tbody th")).to_have_text(row)
    expect(errors.locator("tbody td").last).to_have_text("Shelf")
    expect(errors.locator("mark")).to_have_text("ftp://shop.example/2.jpg")
    visitor.choose(before + b"Name;Where\r\na;b\r\n")
    expect(errors.locator(".whole-file li")).to_have_count(1)


def test_columns_that_hold_nothing_are_not_shown(visit: Visit, service: Service) -> None:
    """As spreadsheet programs pad a sheet in which one cell far to the right was once touched."""
    visitor = visit(service.url)
    columns = 16_000
    urls = ",".join(f"https://shop.example/{n}.jpg" for n in range(100))
    visitor.choose(
        b"Colour,Product Name,Input Image Urls" + b"," * columns + b"\r\n"
        b"red,Lamp,ftp://shop.example/1.jpg" + b"," * columns + b"\r\n"
        b"oak,,https://shop.example/2.jpg" + b"," * columns + b"\r\n"
    )
    errors = visitor.page.locator(".faults")
    expect(errors.locator("thead th")).to_have_count(5)
    expect(errors.locator("td.faulty")).to_have_text(["ftp://shop.example/1.jpg", "empty"])
    visitor.choose(f"Product Name,Input Image Urls\r\nLamp,{urls},ftp://x/y\r\n".encode())
    expect(errors.locator("mark")).to_have_text("ftp://x/y")
    expect(errors.locator("thead th")).to_have_count(2 + 40 + 1)


def test_a_whole_file_fault_is_said(visit: Visit, service: Service) -> None:
    visitor = visit(service.url)
    visitor.choose(b"Name of it,Where\r\nLamp,https://shop.example/1.jpg\r\n")
    said = visitor.page.locator(".whole-file")
    expect(said).to_contain_text("Product Name")
    expect(said).to_contain_text("Input Image Urls")


@pytest.mark.parametrize("width", [320, 360])
def test_what_is_wrong_is_read_whole_on_a_phone(visit: Visit, service: Service, width: int) -> None:
    visitor = visit(service.url, width=width, height=740)
    visitor.choose(table([(1, "", "ftp://user:word@shop.example/1.jpg")]))
    message = visitor.page.locator(".messages li").first
    right = "e => e.getBoundingClientRect().right"
    table_right = visitor.page.locator(".faults .scroller").evaluate(right)
    assert message.evaluate(right) < table_right


def test_more_faults_than_are_listed(visit: Visit, service: Service) -> None:
    visitor = visit(service.url)
    visitor.choose(table((n, "Lamp", "ftp://shop.example/1.jpg") for n in range(250)))
    expect(visitor.page.get_by_role("heading", name="250 things to mend")).to_be_visible()
    expect(
        visitor.page.get_by_text("These are the first 100; 150 more were found.")
    ).to_be_visible()


def test_nothing_from_a_file_becomes_markup(visit: Visit, service: Service, origin: Origin) -> None:
    evil = '<img src=x onerror="document.title=1"><b class="evil">'
    visitor = visit(service.url)
    page = visitor.page
    visitor.choose(
        table([(evil, evil, f"ftp://x/{evil}")], ("S. No.", "Product Name", "Input Image Urls")),
        f"{evil}.csv",
    )
    expect(page.locator(".faults")).to_contain_text(evil)
    assert page.locator(".evil, [onerror]").count() == 0
    visitor.upload(table([(evil, evil, origin.photo(1))]), f"{evil}.csv")
    visitor.finished("Done")
    expect(visitor.cards.first).to_contain_text(evil)
    visitor.cards.first.click()
    expect(page.get_by_role("dialog")).to_contain_text(evil)
    page.goto(f"{service.url}/#/requests")
    expect(page.get_by_role("link", name="onerror")).to_be_visible()
    assert page.locator(".evil, [onerror]").count() == 0


def test_before_and_after_under_the_slider(visit: Visit, service: Service, origin: Origin) -> None:
    visitor = visit(service.url)
    page = visitor.page
    visitor.upload(
        table([(1, "Product 1", [origin.photo(2, "jpg", "?w=1600&h=1200"), origin.photo(3)])])
    )
    visitor.finished("Done")
    fetched = origin.hits("/photo/2.jpg")
    expect(visitor.cards.first.locator("img")).to_be_visible()
    assert origin.hits("/photo/2.jpg") == fetched, "the original is loaded only when it is opened"
    visitor.cards.first.click()
    dialog = page.get_by_role("dialog", name="Product 1")
    expect(dialog.get_by_text(re.compile(r"\d+ → \d+"))).to_be_visible()
    origin.wait_for_hits("/photo/2.jpg", fetched + 1)
    assert "referer" not in origin.seen("/photo/2.jpg")[-1].headers
    slider = dialog.get_by_role("slider")
    before = slider.input_value()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert int(slider.input_value()) == int(before) + 1
    assert dialog.locator(".pictures").evaluate("e => e.style.getPropertyValue('--split')") == "51%"
    box = dialog.locator(".pictures").bounding_box()
    assert box is not None
    assert box["width"] > 600, "the picture has the room that there is"
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert abs(int(slider.input_value()) - 25) <= 1
    dialog.get_by_role("button", name="Actual size").click()
    assert dialog.locator(".pictures").evaluate("e => e.clientWidth") == 1600
    assert dialog.evaluate("e => e.scrollWidth <= e.clientWidth"), "the picture scrolls alone"
    assert dialog.locator(".view").evaluate("e => e.scrollWidth > e.clientWidth")
    dialog.get_by_role("button", name="Next image").click()
    expect(dialog.get_by_text("2 of 2", exact=False).first).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(visitor.cards.nth(1)).to_be_focused()


def test_going_back_leaves_no_dialog_behind(visit: Visit, service: Service, origin: Origin) -> None:
    visitor = visit(service.url)
    page = visitor.page
    visitor.upload(products(origin, 1))
    visitor.finished("Done")
    for opener in (visitor.cards.first, page.get_by_role("button", name="Delete")):
        opener.click()
        expect(page.get_by_role("dialog")).to_be_visible()
        page.go_back()
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("heading", level=1)).to_be_focused()
        page.go_forward()
    expect(page.get_by_role("heading", level=1)).to_have_text("products.csv")


def test_a_long_name_leaves_room_for_the_rest(
    visit: Visit, service: Service, origin: Origin
) -> None:
    name = "A throw of merino and alpaca with fringes, washable, " * 9
    visitor = visit(service.url, width=360, height=740)
    page = visitor.page
    visitor.upload(table([(1, name, [origin.photo(n) for n in range(12)])]))
    visitor.finished("Done")
    place = visitor.cards.first.locator(".muted", has_text="1 of 12")
    inside = (
        "e => e.getBoundingClientRect().right <= e.closest('.card').getBoundingClientRect().right"
    )
    assert place.evaluate(inside), "which of its images it is can be seen"
    expect(visitor.cards.first.locator("img")).to_be_visible()
    visitor.cards.first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("p", has_text=name.strip())).to_be_visible()
    expect(dialog.get_by_role("slider")).to_be_in_viewport()


def test_what_failed_is_told_and_tried_again(
    visit: Visit, service: Service, origin: Origin
) -> None:
    visitor = visit(service.url)
    page = visitor.page
    visitor.upload(with_a_failure(origin))
    visitor.finished("Partly done")
    expect(page.get_by_role("heading", name="1 image failed")).to_be_visible()
    page.get_by_role("button", name="Show them").click()
    expect(visitor.cards).to_have_count(1)
    visitor.cards.first.click()
    expect(page.get_by_role("dialog")).to_contain_text("404")
    page.keyboard.press("Escape")
    failed = visitor.download("Failed rows only").decode()
    assert "/gone.jpg" in failed
    assert "/photo/1.jpg" not in failed
    origin.script("/gone.jpg", Reply(photo="/photo/3.jpg"))
    page.get_by_role("button", name="Try 1 failed image again").click()
    visitor.finished("Done")
    page.get_by_role("radio", name="All").check()
    expect(page.locator(".card.completed")).to_have_count(3)


def test_cancel_and_delete(visit: Visit, service: Service, origin: Origin) -> None:
    slow = origin.script("/slow.jpg", Reply(gate="never"))
    visitor = visit(service.url)
    page = visitor.page
    visitor.upload(table([(1, "Quick", origin.photo(1)), (2, "Slow", slow)]))
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "1")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Go on").click()
    visitor.finished("Working")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the request").click()
    visitor.finished("Cancelled")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.get_by_role("heading", name="No requests yet")).to_be_visible()
    origin.open_gate("never")


def test_a_refused_upload_can_be_sent_again_without_a_second_request(
    visit: Visit, service: Service, origin: Origin
) -> None:
    visitor = visit(service.url)
    page = visitor.page
    lost: list[str] = []

    def lose_the_first_answer(route: Route) -> None:
        if "dryRun" in route.request.url or lost:
            route.continue_()
            return
        route.fetch()
        lost.append(route.request.url)
        route.abort()

    page.route("**/processImages*", lose_the_first_answer)
    visitor.choose(products(origin))
    page.get_by_role("button", name="Compress ").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.get_by_role("button", name="Try again").click()
    visitor.finished("Done")
    assert len(service.get("/listRequests").json()["requests"]) == 1


def test_options_go_along(visit: Visit, service: Service, origin: Origin) -> None:
    visitor = visit(service.url)
    page = visitor.page
    visitor.choose(products(origin, 1))
    page.get_by_text("Options").click()
    page.get_by_label("Quality").select_option("The same for all")
    page.get_by_label("How much").fill("30")
    page.get_by_label("Format").select_option("WebP")
    page.get_by_label("Webhook URL").fill(origin.url("/hook"))
    page.get_by_role("button", name="Compress ").click()
    visitor.finished("Done")
    status = service.status(page.url.rpartition("/")[2])
    for image in status["products"][0]["images"]:
        assert (image["outputFormat"], image["kept"] or image["quality"]) in {
            ("webp", 30),
            (image["inputFormat"], True),
        }
    origin.wait_for_hits("/hook", 1)


def test_what_has_become_of_the_webhook(visit: Visit, service: Service, origin: Origin) -> None:
    hook = origin.script("/hook", Reply(gate="heard"))
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    request_id = service.upload(table([(1, "Held", held)]), f"?webhookUrl={hook}")
    visitor = visit(f"{service.url}/#/request/{request_id}")
    said = visitor.page.locator(".notice", has_text="Webhook")
    expect(said).to_contain_text("will be called when the request has finished")
    origin.open_gate("go")
    expect(said).to_contain_text("is being called")
    origin.open_gate("heard")


def test_a_wrong_option_that_is_folded_away_is_shown(
    visit: Visit, service: Service, origin: Origin
) -> None:
    visitor = visit(service.url)
    page = visitor.page
    visitor.choose(products(origin, 1))
    page.get_by_text("Options").click()
    page.get_by_label("Webhook URL").fill("no URL")
    page.get_by_text("Options").click()
    expect(page.get_by_label("Webhook URL")).to_be_hidden()
    page.get_by_role("button", name="Compress ").click()
    expect(page.get_by_label("Webhook URL")).to_be_focused()


def test_the_list_of_requests(visit: Visit, service: Service, origin: Origin) -> None:
    ids = [service.upload(table([(1, "Lamp", origin.photo(1))])) for _ in range(52)]
    broken = service.upload(with_a_failure(origin))
    for request_id in (ids[-1], broken):
        service.finished(request_id)
    page = visit(f"{service.url}/#/requests").page
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show older ones").click()
    expect(rows).to_have_count(53)
    page.get_by_label("Status").select_option("Partly done")
    expect(rows).to_have_count(1)
    rows.first.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert page.url.endswith(f"#/request/{broken}")
    page.go_back()
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()


def test_an_unknown_request_is_said(visit: Visit, service: Service) -> None:
    page = visit(f"{service.url}/#/request/00000000-0000-4000-8000-000000000000").page
    expect(page.get_by_role("alert")).to_contain_text("There is no such request")


def test_a_key_is_traded_for_a_cookie(
    visit: Visit, start_service: StartService, origin: Origin
) -> None:
    service = start_service(server={"api_keys": ["open-sesame"]})
    visitor = visit(f"{service.url}/#/requests")
    page = visitor.page
    page.get_by_role("textbox", name="API key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("This key does not fit.")).to_be_visible()
    page.get_by_role("textbox", name="API key").fill("open-sesame")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="No requests yet")).to_be_visible()
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert "open-sesame" not in page.evaluate("JSON.stringify(localStorage) + location.href")
    page.goto(service.url)
    visitor.upload(products(origin, 1))
    visitor.finished("Done")
    assert visitor.download("CSV")
    page.route("**/session", lambda route: route.abort())
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("Check that it is running")).to_be_visible()
    page.unroute("**/session")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.context.cookies() == []


def test_under_a_path_prefix(visit: Visit, start_service: StartService, origin: Origin) -> None:
    """As behind a proxy that serves the service at /shrink/ of its own host."""
    proxy = "http://127.0.0.1:9"
    service = start_service(server={"public_url": f"{proxy}/shrink"})
    visitor = visit("about:blank")
    page = visitor.page
    paths: list[str] = []

    def forward(route: Route) -> None:
        path = urlsplit(route.request.url).path
        paths.append(path)
        if not path.startswith("/shrink/"):
            route.fulfill(status=404)
            return
        url = route.request.url.replace(f"{proxy}/shrink", service.url, 1)
        headers = {k: v for k, v in route.request.headers.items() if k != "origin"}
        route.fulfill(response=route.fetch(url=url, headers=headers))

    page.route(f"{proxy}/**", forward)
    page.goto(f"{proxy}/shrink/")
    visitor.upload(products(origin, 1))
    visitor.finished("Done")
    page.get_by_role("link", name="API").click()
    expect(page.locator(".operation").first).to_be_visible()
    page.get_by_role("link", name="Requests", exact=True).click()
    expect(page.get_by_role("link", name="products.csv")).to_be_visible()
    assert [path for path in paths if not path.startswith("/shrink/")] == []


def test_the_keyboard_alone_is_enough(visit: Visit, service: Service, origin: Origin) -> None:
    visitor = visit(service.url)
    page = visitor.page
    keyboard = page.keyboard
    expect(page.get_by_text("Choose a file")).to_be_visible()
    keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    visitor.choose(products(origin, 10))
    expect(page.get_by_role("button", name="Compress 20 images")).to_be_focused()
    keyboard.press("Enter")
    visitor.finished("Done")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    page.get_by_role("searchbox").focus()
    keyboard.press("Tab")
    expect(visitor.cards.first).to_be_focused()
    keyboard.press("ArrowRight")
    expect(visitor.cards.nth(1)).to_be_focused()
    keyboard.press("End")
    expect(visitor.cards.last).to_be_focused()
    expect(visitor.cards.last).to_contain_text("Product 10")
    keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Product 10")).to_be_visible()
    keyboard.press("Escape")
    expect(visitor.cards.last).to_be_focused()


def test_the_theme_is_kept(visit: Visit, service: Service) -> None:
    page = visit(service.url).page
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.get_by_role("button", name="Use the dark theme").click()
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert dark != light
    page.reload()
    expect(page.get_by_role("button", name="Use the light theme")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == dark


def test_what_is_chosen_shows_in_forced_colours(
    visit: Visit, service: Service, origin: Origin
) -> None:
    visitor = visit(service.url)
    page = visitor.page
    page.emulate_media(forced_colors="active")
    visitor.upload(products(origin, 1))
    visitor.finished("Done")
    background = "e => getComputedStyle(e).backgroundColor"
    all_of_them, done = page.locator(".chip label:visible").all()
    assert all_of_them.evaluate(background) != done.evaluate(background)
    here, elsewhere = (
        page.get_by_role("link", name=name, exact=True) for name in ("Requests", "API")
    )
    assert here.first.evaluate(background) != elsewhere.evaluate(background)


def test_a_refused_option_can_be_mended(visit: Visit, service: Service, origin: Origin) -> None:
    visitor = visit(service.url)
    page = visitor.page
    visitor.choose(products(origin, 1))
    page.get_by_text("Options").click()
    page.get_by_label("Format").select_option("WebP")
    page.get_by_label("Webhook URL").fill("https://user:word@shop.example/hook")
    page.get_by_role("button", name="Compress ").click()
    expect(page.get_by_role("alert")).to_contain_text("webhookUrl")
    expect(page.get_by_label("Format")).to_have_value("webp")
    page.get_by_label("Webhook URL").fill("")
    page.get_by_role("button", name="Compress ").click()
    visitor.finished("Done")
