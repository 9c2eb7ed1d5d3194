"""Make screenshots of every state of the page, and one sheet of all of them.

python3 run.py screenshots [FOLDER]     the default folder is build/screenshots
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.page_object import VISIBLE_IMAGES_LOADED, PageObject
from tests.origin import Origin, Reply
from tests.sample_images import photograph
from tests.service_process import Service, table
from tests.translucent_images import soft_edge

WIDTHS = (390, 1280, 1920)
SCHEMES = ("light", "dark")
HEIGHT = 900
THUMBNAIL_WIDTH = 440
"""Width in pixels of each screenshot on the sheet."""
LABEL_HEIGHT = 24
FOLDER = "build/screenshots"
COLUMNS = 6
Row = tuple[int, str, str | list[str]]
SHAPES = {
    "Portrait poster": "?w=800&h=1200",
    "Tall banner": "?w=300&h=900",
    "Panorama": "?w=1500&h=500",
    "Landscape": "?w=1200&h=800",
    "Square cushion": "?w=700&h=700",
    "Tiny icon": "?w=24&h=24",
}


def product_rows(origin: Origin) -> list[Row]:
    """Return products with images of all shapes: also transparent ones, and three that fail."""
    rows: list[Row] = [
        (number, name, origin.photo(number, "jpg", query))
        for number, (name, query) in enumerate(SHAPES.items(), 1)
    ]
    cut_out = io.BytesIO()
    soft_edge(4, (600, 600)).save(cut_out, "PNG")
    grey = io.BytesIO()
    photograph(9, 500, 400).save(grey, "PNG")
    lost = origin.script(
        "/lost.jpg", Reply(photo="/photo/12.jpg?w=900&h=700"), Reply(403, body=b"")
    )
    rows += [
        (7, "Transparent sticker", origin.serve("/sticker.png", cut_out.getvalue(), "image/png")),
        (8, "Original lost", lost),
        (9, "Not found", origin.script("/gone.jpg", Reply(404))),
        (10, "Access denied", origin.script("/denied.jpg", Reply(403))),
        (
            11,
            "A name that is much longer than a card is wide, in the colour oak",
            [origin.photo(11), origin.serve("/page.jpg", b"<!doctype html><p>Hello", "text/html")],
        ),
        (12, "Lossless", origin.serve("/lossless.png", grey.getvalue(), "image/png")),
    ]
    return rows  # fmt: skip


class Camera:
    """Takes screenshots of one page and saves them in a folder."""

    def __init__(self, page: Page, folder: Path, prefix: str) -> None:
        self.ui = PageObject(page)
        self._folder = folder
        self._prefix = prefix

    def take(self, state: str) -> None:
        self.ui.page.wait_for_function(VISIBLE_IMAGES_LOADED)
        self.ui.page.wait_for_function("[...document.images].every((image) => image.complete)")
        self.ui.wait_for_transitions()
        self.ui.page.screenshot(path=self._folder / f"{state}-{self._prefix}.png")


def take_upload(camera: Camera, url: str, rows: list[Row]) -> None:
    """Take the start page, file errors, and the form of an upload."""
    ui, page = camera.ui, camera.ui.page
    page.goto(f"{url}/#/")
    expect(page.get_by_text("Choose a file")).to_be_visible()
    camera.take("01-start")
    bad = [(n, f"Product {n}", "www.shop.example/1.jpg") for n in range(1, 30)]
    ui.choose_file(table([*bad, (30, "", rows[0][2])]), "bad.csv")
    expect(page.locator(".file-errors")).to_be_visible()
    camera.take("02-file-errors")
    ui.choose_file(table(rows[:6]), "autumn.csv")
    page.get_by_text("Options").click()
    camera.take("03-options")
    page.get_by_role("button", name="Try 3 images first").click()
    expect(page.locator(".trial .card")).to_have_count(3)
    page.locator(".trial").scroll_into_view_if_needed()
    camera.take("04-trial")


def take_request(camera: Camera, url: str, request_id: str) -> None:
    """Take the page of a finished request, its dialogs, and the list."""
    ui, page = camera.ui, camera.ui.page
    page.goto(f"{url}/#/request/{request_id}")
    expect(page.get_by_role("heading", name="spring-catalogue.csv")).to_be_visible()
    expect(ui.cards.first).to_be_visible()
    camera.take("05-request")
    page.get_by_role("heading", name="Images", exact=True).evaluate("e => e.scrollIntoView()")
    camera.take("06-gallery")
    ui.cards.first.click()
    dialog = page.get_by_role("dialog")
    for index, name in enumerate(
        [*SHAPES, "Transparent sticker", "Original lost", "Not found", "Access denied"]
    ):
        expect(dialog.get_by_role("heading", name=name)).to_be_visible()
        camera.take(f"07-dialog-{index:02}-{name.lower().replace(' ', '-')}")
        dialog.get_by_role("button", name="Next image").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Run again").click()
    camera.take("08-run-again")
    page.keyboard.press("Escape")
    page.goto(f"{url}/#/requests")
    expect(page.get_by_role("table", name="Requests", exact=True)).to_be_visible()
    camera.take("09-list")


def take_running(camera: Camera, url: str, request_id: str) -> None:
    """Take the page of a request whose images wait for a host."""
    page = camera.ui.page
    page.goto(f"{url}/#/request/{request_id}")
    expect(page.get_by_role("button", name="Stop trying")).to_be_visible()
    expect(camera.ui.cards.first).to_be_visible()
    camera.take("10-waiting")


@contextmanager
def running_service() -> Iterator[tuple[Service, Origin]]:
    """Run a service in a temporary folder, and an origin for its images."""
    origin = Origin()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        try:
            service.start()
            yield service, origin
        finally:
            service.close()
            origin.close()


def take_all(browser: Browser, service: Service, origin: Origin, folder: Path) -> None:
    rows = product_rows(origin)
    finished = service.upload(table(rows), "?name=spring-catalogue.csv")
    service.finished(finished)
    down = origin.script("/down.jpg", Reply(503, headers={"Retry-After": "900"}))
    waiting = service.upload(table([(1, "Rug", origin.photo(20)), (2, "Lamp", down)]))
    for width in WIDTHS:
        for scheme in SCHEMES:
            context = browser.new_context(
                viewport={"width": width, "height": HEIGHT},
                color_scheme="dark" if scheme == "dark" else "light",
                locale="en-GB",
            )
            camera = Camera(context.new_page(), folder, f"{width}-{scheme}")
            take_upload(camera, service.url, rows)
            take_request(camera, service.url, finished)
            take_running(camera, service.url, waiting)
            context.close()
            print(f"{width} px, {scheme}", flush=True)


def make_sheet(folder: Path) -> Path:
    """Save one image of all screenshots: a row for each state, a column for each width and theme."""
    files = sorted(folder.glob("[0-9]*.png"))
    states = sorted({file.name.rsplit("-", 2)[0] for file in files})
    row_height = LABEL_HEIGHT + THUMBNAIL_WIDTH
    sheet = Image.new("RGB", (COLUMNS * THUMBNAIL_WIDTH, len(states) * row_height), "#888")
    draw = ImageDraw.Draw(sheet)
    variants = [f"{width}-{scheme}" for width in WIDTHS for scheme in SCHEMES]
    for row, state in enumerate(states):
        for column, variant in enumerate(variants):
            x, y = column * THUMBNAIL_WIDTH, row * row_height
            draw.text((x + 6, y + 6), f"{state} {variant}", "white")
            with Image.open(folder / f"{state}-{variant}.png") as image:
                image.thumbnail((THUMBNAIL_WIDTH - 8, THUMBNAIL_WIDTH - 4))
                sheet.paste(image, (x + 4, y + LABEL_HEIGHT))
    path = folder / "sheet.png"
    sheet.save(path)
    return path


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0] if arguments else FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    with running_service() as (service, origin), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        take_all(browser, service, origin, folder)
        browser.close()
    print(f"Saved {make_sheet(folder)}")


if __name__ == "__main__":
    main(sys.argv[1:])
