"""Tests of how the page reads a file: it shows what was recognised, and asks for what was not."""

from __future__ import annotations

import csv
import io

import pytest
from playwright.sync_api import expect

from imgsvc.table.xlsx_writer import XlsxWriter
from tests.browser.conftest import OpenPage
from tests.origin import Origin
from tests.service_process import Service, table

pytestmark = pytest.mark.external

UNKNOWN = ("Artikel", "Bild", "Ort")


def rows_of(text: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode("utf-8-sig"), newline="")))


def worksheet(rows: list[list[str]]) -> bytes:
    with XlsxWriter() as writer:
        return writer.write(rows) + writer.close()


def test_shop_export_is_recognised_and_comes_back_with_new_urls(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    header = ["Handle", "Title", "Vendor", "Image Src"]
    export = table(
        [("mug", "Mug", "Acme", origin.photo(1)), ("mug", "", "", origin.photo(2))], header
    )
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(export, "spring.csv")
    preview = page.locator(".preview")
    expect(preview).to_contain_text("Shopify export")
    expect(preview).to_contain_text("CSV with commas · UTF-8")
    roles = preview.locator(".roles > div")
    expect(roles).to_have_text(
        [
            "ImagesImage Src",
            "Product namesTitle",
            "Products grouped byHandle",
            "Kept unchangedVendor",
        ]
    )
    first = preview.locator("tbody tr")
    expect(first).to_have_count(2)
    expect(first.nth(1)).to_contain_text("3Mug")
    expect(first.nth(0)).to_contain_text(origin.photo(1))
    assert service.get("/listRequests").json()["requests"] == []
    page.get_by_role("button", name="Compress 2 images").click()
    ui.wait_for_status("Done")
    links = page.get_by_role("region", name="Downloads").get_by_role("link")
    expect(links).to_have_text(["Download for your shop", "For Excel", "CSV", "Images as ZIP"])
    returned = rows_of(ui.download("Download for your shop"))
    assert returned[0] == header
    assert [row[:3] for row in returned[1:]] == [["mug", "Mug", "Acme"], ["mug", "", ""]]
    assert all("/images/" in row[3] for row in returned[1:])
    expect(page.get_by_role("heading", level=1)).to_have_text("spring.csv")
    page.get_by_role("link", name="Requests", exact=True).first.click()
    expect(page.get_by_role("link", name="spring.csv")).to_be_visible()


def test_unknown_columns_are_chosen_and_remembered(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(table([("Lampe", origin.photo(1), "Ulm"), ("Regal", "", "Ulm")], UNKNOWN))
    expect(page.get_by_role("heading", name="Which columns hold the images")).to_be_visible()
    images = page.get_by_label("Column with image URLs")
    expect(images).to_be_focused()
    expect(images).to_have_value("Bild")
    expect(page.get_by_text(origin.photo(1))).to_be_visible()
    names = page.get_by_label("Column with product names")
    expect(names).to_have_value("Artikel")
    page.get_by_role("button", name="Check the file").press("Enter")
    expect(page.locator(".preview")).to_contain_text("Columns as you chose them")
    expect(page.locator(".file-card")).to_contain_text("2 products, 1 image")
    page.get_by_role("button", name="Choose another file").click()
    ui.choose_file(table([("Tisch", origin.photo(2), "Bonn")], UNKNOWN))
    expect(page.get_by_text("for an earlier file with the same header")).to_be_visible()
    expect(page.locator(".first-products tbody")).to_contain_text("Tisch")
    page.get_by_role("button", name="Compress 1 image").click()
    ui.wait_for_status("Done")
    assert rows_of(ui.download("Download for your shop"))[0] == list(UNKNOWN)
    page.goto(service.url)
    ui.choose_file(table([("Tisch", origin.photo(2))], UNKNOWN[:2]))
    expect(page.get_by_role("heading", name="Which columns hold the images")).to_be_visible()


def test_several_image_columns_can_be_chosen(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    header = ("Artikel", "Vorne", "Hinten")
    ui.choose_file(table([("Lampe", origin.photo(1), f"{origin.url('/b?n=2')}")], header))
    page.get_by_label("Column with image URLs").select_option("Vorne")
    page.get_by_role("button", name="Add another image column").click()
    expect(page.get_by_label("Image column 2")).to_be_focused()
    page.get_by_label("Image column 2").select_option("Hinten")
    page.get_by_role("button", name="Check the file").click()
    expect(page.locator(".file-card")).to_contain_text("1 product, 2 images")


def test_recognised_columns_can_be_changed_and_changed_back(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    header = ("Name", "Image", "Picture of the box", "Code")
    ui.choose_file(table([("Lamp", origin.photo(1), origin.photo(2), "L1")], header))
    preview = page.locator(".preview")
    expect(preview).to_contain_text("Table with image URLs")
    page.get_by_text("Change how the file is read").click()
    page.get_by_label("Column with image URLs").select_option("Picture of the box")
    page.get_by_label("Column with product names").select_option("Code")
    page.get_by_role("button", name="Use these columns").click()
    expect(preview.locator("tbody tr")).to_have_text([f"2L1{origin.photo(2)}"])
    page.get_by_text("Change how the file is read").click()
    page.get_by_label("Column with image URLs").select_option("Automatic")
    page.get_by_label("Column with product names").select_option("Automatic")
    page.get_by_role("button", name="Use these columns").click()
    expect(preview.locator("tbody tr")).to_have_text([f"2Lamp{origin.photo(1)}"])
    page.get_by_role("button", name="Choose another file").click()
    ui.choose_file(table([("Lamp", origin.photo(1), origin.photo(2), "L1")], header))
    expect(preview.locator("tbody tr")).to_have_text([f"2Lamp{origin.photo(1)}"])


def test_encoding_is_chosen_by_how_the_text_reads(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(table([(1, "Кружка с ручкой", origin.photo(1))]).decode().encode("cp1251"))
    field = page.get_by_label("Encoding of the text")
    expect(field).to_have_value("cp1251")
    expect(field.locator("option:checked")).to_have_text("Cyrillic (Windows-1251): Кружка с ручкой")
    page.get_by_role("button", name="Check the file").click()
    preview = page.locator(".preview")
    expect(preview).to_contain_text("CSV with commas · Cyrillic (Windows-1251)")
    expect(preview.locator("tbody")).to_contain_text("Кружка с ручкой")
    page.get_by_role("button", name="Compress 1 image").click()
    ui.wait_for_status("Done")
    expect(ui.cards.first).to_contain_text("Кружка с ручкой")


def test_file_is_uploaded_without_its_invalid_rows(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    rows = [(1, "Lamp", origin.photo(1)), (2, "Shelf", "ftp://x/2.jpg"), (3, "", origin.photo(3))]
    ui.choose_file(table(rows))
    expect(page.get_by_role("heading", name="2 problems in products.csv")).to_be_visible()
    page.get_by_role("button", name="Upload without these 2 rows").click()
    expect(page.locator(".file-card")).to_contain_text("1 product, 1 image · 2 rows left out")
    expect(page.get_by_role("button", name="Compress 1 image")).to_be_focused()
    page.keyboard.press("Enter")
    ui.wait_for_status("Done")
    skipped = page.get_by_role("region", name="2 rows skipped")
    expect(skipped.get_by_role("listitem")).to_have_text(
        [
            "Row 3 · Input Image Urls: The URL must start with http:// or https://, not ftp:.",
            "Row 4 · Product Name: The product has no name. Add one, or delete the row.",
        ]
    )
    returned = rows_of(ui.download("Download for your shop"))
    assert returned[2:] == [["2", "Shelf", "ftp://x/2.jpg"], ["3", "", origin.photo(3)]]
    assert len(rows_of(ui.download("Failed rows only"))) == 3


def test_rows_without_images_can_be_kept(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(table([(1, "Lamp", origin.photo(1)), (2, "Shelf", "")]))
    expect(page.get_by_role("button", name="Upload without this row")).to_be_visible()
    page.get_by_role("button", name="Keep rows without images").click()
    expect(page.locator(".file-card")).to_contain_text("2 products, 1 image")
    page.get_by_role("button", name="Compress 1 image").click()
    ui.wait_for_status("Done")
    assert rows_of(ui.download("Download for your shop"))[2] == ["2", "Shelf", ""]


def test_file_that_cannot_be_read_without_rows_offers_only_another_file(
    open_page: OpenPage, service: Service
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(table([(1, "Lamp", "ftp://x/1.jpg")]))
    buttons = page.locator(".file-errors").get_by_role("button")
    expect(buttons).to_have_text(["Choose the fixed file"])
    with page.expect_file_chooser():
        buttons.click()


def test_workbook_is_accepted_and_comes_back_as_a_workbook(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    accepted = page.locator("#file").get_attribute("accept") or ""
    assert {".xlsx", ".tsv"} <= set(accepted.split(","))
    ui.choose_file(worksheet([["Name", "Image"], ["Lamp", origin.photo(1)]]), "shop.xlsx")
    expect(page.locator(".preview")).to_contain_text("Excel workbook (.xlsx)")
    page.get_by_role("button", name="Compress 1 image").click()
    ui.wait_for_status("Done")
    assert ui.download("Download for your shop").startswith(b"PK")


def test_large_file_is_read_from_its_start_before_the_upload(
    open_page: OpenPage, service: Service
) -> None:
    ui = open_page(service.url)
    page = ui.page
    filler = "x" * 1000
    rows = ((n, "Lamp", "https://shop.example/1.jpg", filler) for n in range(17_000))
    body = table(rows, (*UNKNOWN, "Rest"))
    ui.choose_file(body)
    expect(page.get_by_role("heading", name="Which columns hold the images")).to_be_visible()
    page.get_by_label("Column with image URLs").select_option("Ort")
    page.get_by_label("Column with product names").select_option("Bild")
    page.get_by_role("button", name="Check the file").click()
    expect(page.locator(".file-card")).to_contain_text("Will be checked during the upload")
    expect(page.locator(".first-products tbody tr")).to_have_count(3)


def test_request_name_can_be_changed(open_page: OpenPage, service: Service, origin: Origin) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(table([(1, "Lamp", origin.photo(1))]), "export (3).csv")
    page.get_by_text("Options").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("export (3).csv")
    page.get_by_label("Name", exact=True).fill("Spring")
    page.get_by_role("button", name="Compress 1 image").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Spring")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV", exact=True).click()
    assert download.value.suggested_filename == "Spring-compressed.csv"


def test_column_with_file_names_can_be_replaced_by_another(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    ui = open_page(service.url)
    page = ui.page
    ui.choose_file(table([("Lamp", "lamp.jpg", origin.photo(1))], ("Name", "Image", "Address")))
    expect(page.locator(".file-errors")).to_contain_text('No cell of the column "Image" has a URL')
    page.get_by_role("button", name="Choose the columns").click()
    page.get_by_label("Column with image URLs").select_option("Address")
    page.get_by_role("button", name="Check the file").click()
    expect(page.locator(".file-card")).to_contain_text("1 product, 1 image")


def test_invalid_column_of_a_wide_table_is_shown_first(
    open_page: OpenPage, service: Service
) -> None:
    ui = open_page(service.url, width=1280)
    header = [*(f"Column {n}" for n in range(20)), "Product Name", "Input Image Urls"]
    ui.choose_file(table([[*range(20), "Lamp", "ftp://x/1.jpg"]], header))
    heads = ui.page.locator(".file-errors thead th")
    expect(heads.nth(2)).to_have_text("Input Image Urls")
    expect(heads.nth(3)).to_have_text("Column 0")
    expect(ui.page.locator(".file-errors tbody td").nth(1)).to_have_text("ftp://x/1.jpg")
    expect(ui.page.locator(".file-errors mark")).to_be_in_viewport()


def test_name_of_a_request_of_another_browser_is_shown(
    open_page: OpenPage, service: Service, origin: Origin
) -> None:
    service.upload(table([(1, "Lamp", origin.photo(1))]), "?name=Summer+sale")
    page = open_page(service.url).page
    page.get_by_role("link", name="Summer sale").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Summer sale")
