"""Splitting and joining the URLs of a cell."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgsvc.table.cells import join_urls, split_urls
from imgsvc.urls import UrlError, parse_url

A, B = "https://a.example/1.jpg", "http://b.example/2.jpg"


@pytest.mark.parametrize(
    "separator", [",", ", ", ";", " ; ", " ", "\n", "\r\n", ",\n", "\t", ",,;,", "\u3000"]
)
def test_split_urls_splits_at_separators_and_drops_outer_ones(separator: str) -> None:
    assert split_urls(f"{A}{separator}{B}") == [A, B]
    assert split_urls(f"{separator}{A}{separator}{B}{separator}") == [A, B]


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn/w_100,h_100/a.jpg",
        "https://cdn/sharpen(1,0,false)/a.jpg?x=1;y=2",
        "https://cdn/my photo, the best.jpg",
        "https://cdn/x?u=https://b/c",
        "https://cdn/x?u=a,b:https://c",
        "https://cdn/,/;/a",
        "https://cdn/a\nb",
    ],
)
def test_split_urls_keeps_separators_inside_a_url(url: str) -> None:
    assert split_urls(url) == [url]
    assert split_urls(f"{url},{A};{url}") == [url, A, url]


@pytest.mark.parametrize(
    ("cell", "urls"),
    [
        ("", []),
        (" ,;\n", []),
        ("foo", ["foo"]),
        ("foo, bar", ["foo, bar"]),
        (f"foo,{A}", ["foo", A]),
        (f"{A},foo", [f"{A},foo"]),
        (f"{A},FTP://b/c", [A, "FTP://b/c"]),
        (f"{A},git+ssh://b/c", [A, "git+ssh://b/c"]),
        (f"{A},1x://b/c", [f"{A},1x://b/c"]),
        (f"{A},://b", [f"{A},://b"]),
        (f"www.a.de {A}", ["www.a.de", A]),
        ("http x,y://b", ["http x", "y://b"]),
        ("HTTP://A/,HTTPS://B/", ["HTTP://A/", "HTTPS://B/"]),
    ],
)
def test_split_urls_keeps_text_that_is_not_a_url(cell: str, urls: list[str]) -> None:
    assert split_urls(cell) == urls


def test_split_urls_returns_at_most_one_more_than_limit() -> None:
    cell = ",".join([A] * 10)
    assert split_urls(cell, 10) == [A] * 10
    assert len(split_urls(cell, 9)) == 10
    assert len(split_urls(cell, 3)) == 4


URLISH = st.lists(
    st.sampled_from(
        ["http://", "ftp://", "x+y://", ",", ";", " ", "\n", "a", "/1.jpg", "ü", ":", "\u200b"]
    ),
    max_size=20,
).map("".join)


@given(URLISH)
def test_join_urls_is_reverted_by_split_urls(cell: str) -> None:
    urls = split_urls(cell)
    assert split_urls(join_urls(urls)) == urls


@given(st.lists(st.tuples(st.sampled_from(["http://h", "HTTPS://h.de:8"]), URLISH), max_size=5))
@example([("http://h", "/,http:/"), ("http://h", "/a;b,c")])
def test_join_urls_is_reverted_by_split_urls_for_valid_urls(parts: list[tuple[str, str]]) -> None:
    cell = " ".join(f"{start}/{rest}" for start, rest in parts)
    try:
        urls = [parse_url(text).text for text in split_urls(cell)]
    except UrlError:
        return
    assert split_urls(join_urls(urls)) == urls


@pytest.mark.parametrize(
    "unit", [",", " ", "a,", ",a", ":", "://", "a.", "a://", ", a:/", "\u3000"]
)
def test_split_urls_takes_linear_time_on_hostile_cells(unit: str) -> None:
    """In quadratic time this would exceed the timeout of the test."""
    split_urls("x" + unit * (2**21 // len(unit)) + "x", 1000)
