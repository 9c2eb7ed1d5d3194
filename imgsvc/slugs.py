"""Slugs: the readable last part of an output's URL."""

from __future__ import annotations

import re
import unicodedata

from anyascii import anyascii

MAX_SLUG = 80
"""Maximum length of a slug, in characters. Longer names are cut."""


def make_slug(product_name: str, position: int) -> str:
    """Return a slug of a product's name and the position of its image, such as `red-pumps-2`.

    It has only `a`–`z`, `0`–`9` and single hyphens inside. A name without letters and digits gives
    `image-2`.
    """
    name = unicodedata.normalize("NFC", product_name)
    # anyascii spells out symbols such as emoji.
    usable = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in name)
    ascii_name = anyascii(usable).lower()
    ending = f"-{position}"
    words = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[: MAX_SLUG - len(ending)].rstrip("-")
    return (words or "image") + ending
