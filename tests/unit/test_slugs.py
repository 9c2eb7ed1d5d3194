"""Slugs of products' names and the positions of their images."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.slugs import MAX_SLUG, make_slug


@pytest.mark.parametrize(
    ("name", "position", "slug"),
    [
        ("Red pumps", 2, "red-pumps-2"),
        ("  Lamp, desk (2nd) ", 1, "lamp-desk-2nd-1"),
        ("Café Müller – ½ l", 1, "cafe-muller-1-2-l-1"),
        ("Cafe\u0301", 1, "cafe-1"),
        ("Łódź ß Ærø", 3, "lodz-ss-aero-3"),
        ("Красные туфли", 1, "krasnye-tufli-1"),
        ("Αθήνα", 1, "athina-1"),
        ("한국", 1, "hangug-1"),
        ("靴", 1, "xue-1"),
        ("---", 2, "image-2"),
        ("", 12, "image-12"),
        ("\ue000", 1, "image-1"),
        ("🙂🙂", 2, "image-2"),
        ("Mug 🙂 blue", 1, "mug-blue-1"),
        ("5 € off & more", 1, "5-off-more-1"),
        ("a--b__c", 1, "a-b-c-1"),
        ("<script>", 1, "script-1"),
        ("../../etc", 1, "etc-1"),
        ("x" * 512, 1, "x" * 78 + "-1"),
        ("x" * 77 + " y", 1, "x" * 77 + "-1"),
        ("x" * 512, 123_456, "x" * 73 + "-123456"),
    ],
)
def test_slug_is_name_and_position(name: str, position: int, slug: str) -> None:
    assert make_slug(name, position) == slug


@given(st.text(max_size=512), st.integers(1, 10**9))
def test_slug_has_safe_characters_and_whole_position(name: str, position: int) -> None:
    slug = make_slug(name, position)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", slug)
    assert len(slug) <= MAX_SLUG
    assert slug.endswith(f"-{position}")
