"""Lists of URLs in a cell."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgsvc.table.cells import join_urls, split_urls
from imgsvc.urls import UrlError, parse_url

A, B = "https://a.example/1.jpg", "http://b.example/2.jpg"


@pytest.mark.parametrize(
    "between", [",", ", ", ";", " ; ", " ", "\n", "\r\n", ",\n", "\t", ",,;,", "\u3000"]
)
def test_separators(between: str) -> None:
    assert split_urls(f"{A}{between}{B}") == [A, B]
    assert split_urls(f"{between}{A}{between}{B}{between}") == [A, B]


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
def test_what_is_part_of_a_url(url: str) -> None:
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
def test_what_does_not_belong(cell: str, urls: list[str]) -> None:
    assert split_urls(cell) == urls


def test_a_limit_bounds_the_pieces() -> None:
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
def test_what_was_split_is_joined_and_split_alike(cell: str) -> None:
    urls = split_urls(cell)
    assert split_urls(join_urls(urls)) == urls


@given(st.lists(st.tuples(st.sampled_from(["http://h", "HTTPS://h.de:8"]), URLISH), max_size=5))
@example([("http://h", "/,http:/"), ("http://h", "/a;b,c")])
def test_valid_urls_come_back(parts: list[tuple[str, str]]) -> None:
    cell = " ".join(f"{start}/{rest}" for start, rest in parts)
    try:
        given_urls = [parse_url(text).given for text in split_urls(cell)]
    except UrlError:
        return
    assert split_urls(join_urls(given_urls)) == given_urls


@pytest.mark.parametrize(
    "unit", [",", " ", "a,", ",a", ":", "://", "a.", "a://", ", a:/", "\u3000"]
)
def test_hostile_cells_take_linear_time(unit: str) -> None:
    """With quadratic time this would not end before the test's time-out."""
    split_urls("x" + unit * (2**21 // len(unit)) + "x", 1000)
