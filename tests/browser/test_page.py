"""Tests of the page, from choosing a CSV to downloading the results."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import OpenPage
from tests.browser.page_object import table_with_failing_image
from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table

pytestmark = pytest.mark.external


def products(origin: Origin, count: int = 4) -> bytes:
    """Return a CSV of products with two images each."""
    return table(
        (n, f"Product {n}", [origin.photo(2 * n), origin.photo(2 * n + 1, "png")])
        for n in range(1, count + 1)
    )


def test_upload_of_a_csv_ends_with_downloads_of_csv_and_zip(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    request_id = ui.upload(products(origin))
    ui.wait_for_status("Done")
    expect(page.get_by_role("heading", level=1)).to_have_text("products.csv")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "8")
    expect(page.get_by_text(re.compile(r"^\d+% saved$"))).to_be_visible()
    expect(ui.cards).to_have_count(8)
    rows = list(csv.DictReader(io.StringIO(ui.download("CSV").decode(), newline="")))
    assert [row["Request Id"] for row in rows] == [request_id] * 4
    assert ui.download("For Excel").startswith(b"\xef\xbb\xbf")
    with zipfile.ZipFile(io.BytesIO(ui.download("Images as ZIP"))) as archive:
        assert archive.testzip() is None
        assert len([name for name in archive.namelist() if "Product" in name]) == 8


def test_dropped_file_is_checked(open_page: OpenPage, service: Service, origin: Origin) -> None:
    page = open_page(service.url).page
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


def test_sample_file_is_valid(open_page: OpenPage, service: Service) -> None:
    page = open_page(service.url).page
    page.get_by_role("button", name="Try a sample").click()
    expect(page.locator(".file-card")).to_contain_text("7 products, 10 images")
    expect(page.locator(".file-card")).to_contain_text("No problems found")


def test_file_errors_are_shown_in_the_rows_of_the_file(
    open_page: OpenPage, service: Service
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(
        b"Product Name;Input Image Urls;Colour\r\n"
        b"Lamp;https://shop.example/1.jpg;red\r\n"
        b'"Shelf; long";ftp://shop.example/2.jpg;"oak\r\nbrown"\r\n'
        b"\r\n"
        b";https://shop.example/3.jpg;white\r\n"
    )
    expect(page.get_by_role("heading", name="2 problems in products.csv")).to_be_focused()
    rows = page.locator(".file-errors tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0).locator("th")).to_have_text("3")
    expect(rows.nth(0).locator("td").nth(1)).to_have_text("Shelf; long")
    expect(rows.nth(0).locator("td.invalid mark")).to_have_text("ftp://shop.example/2.jpg")
    expect(rows.nth(0).locator("td").nth(3)).to_contain_text("brown")
    expect(rows.nth(1).locator("th")).to_have_text("5")
    expect(rows.nth(1).locator("td.invalid")).to_have_text("empty")
    expect(page.get_by_text("Choose a file")).to_be_visible()


@pytest.mark.parametrize(
    ("before", "row"), [(b"sep=;\r\n", "3"), (b"\r\n;;\r\n", "5"), (b"SEP=;\n\n", "4")]
)
def test_file_errors_have_the_right_row_if_lines_precede_the_header(
    open_page: OpenPage, service: Service, before: bytes, row: str
) -> None:
    ui = open_page(service.url)
    ui.choose_file(
        before + b'"Product, its name";"Input Image Urls";Product Name\r\n'
        b"a;https://shop.example/1.jpg;Lamp\r\n"
        b"b;ftp://shop.example/2.jpg;Shelf\r\n"
    )
    errors = ui.page.locator(".file-errors")
    expect(errors.locator("thead th").nth(4)).to_have_text("Product Name")
    expect(errors.locator("tbody th")).to_have_text(row)
    expect(errors.locator("tbody td").last).to_have_text("Shelf")
    expect(errors.locator("mark")).to_have_text("ftp://shop.example/2.jpg")
    ui.choose_file(before + b"Product Name;Product Name;Input Image Urls\r\na;b;c\r\n")
    expect(errors.locator(".file-level-errors li")).to_have_count(1)


def test_file_errors_hide_empty_columns(open_page: OpenPage, service: Service) -> None:
    """Spreadsheet programs add empty columns if a cell far to the right was once edited."""
    ui = open_page(service.url)
    columns = 16_000
    urls = ",".join(f"https://shop.example/{n}.jpg" for n in range(100))
    ui.choose_file(
        b"Colour,Product Name,Input Image Urls" + b"," * columns + b"\r\n"
        b"red,Lamp,ftp://shop.example/1.jpg" + b"," * columns + b"\r\n"
        b"oak,,https://shop.example/2.jpg" + b"," * columns + b"\r\n"
    )
    errors = ui.page.locator(".file-errors")
    expect(errors.locator("thead th")).to_have_count(5)
    expect(errors.locator("td.invalid")).to_have_text(["ftp://shop.example/1.jpg", "empty"])
    ui.choose_file(f"Product Name,Input Image Urls\r\nLamp,{urls},ftp://x/y\r\n".encode())
    expect(errors.locator("mark")).to_have_text("ftp://x/y")
    expect(errors.locator("td.invalid")).to_contain_text("https://shop.example/99.jpg")
    # The server joins the cells of a list of URLs without quotes.
    expect(errors.locator("thead th")).to_have_count(2 + 2)


def test_file_errors_show_the_invalid_column_of_a_wide_file(
    open_page: OpenPage, service: Service
) -> None:
    ui = open_page(service.url)
    other = ",".join(f"Column {n}" for n in range(200))
    ui.choose_file(f"{other},Product Name,Input Image Urls\r\n{',' * 200},ftp://x/y\r\n".encode())
    errors = ui.page.locator(".file-errors")
    expect(errors.locator("mark")).to_have_text("ftp://x/y")
    expect(errors.locator("thead th")).to_have_count(2 + 50)
    expect(errors.locator("td.invalid")).to_have_text(["empty", "ftp://x/y"])


def test_file_errors_show_every_invalid_url_of_a_long_cell(
    open_page: OpenPage, service: Service
) -> None:
    ui = open_page(service.url)
    urls = [f"https://shop.example/{n}.jpg" for n in range(100)]
    urls[10], urls[90] = "ftp://x/10", "ftp://x/90"
    ui.choose_file(table([(1, "Lamp", urls)]))
    marks = ui.page.locator(".file-errors td.invalid mark")
    expect(marks).to_have_text(["ftp://x/10", "ftp://x/90"])


def test_file_errors_show_surplus_cells(open_page: OpenPage, service: Service) -> None:
    ui = open_page(service.url)
    ui.choose_file(
        b"Product Name,Input Image Urls,Colour\r\nLamp,blue,https://shop.example/1.jpg,red\r\n"
    )
    errors = ui.page.locator(".file-errors")
    expect(errors.locator("thead th")).to_have_text(
        ["Row", "Problem", "Product Name", "Input Image Urls", "Colour", "–"]
    )
    expect(errors.locator("tbody td").last).to_have_text("red")


def test_file_level_errors_are_shown_as_a_list(open_page: OpenPage, service: Service) -> None:
    ui = open_page(service.url)
    ui.choose_file(
        b"Product Name,Product Name,Input Image Urls,Input Image Urls\r\nLamp,Lamp,a,b\r\n"
    )
    errors = ui.page.locator(".file-level-errors li")
    expect(errors).to_have_count(2)
    expect(errors.first).to_contain_text("Product Name")
    expect(errors.last).to_contain_text("Input Image Urls")


@pytest.mark.parametrize("width", [320, 360])
def test_file_error_message_fits_the_table_on_a_phone(
    open_page: OpenPage, service: Service, width: int
) -> None:
    ui = open_page(service.url, width=width, height=740)
    ui.choose_file(table([(1, "", "ftp://user:word@shop.example/1.jpg")]))
    message = ui.page.locator(".messages li").first
    right = "e => e.getBoundingClientRect().right"
    table_right = ui.page.locator(".file-errors .scroller").evaluate(right)
    assert message.evaluate(right) < table_right


def test_file_errors_beyond_the_listed_ones_are_counted(
    open_page: OpenPage, service: Service
) -> None:
    ui = open_page(service.url)
    ui.choose_file(table((n, "Lamp", "ftp://shop.example/1.jpg") for n in range(250)))
    expect(ui.page.get_by_role("heading", name="250 problems in")).to_be_visible()
    expect(
        ui.page.get_by_text("These are the first 100 problems. There are 150 more.")
    ).to_be_visible()


def test_text_from_a_file_never_becomes_markup(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    markup = '<img src=x onerror="document.title=1"><b class="injected">'
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(
        table(
            [(markup, markup, f"ftp://x/{markup}")], ("S. No.", "Product Name", "Input Image Urls")
        ),
        f"{markup}.csv",
    )
    expect(page.locator(".file-errors")).to_contain_text(markup)
    assert page.locator(".injected, [onerror]").count() == 0
    ui.upload(table([(markup, markup, origin.photo(1))]), f"{markup}.csv")
    ui.wait_for_status("Done")
    expect(ui.cards.first).to_contain_text(markup)
    ui.cards.first.click()
    expect(page.get_by_role("dialog")).to_contain_text(markup)
    page.goto(f"{service.url}/#/requests")
    expect(page.get_by_role("link", name="onerror")).to_be_visible()
    assert page.locator(".injected, [onerror]").count() == 0


def test_compare_dialog_has_slider_zoom_and_next_image(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.upload(
        table([(1, "Product 1", [origin.photo(2, "jpg", "?w=1600&h=1200"), origin.photo(3)])])
    )
    ui.wait_for_status("Done")
    hits = origin.hits("/photo/2.jpg")
    expect(ui.cards.first.locator("img")).to_be_visible()
    assert origin.hits("/photo/2.jpg") == hits, "the original is loaded only when the dialog opens"
    ui.cards.first.click()
    dialog = page.get_by_role("dialog", name="Product 1")
    expect(dialog.get_by_text(re.compile(r"\d+ → \d+"))).to_be_visible()
    origin.wait_for_hits("/photo/2.jpg", hits + 1)
    assert "referer" not in origin.seen("/photo/2.jpg")[-1].headers
    slider = dialog.get_by_role("slider")
    before = slider.input_value()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert int(slider.input_value()) == int(before) + 1
    assert (
        dialog.locator(".image-pair").evaluate("e => e.style.getPropertyValue('--split')") == "51%"
    )
    box = dialog.locator(".image-pair").bounding_box()
    assert box is not None
    assert box["width"] > 600, "the image uses the available width"
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert abs(int(slider.input_value()) - 25) <= 1
    dialog.get_by_role("button", name="Actual size").click()
    assert dialog.locator(".image-pair").evaluate("e => e.clientWidth") == 1600
    assert dialog.evaluate("e => e.scrollWidth <= e.clientWidth"), (
        "only the image scrolls, not the dialog"
    )
    assert dialog.locator(".viewport").evaluate("e => e.scrollWidth > e.clientWidth")
    dialog.get_by_role("button", name="Next image").click()
    expect(dialog.get_by_text("2 of 2", exact=False).first).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(ui.cards.nth(1)).to_be_focused()


def test_browser_back_closes_the_dialog(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.upload(products(origin, 1))
    ui.wait_for_status("Done")
    for opener in (ui.cards.first, page.get_by_role("button", name="Delete")):
        opener.click()
        expect(page.get_by_role("dialog")).to_be_visible()
        page.go_back()
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("heading", level=1)).to_be_focused()
        page.go_forward()
    expect(page.get_by_role("heading", level=1)).to_have_text("products.csv")


def test_long_product_name_does_not_hide_the_image_position(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    name = "A throw of merino and alpaca with fringes, washable, " * 9
    ui = open_page(service.url, width=360, height=740)
    page = ui.page
    ui.upload(table([(1, name, [origin.photo(n) for n in range(12)])]))
    ui.wait_for_status("Done")
    position = ui.cards.first.locator(".muted", has_text="1 of 12")
    inside = (
        "e => e.getBoundingClientRect().right <= e.closest('.card').getBoundingClientRect().right"
    )
    assert position.evaluate(inside), "the position of the image is visible"
    ui.cards.first.scroll_into_view_if_needed()
    expect(ui.cards.first.locator("img")).to_be_visible()
    ui.cards.first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("p", has_text=name.strip())).to_be_visible()
    expect(dialog.get_by_role("slider")).to_be_in_viewport()


def test_failed_images_are_listed_and_retried(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.upload(table_with_failing_image(origin))
    ui.wait_for_status("Finished, 1 failed")
    expect(page.get_by_role("heading", name="1 image failed")).to_be_visible()
    page.get_by_role("button", name="Show them").click()
    expect(ui.cards).to_have_count(1)
    ui.cards.first.click()
    expect(page.get_by_role("dialog")).to_contain_text("404")
    page.keyboard.press("Escape")
    failed = ui.download("Failed rows only").decode()
    assert "/gone.jpg" in failed
    assert "/photo/1.jpg" not in failed
    origin.script("/gone.jpg", Reply(photo="/photo/3.jpg"))
    page.get_by_role("button", name="Try 1 failed image again").click()
    ui.wait_for_status("Done")
    page.get_by_role("radio", name="All").check()
    expect(page.locator(".card.completed")).to_have_count(3)


def test_request_is_cancelled_and_deleted_after_confirmation(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    slow = origin.script("/slow.jpg", Reply(gate="never"))
    ui = open_page(service.url)
    page = ui.page
    ui.upload(table([(1, "Quick", origin.photo(1)), (2, "Slow", slow)]))
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "1")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Keep going").click()
    ui.wait_for_status("In progress")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the request").click()
    ui.wait_for_status("Cancelled")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete permanently").click()
    expect(page.get_by_role("heading", name="No requests yet")).to_be_visible()
    origin.open_gate("never")


def test_upload_is_repeated_without_a_second_request_if_the_response_is_lost(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    aborted: list[str] = []

    def abort_first_response(route: Route) -> None:
        if "dryRun" in route.request.url or aborted:
            route.continue_()
            return
        route.fetch()
        aborted.append(route.request.url)
        route.abort()

    page.route("**/processImages*", abort_first_response)
    ui.choose_file(products(origin))
    page.get_by_role("button", name="Compress ").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.get_by_role("button", name="Try again").click()
    ui.wait_for_status("Done")
    assert len(service.get("/listRequests").json()["requests"]) == 1


def test_upload_sends_the_chosen_options(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(products(origin, 1))
    page.get_by_text("Options").click()
    page.get_by_label("Quality", exact=True).select_option("Fixed quality")
    page.get_by_label("Quality value").fill("30")
    page.get_by_label("Format").select_option("WebP")
    page.get_by_label("Maximum width").fill("90")
    page.get_by_label("Maximum height").fill("65535")
    page.get_by_label("Effort").select_option("Smaller files")
    page.get_by_label("Webhook URL").fill(origin.url("/hook"))
    assert "at most 90 px wide · at most 65535 px tall · smaller files" in (
        page.locator("summary", has_text="Options").inner_text()
    )
    page.get_by_role("button", name="Compress ").click()
    ui.wait_for_status("Done")
    status = service.status(page.url.rpartition("/")[2])
    assert status["settings"] == {
        "quality": "30",
        "format": "webp",
        "maxWidth": 90,
        "maxHeight": 65_535,
        "effort": "small",
    }
    for image in status["products"][0]["images"]:
        assert (image["outputFormat"], image["quality"], image["width"]) == ("webp", 30, 90)
    origin.wait_for_hits("/hook", 1)


def test_request_page_shows_the_state_of_the_webhook(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    hook = origin.script("/hook", Reply(gate="webhook"))
    held = origin.script("/held.jpg", Reply(gate="go", photo="/photo/6.jpg"))
    request_id = service.upload(table([(1, "Held", held)]), f"?webhookUrl={hook}")
    ui = open_page(f"{service.url}/#/request/{request_id}")
    notice = ui.page.locator(".notice", has_text="Webhook")
    expect(notice).to_contain_text("will be called when all images are done")
    origin.open_gate("go")
    expect(notice).to_contain_text("is being called")
    origin.open_gate("webhook")


def test_invalid_option_in_closed_details_is_opened_and_focused(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(products(origin, 1))
    page.get_by_text("Options").click()
    page.get_by_label("Webhook URL").fill("no URL")
    page.get_by_text("Options").click()
    expect(page.get_by_label("Webhook URL")).to_be_hidden()
    page.get_by_role("button", name="Compress ").click()
    expect(page.get_by_label("Webhook URL")).to_be_focused()


def test_request_list_loads_more_and_filters_by_status(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ids = [service.upload(table([(1, "Lamp", origin.photo(1))])) for _ in range(52)]
    failing = service.upload(table_with_failing_image(origin))
    for request_id in (ids[-1], failing):
        service.finished(request_id)
    page = open_page(f"{service.url}/#/requests").page
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show older requests").click()
    expect(rows).to_have_count(53)
    page.get_by_label("Status").select_option("Finished, some failed")
    expect(rows).to_have_count(1)
    rows.first.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert page.url.endswith(f"#/request/{failing}")
    page.go_back()
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()


def test_unknown_request_shows_a_problem(open_page: OpenPage, service: Service) -> None:
    page = open_page(f"{service.url}/#/request/00000000-0000-4000-8000-000000000000").page
    expect(page.get_by_role("alert")).to_contain_text("Request not found")


def test_sign_in_sets_a_cookie_and_sign_out_removes_it(
    open_page: OpenPage, start_service: StartService, origin: Origin
) -> None:
    service = start_service(server={"api_keys": ["open-sesame-open-sesame"]})
    ui = open_page(f"{service.url}/#/requests")
    page = ui.page
    page.get_by_role("textbox", name="API key").fill("wrong")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Wrong API key.")).to_be_visible()
    page.get_by_role("textbox", name="API key").fill("open-sesame-open-sesame")
    dialog.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="No requests yet")).to_be_visible()
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert "open-sesame" not in page.evaluate("JSON.stringify(localStorage) + location.href")
    page.goto(service.url)
    ui.upload(products(origin, 1))
    ui.wait_for_status("Done")
    assert ui.download("CSV")
    page.route("**/session", lambda route: route.abort())
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("Check that it is running")).to_be_visible()
    page.unroute("**/session")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#toast")).to_have_text("Signed out.")
    assert page.context.cookies() == []


def test_header_has_sign_in_and_page_hides_what_the_role_may_not_do(
    open_page: OpenPage, start_service: StartService
) -> None:
    key = {"name": "auditor", "role": "read", "key": "open-sesame-open-sesame"}
    service = start_service(server={"keys": [key]})
    page = open_page(service.url).page
    expect(page.get_by_text("Choose a file")).to_be_visible()
    page.locator("header").get_by_role("button", name="Sign in").click()
    page.get_by_role("textbox", name="API key").fill("open-sesame-open-sesame")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    expect(page.locator("#sign-in")).to_be_hidden()
    expect(page.get_by_text("Choose a file")).to_be_hidden()


def test_page_without_keys_has_no_sign_in(open_page: OpenPage, service: Service) -> None:
    page = open_page(service.url).page
    expect(page.locator("html[data-role=admin]")).to_be_attached()
    expect(page.locator("#sign-in")).to_be_hidden()
    expect(page.locator("#sign-out")).to_be_hidden()


def test_page_works_under_a_path_prefix(
    open_page: OpenPage, start_service: StartService, origin: Origin
) -> None:
    """The proxy serves the service under the path /shrink/ of another host."""
    proxy = "http://127.0.0.1:9"
    service = start_service(server={"public_url": f"{proxy}/shrink"})
    ui = open_page("about:blank")
    page = ui.page
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
    ui.upload(products(origin, 1))
    ui.wait_for_status("Done")
    page.get_by_role("link", name="API").click()
    expect(page.locator(".operation").first).to_be_visible()
    page.get_by_role("link", name="Requests", exact=True).click()
    expect(page.get_by_role("link", name="products.csv")).to_be_visible()
    assert [path for path in paths if not path.startswith("/shrink/")] == []


def test_page_can_be_used_with_the_keyboard_alone(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    keyboard = page.keyboard
    expect(page.get_by_text("Choose a file")).to_be_visible()
    keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    ui.choose_file(products(origin, 10))
    expect(page.get_by_role("button", name="Compress 20 images")).to_be_focused()
    keyboard.press("Enter")
    ui.wait_for_status("Done")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    page.get_by_role("searchbox").focus()
    keyboard.press("Tab")
    expect(page.get_by_role("button", name="Copy 20 new URLs")).to_be_focused()
    keyboard.press("Tab")
    expect(ui.cards.first).to_be_focused()
    keyboard.press("ArrowRight")
    expect(ui.cards.nth(1)).to_be_focused()
    keyboard.press("End")
    expect(ui.cards.last).to_be_focused()
    expect(ui.cards.last).to_contain_text("Product 10")
    keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Product 10")).to_be_visible()
    keyboard.press("Escape")
    expect(ui.cards.last).to_be_focused()


def test_chosen_theme_is_kept_after_reload(open_page: OpenPage, service: Service) -> None:
    page = open_page(service.url).page
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.get_by_role("button", name="Use the dark theme").click()
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert dark != light
    page.reload()
    expect(page.get_by_role("button", name="Use the light theme")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == dark


def test_selected_items_are_visible_in_forced_colours(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    page.emulate_media(forced_colors="active")
    ui.upload(products(origin, 1))
    ui.wait_for_status("Done")
    background = "e => getComputedStyle(e).backgroundColor"
    all_chip, done_chip = page.locator(".chip label:visible").all()
    assert all_chip.evaluate(background) != done_chip.evaluate(background)
    current, other = (
        page.get_by_role("link", name=name, exact=True) for name in ("Requests", "API")
    )
    assert current.first.evaluate(background) != other.evaluate(background)


def test_rejected_option_can_be_corrected(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(products(origin, 1))
    page.get_by_text("Options").click()
    page.get_by_label("Format").select_option("WebP")
    page.get_by_label("Webhook URL").fill("https://user:word@shop.example/hook")
    page.get_by_role("button", name="Compress ").click()
    expect(page.get_by_role("alert")).to_contain_text("webhookUrl")
    expect(page.get_by_label("Format")).to_have_value("webp")
    page.get_by_label("Webhook URL").fill("")
    page.get_by_role("button", name="Compress ").click()
    ui.wait_for_status("Done")
