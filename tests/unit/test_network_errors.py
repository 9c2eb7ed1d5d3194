"""Error messages are short, on one line, and quote text from servers only after cleaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.network.errors import describe_non_image, format_seconds, one_line, status_line

PAGE = b"<!DOCTYPE html>\n<html><head><title>\n Sign in &ndash; Google Drive </title>"


@pytest.mark.parametrize(
    ("content_type", "data", "message"),
    [
        (
            "text/html",
            PAGE,
            'The host sent text/html ("Sign in – Google Drive") instead of an image.',
        ),
        ("text/html", b"<html>", "The host sent text/html instead of an image."),
        ("text/html", b"<title></title>", "The host sent text/html instead of an image."),
        (
            "text/html",
            b"<TITLE lang=de>Gr\xc3\xbc\xc3\x9fe</TITLE>",
            'The host sent text/html ("Grüße") instead of an image.',
        ),
        (
            "text/html",
            b"<title>\xff\x00\x1b[31m</title>",
            'The host sent text/html ("�[31m") instead of an image.',
        ),
        ("application/json", b"{}", "The host sent application/json instead of an image."),
        ("", b"hello", "The host sent an unknown file type instead of an image."),
        ("image/png", b"hello", "The host sent image/png, but the data is not an image."),
        (
            "image/png",
            PAGE,
            'The host sent a web page as image/png ("Sign in – Google Drive") instead of an image.',
        ),
        ("text/html\r\nX: y", b"", "The host sent text/html X: y instead of an image."),
    ],
)
def test_describe_non_image_names_content_type_and_page_title(
    content_type: str, data: bytes, message: str
) -> None:
    assert describe_non_image(content_type, data) == message


@given(st.text(max_size=300), st.binary(max_size=3_000), st.booleans())
def test_describe_non_image_is_short_and_on_one_line_for_any_response(
    content_type: str, data: bytes, has_title: bool
) -> None:
    message = describe_non_image(content_type, b"<title>" + data if has_title else data)
    assert len(message) < 200
    assert message.isprintable()
    assert message.startswith("The host sent ")


@given(st.text(max_size=2_000), st.integers(5, 200))
def test_one_line_limits_length_and_removes_invisible_characters(text: str, limit: int) -> None:
    cleaned = one_line(text, limit)
    assert len(cleaned) <= limit
    assert cleaned.isprintable()
    assert cleaned == cleaned.strip()


def test_format_seconds_and_status_line_return_readable_text() -> None:
    assert [format_seconds(n) for n in (1, 15, 0.5)] == ["1 second", "15 seconds", "0.5 seconds"]
    assert [status_line(n) for n in (404, 599)] == ["404 Not Found", "599"]
