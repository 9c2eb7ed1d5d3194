"""Tests of the sample: its table, its images, and how an instance recognises its URLs."""

from __future__ import annotations

import csv
import io

import pytest
from PIL import Image

from imgsvc.sample import SAMPLE_PRODUCTS, Sample

SAMPLE = Sample(b"a secret")
OWN = f"/sample/{SAMPLE.id}/haze.jpg"


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:8080{OWN}",
        f"https://img.shop.example{OWN}",
        f"https://shop.example/below/a/prefix{OWN}",
        f"http://[::1]:80{OWN}",
        f"https://shop.example{OWN}?version=2",
    ],
)
def test_own_url_is_recognised_on_any_host(url: str) -> None:
    assert SAMPLE.own_name(url) == "haze.jpg"


def test_own_url_of_no_image_is_recognised_too() -> None:
    assert SAMPLE.own_name(f"https://shop.example{OWN}/more.jpg") == "haze.jpg/more.jpg"
    assert SAMPLE.own_name(f"https://shop.example/sample/{SAMPLE.id}/") == ""


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/sample/haze.jpg",
        f"https://shop.example/sample/{Sample(b'another secret').id}/haze.jpg",
        f"https://shop.example/a.jpg?next={OWN}",
        f"https://shop.example/x{OWN[1:]}",
        f"ftp://shop.example{OWN}",
        f"https:/{OWN}",
        f"https://shop.example/sample/{SAMPLE.id}",
    ],
)
def test_other_urls_are_not_taken_for_own(url: str) -> None:
    assert SAMPLE.own_name(url) is None


def test_table_has_absolute_urls_of_seven_products() -> None:
    table = SAMPLE.table("https://img.example/below").decode()
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [row["Product Name"] for row in rows] == list(SAMPLE_PRODUCTS)
    urls = [url for row in rows for url in row["Input Image Urls"].split(",")]
    assert all(url.startswith("https://img.example/below/sample/") for url in urls)
    names = [SAMPLE.own_name(url) for url in urls]
    assert (len(rows), len(names)) == (7, 10)
    assert [name for name in names if name not in SAMPLE.images] == ["missing.jpg"]
    assert set(SAMPLE.images) < set(names)


def test_images_are_small_and_valid() -> None:
    assert sum(len(image.data) for image in SAMPLE.images.values()) < 300_000
    for image in SAMPLE.images.values():
        with Image.open(io.BytesIO(image.data)) as opened:
            opened.load()
            assert opened.get_format_mimetype() == image.media_type
    assert len({image.etag for image in SAMPLE.images.values()}) == 9
