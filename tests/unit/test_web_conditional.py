"""Tests of the parsers for `Accept`, `If-None-Match` and `Range`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.web.http.conditional import (
    RangeNotSatisfiableError,
    etag_matches,
    negotiate_format,
    parse_range,
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "csv"),
        ("*/*", "csv"),
        ("text/csv", "csv"),
        ("text/*", "csv"),
        ("application/json", "json"),
        ("APPLICATION/JSON", "json"),
        ("application/*", "json"),
        ("application/json; charset=utf-8", "json"),
        ("application/json, text/csv", "csv"),
        ("application/json, text/plain, */*", "json"),
        ("text/csv;q=0.5, application/json", "json"),
        ("text/csv, application/json;q=0.9", "csv"),
        ("text/csv;q=0.1, application/json;q=0.2", "json"),
        ("application/json;q=0", "csv"),
        ("application/json;q=0, */*", "csv"),
        ("text/csv;q=0, */*", "json"),
        ("*/*;q=0.9, application/json;q=0.1", "csv"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "csv"),
        ("image/png", "csv"),
        ("application/json;q=nonsense", "csv"),
        ("application/json;q=1.5", "csv"),
        (",;,=", "csv"),
    ],
)
def test_negotiate_format_returns_preferred_format(accept: str, expected: str) -> None:
    assert negotiate_format(accept) == expected


@given(st.text(max_size=50))
def test_negotiate_format_accepts_any_text(accept: str) -> None:
    assert negotiate_format(accept) in {"csv", "json"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"1-a"', True),
        ('W/"1-a"', True),
        ('"0-a", W/"1-a"', True),
        ('"0-a","1-a"', True),
        ("*", True),
        (" * ", True),
        ("", False),
        ('"2-a"', False),
        ("1-a", False),
        ('"x1-a"', False),
    ],
)
def test_etag_matches_compares_weakly(header: str, expected: bool) -> None:
    assert etag_matches(header, 'W/"1-a"') is expected
    assert etag_matches(header, '"1-a"') is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 10)),
        ("bytes=90-1000", (90, 10)),
        ("bytes=-10", (90, 10)),
        ("bytes=-1000", (0, 100)),
        ("BYTES=0-0", (0, 1)),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=9-1", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=+1-2", None),
    ],
)
def test_parse_range_returns_offset_and_length_or_none(
    header: str, expected: tuple[int, int] | None
) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=1000-2000", "bytes=-0"])
def test_parse_range_raises_when_range_is_outside_file(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        parse_range(header, 100)
