"""The sample: a table of products to try the service with, and its images, which are in this folder."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from imgsvc.image_types import MEDIA_TYPES

_FOLDER = Path(__file__).parent
_ID_BYTES = 8
SAMPLE_PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "Poster, First light": ("first-light-1.jpg", "first-light-2.jpg"),
    "Poster, Haze": ("haze.jpg", "haze.webp"),
    "Canvas, Seven hills": ("seven-hills.jpg",),
    "Sticker, oval": ("sticker.png",),
    "Animated card": ("card.gif",),
    "Print on linen": ("linen-1.jpg", "linen-2.webp"),
    "Missing on purpose": ("missing.jpg",),
}
"""Product names, with the file names of their images. The last image does not exist."""


class SampleImage(NamedTuple):
    """An image of the sample. `etag` is a strong validator."""

    data: bytes
    media_type: str
    etag: str


class Sample:
    """The sample of one instance. `secret` is the secret of the instance.

    The images are at `/sample/ID/NAME`. The ID is derived from the secret. So an instance recognises
    its own URLs, whatever host they name, and takes no other URL for one of them.
    """

    def __init__(self, secret: bytes) -> None:
        self.id = hmac.digest(secret, b"sample", "sha256")[:_ID_BYTES].hex()
        self._own_url = re.compile(rf"https?://[^/?#]+(?:/[^?#]*)?/sample/{self.id}/([^?#]*)[^#]*")

    def table(self, base_url: str) -> bytes:
        """Return the table as CSV. `base_url` is the URL of the service, without a final slash."""
        out = io.StringIO()
        rows = csv.writer(out)
        rows.writerow(["S. No.", "Product Name", "Input Image Urls"])
        for number, (product, names) in enumerate(SAMPLE_PRODUCTS.items(), 1):
            urls = ",".join(self.image_url(base_url, name) for name in names)
            rows.writerow([number, product, urls])
        return out.getvalue().encode()

    def image_url(self, base_url: str, name: str = "haze.jpg") -> str:
        """Return the URL of an image. `base_url` is the URL of the service, without a final slash."""
        return f"{base_url}/sample/{self.id}/{name}"

    def own_name(self, url: str) -> str | None:
        """Return the path below `/sample/ID/` in a URL of this instance, or None for any other URL."""
        match = self._own_url.fullmatch(url)
        return match and match[1]

    @cached_property
    def images(self) -> Mapping[str, SampleImage]:
        """The images by file name."""
        names = [name for names in SAMPLE_PRODUCTS.values() for name in names]
        return {name: _read(_FOLDER / name) for name in names if (_FOLDER / name).is_file()}


def _read(path: Path) -> SampleImage:
    data = path.read_bytes()
    etag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
    return SampleImage(data, MEDIA_TYPES[path.suffix[1:]], etag)
