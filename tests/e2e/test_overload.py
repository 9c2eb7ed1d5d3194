"""A service under hostile or excessive load keeps its promises."""

from __future__ import annotations

from PIL import Image

from tests.image_assertions import encode_image
from tests.origin import Origin
from tests.service_process import Service, table


def scan_bomb(number: int) -> bytes:
    """Return a small JPEG of 16 million pixels that takes a minute to decode."""
    data = encode_image(Image.new("L", (4_000, 4_000), number), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 5_000 + data[-2:]


def test_scan_bombs_fail_at_once_and_beside_them_small_images_complete(
    service: Service, origin: Origin
) -> None:
    bombs = [origin.serve(f"/bomb/{number}.jpg", scan_bomb(number)) for number in range(12)]
    bad = service.upload(table((n, f"Bomb {n}", [url]) for n, url in enumerate(bombs)))
    good = service.upload(table((n, f"Lamp {n}", [origin.photo(n)]) for n in range(10)))
    assert service.finished(good)["status"] == "completed"
    status = service.finished(bad)
    assert [(f["code"], f["count"]) for f in status["failures"]] == [("too_many_pixels", 12)]
    assert status["bytes"]["output"] == 0
