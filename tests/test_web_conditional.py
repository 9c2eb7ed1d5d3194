"""What headers ask for: tables of cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.web.conditional import RangeNotSatisfiableError, matches, wanted_format, wanted_range


@pytest.mark.parametrize(
    ("accept", "form"),
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
def test_accept_is_weighed(accept: str, form: str) -> None:
    assert wanted_format(accept) == form


@given(st.text(max_size=50))
def test_any_accept_gives_a_format(accept: str) -> None:
    assert wanted_format(accept) in {"csv", "json"}


@pytest.mark.parametrize(
    ("header", "found"),
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
def test_if_none_match(header: str, found: bool) -> None:
    assert matches(header, 'W/"1-a"') is found
    assert matches(header, '"1-a"') is found


@pytest.mark.parametrize(
    ("header", "part"),
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
def test_ranges(header: str, part: tuple[int, int] | None) -> None:
    assert wanted_range(header, 100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=1000-2000", "bytes=-0"])
def test_ranges_that_lie_outside(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        wanted_range(header, 100)
