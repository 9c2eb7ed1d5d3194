"""What is said of a failure: short, on one line, and nobody else's words unwashed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.network.errors import describe_non_image, one_line, seconds, status_line

PAGE = b"<!DOCTYPE html>\n<html><head><title>\n Sign in &ndash; Google Drive </title>"


@pytest.mark.parametrize(
    ("content_type", "data", "sentence"),
    [
        ("text/html", PAGE, 'the server sent text/html, "Sign in – Google Drive"'),
        ("text/html", b"<html>", "the server sent text/html"),
        ("text/html", b"<title></title>", "the server sent text/html"),
        (
            "text/html",
            b"<TITLE lang=de>Gr\xc3\xbc\xc3\x9fe</TITLE>",
            'the server sent text/html, "Grüße"',
        ),
        ("text/html", b"<title>\xff\x00\x1b[31m</title>", 'the server sent text/html, "�[31m"'),
        ("application/json", b"{}", "the server sent application/json"),
        ("", b"hello", "the server sent something that is no image"),
        ("image/png", b"hello", "the server sent image/png, but its bytes are no image"),
        ("image/png", PAGE, 'the server sent a web page as image/png, "Sign in – Google Drive"'),
        ("text/html\r\nX: y", b"", "the server sent text/html X: y"),
    ],
)
def test_what_came_in_place_of_an_image_is_said(
    content_type: str, data: bytes, sentence: str
) -> None:
    assert describe_non_image(content_type, data) == sentence


@given(st.text(max_size=300), st.binary(max_size=3_000), st.booleans())
def test_whatever_came_the_sentence_is_short_and_on_one_line(
    content_type: str, data: bytes, titled: bool
) -> None:
    said = describe_non_image(content_type, b"<title>" + data if titled else data)
    assert len(said) < 200
    assert said.isprintable()
    assert said.startswith("the server sent ")


@given(st.text(max_size=2_000), st.integers(5, 200))
def test_a_strangers_text_is_washed(text: str, limit: int) -> None:
    washed = one_line(text, limit)
    assert len(washed) <= limit
    assert washed.isprintable()
    assert washed == washed.strip()


def test_durations_and_statuses_are_said_as_people_do() -> None:
    assert [seconds(n) for n in (1, 15, 0.5)] == ["1 second", "15 seconds", "0.5 seconds"]
    assert [status_line(n) for n in (404, 599)] == ["404 Not Found", "599"]
