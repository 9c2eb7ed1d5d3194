"""Splitting the cells of image columns, and replacing their URLs."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgsvc.table.cells import (
    is_plain_url,
    join_urls,
    replace_urls,
    split_cell,
    split_urls,
    url_text,
)
from imgsvc.urls import UrlError, parse_url

A, B = "https://a.example/1.jpg", "http://b.example/2.jpg"
OUT = "https://out.example/x.jpg"


@pytest.mark.parametrize(
    "separator",
    [",", ", ", ";", " ; ", " ", "\n", "\r\n", ",\n", "\t", ",,;,", "\u3000", "|", " | ", "\\,"],
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
        "https://cdn/a|b",
        "https://cdn/a//b",
        "https://cdn/a,//b",
        "https://cdn/a.jpg?x=&lt;&quot;&amp",
        "https://cdn/it's",
        "https://cdn/12''",
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
        (" | ", []),
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
        ("...", ["..."]),
        ("'foo'", ["'foo'"]),
    ],
)
def test_split_urls_keeps_text_that_is_not_a_url(cell: str, urls: list[str]) -> None:
    assert split_urls(cell) == urls


@pytest.mark.parametrize(
    ("cell", "urls"),
    [
        (f"{A}|{B}|{A}", [A, B, A]),
        (f"{A} | {B}", [A, B]),
        (f'["{A}","{B}"]', [A, B]),
        (f' [ "{A}" ,\n"{B}", ] ', [A, B]),
        (f"['{A}', '{B}']", [A, B]),
        (f'["{A}"]', [A]),
        (f'["{A}, {B}"]', [A, B]),
        (f'["{A}", null, None, "", "{B}"]', [A, B]),
        ('["https:\\/\\/a\\/1.jpg?x=1\\u0026y\\u003d2"]', ["https://a/1.jpg?x=1&y=2"]),
        ('["https://a/b\\u00fccher\\ud83d\\ude00.jpg"]', ["https://a/bücher\U0001f600.jpg"]),
        ("""['https://a/it\\'s.jpg', "https://a/it's.jpg"]""", ["https://a/it's.jpg"] * 2),
        ('["https://a/it\\u2019s.jpg"]', ["https://a/it\u2019s.jpg"]),
        ("[]", []),
        ('[""]', []),
        ("[null]", []),
        ('["foo"]', ["foo"]),
        (
            '["//cdn.example/1.jpg", "//cdn.example/2.jpg"]',
            ["https://cdn.example/1.jpg", "https://cdn.example/2.jpg"],
        ),
        (f'["{A}"', [f'["{A}"']),
        (f"[{A}]", [f"[{A}]"]),
        ("//cdn.example/a.jpg", ["https://cdn.example/a.jpg"]),
        (
            "//a.example/1.jpg,//b.example/2.jpg",
            ["https://a.example/1.jpg", "https://b.example/2.jpg"],
        ),
        (f"//a.example/1.jpg, {B} //c/3", ["https://a.example/1.jpg", B, "https://c/3"]),
        ("//a/1.jpg,/2", ["https://a/1.jpg,/2"]),
        ("https://a/w_1\\,h_1/1.jpg", ["https://a/w_1,h_1/1.jpg"]),
        ("https://a/1.jpg?x=1&amp;y=2&amp;amp;z=&lt;-", ["https://a/1.jpg?x=1&y=2&z=&lt;-"]),
        (f"{A}.", [A]),
        (f"{A}. ", [A]),
        (f"{A} .", [A]),
        (f"{A}...", [A]),
        (f"{A},{B}.", [A, B]),
        (f"{A}., {B}.", [f"{A}.", B]),
        (f"{A}.|", [A]),
        (f'["{A}."]', [A]),
        ("https://a/b/..", ["https://a/b/.."]),
        ("https://a/.", ["https://a/."]),
        (f"'{A}", [A]),
        (f"'{A}'", [A]),
        (f"'{A}', '{B}'", [A, B]),
        (f'"{A}", "{B}"', [A, B]),
        (f'"{A}', [f'"{A}']),
        (f"\u201c{A}\u201d", [A]),
        (f"\u201c{A}, {B}\u201d", [A, B]),
        (f"\u201e{A}\u201c, \u201e{B}\u201c", [A, B]),
        (f"\u00ab{A}\u00bb; \u2018{B}\u2019", [A, B]),
        (f"\u201c{A}.\u201d", [A]),
        (f"\u201c{A}\u201d.", [A]),
        (f'=IMAGE("{A}")', [A]),
        (f'=image( "{A}" ; "A mug, (blue)"; 1 )', [A]),
        (f'=HYPERLINK("{A}","{B}")', [A]),
        (f'=@_xlfn.IMAGE("{A}")', [A]),
        (f'\'=IMAGE("{A}")', [A]),
        ('=IMAGE("//a/1.jpg")', ["https://a/1.jpg"]),
        ("=IMAGE(A1)", ["=IMAGE(A1)"]),
        ('=IMAGE("")', []),
        (f'=SUM("{A}")', [f'=SUM("{A}")']),
    ],
)
def test_split_urls_reads_lists_and_drops_decoration(cell: str, urls: list[str]) -> None:
    assert split_urls(cell) == urls
    assert "".join(split_cell(cell)) == cell


@pytest.mark.parametrize(
    "cell", [",".join([A] * 10), json.dumps([A] * 10), json.dumps([f"{A} {A}"] * 5)]
)
def test_split_urls_returns_at_most_one_more_than_limit(cell: str) -> None:
    assert split_urls(cell, 10) == [A] * 10
    for limit in range(1, 10):
        assert len(split_urls(cell, limit)) == limit + 1
        assert "".join(split_cell(cell, limit)) == cell


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (f"{A}, {B}", "x, y"),
        (f" {A};{B} ;", " x;y ;"),
        (f'["{A}", "{B}"]', '["x", "y"]'),
        (f"['{A}','{B}']", "['x','y']"),
        (f'=IMAGE("{A}"; "mug.")', '=IMAGE("x"; "mug.")'),
        (f"'{A}", "x"),
        (f"\u201c{A}, {B}.\u201d, ", "x, y, "),
        (f"{A}. ", "x "),
        (f"{A} .", "x "),
        (f'"{A}" "{B}"', "x y"),
        ("https:\\/\\/a\\/1.jpg", "x"),
        ("", ""),
        (" , ", " , "),
    ],
)
def test_replace_urls_replaces_urls_with_their_decoration(cell: str, expected: str) -> None:
    pieces = split_cell(cell)
    assert replace_urls(pieces, ["x", "y"][: len(pieces) // 2]) == expected
    assert replace_urls(pieces, [None] * (len(pieces) // 2)) == cell


@pytest.mark.parametrize(
    ("cell", "outputs", "kept", "removed"),
    [
        (f"{A}; {B}, {A}", ["x", None, "z"], f"x; {B}, z", "x, z"),
        (f"{A}; {B}, {A}", [None, "y", "z"], f"{A}; y, z", "y, z"),
        (f"{A}; {B}, {A}", ["x", "y", None], f"x; y, {A}", "x; y"),
        (f"{A}; {B}, {A}", [None, "y", None], f"{A}; y, {A}", "y"),
        (f'["{A}", "{B}"]', ["x", None], f'["x", "{B}"]', '["x"]'),
        (f'["{A}", "{B}"]', [None, "y"], f'["{A}", "y"]', '["y"]'),
        (f'["{A}", "{B}"]', [None, None], f'["{A}", "{B}"]', ""),
        (f'=IMAGE("{A}")', [None], f'=IMAGE("{A}")', ""),
        (f"\u201c{A}, {B}.\u201d", ["x", None], f"x, {B}.\u201d", "x"),
        (f"{A},", [None], f"{A},", ""),
        (f"""["{A}", '{B}']""", ["x", None], f"""["x", '{B}']""", '["x"]'),
        (f"""['{A}', '{B}', "{A}"]""", ["x", None, "z"], f"""['x', '{B}', "z"]""", '["x", "z"]'),
    ],
)
def test_replace_urls_keeps_or_removes_urls_without_output(
    cell: str, outputs: list[str | None], kept: str, removed: str
) -> None:
    assert replace_urls(split_cell(cell), outputs) == kept
    assert replace_urls(split_cell(cell), outputs, remove_missing=True) == removed


PIECES = st.sampled_from(
    [
        *("http://", "ftp://", "x+y://", "//", "https:\\/\\/", "http:\\\\/\\/", "=IMAGE(", ")"),
        *(",", ";", " ", "\n", "|", "\\,", "\\", "a", "/1.jpg", "ü", ":", ".", "\u200b"),
        *("'", '"', "\u201c", "\u201d", "[", "]", "null", "&amp;", "amp;", "&"),
        *("\\u0026", "\\u00fc", "\\ud83d", "\\ude00", "\\u201d", "\\u002c"),
    ]
)
CELLS = st.lists(PIECES, max_size=20).map("".join)
LISTS = st.lists(CELLS, max_size=4).map(json.dumps) | st.lists(CELLS, max_size=4).map(repr)
URLISH = st.lists(
    st.sampled_from(
        ["http://", "ftp://", "x+y://", ",", ";", " ", "\n", "a", "/1.jpg", "ü", ":", "\u200b"]
    ),
    max_size=20,
).map("".join)


@given(CELLS | LISTS | st.text(max_size=30), st.integers(0, 3))
def test_split_cell_loses_nothing(cell: str, limit: int) -> None:
    pieces = split_cell(cell, limit)
    assert "".join(pieces) == cell
    assert len(pieces) % 2 == 1
    assert not limit or len(pieces) // 2 <= limit + 1
    count = len(pieces) // 2
    assert replace_urls(pieces, [None] * count) == cell
    assert not count or replace_urls(pieces, [None] * count, remove_missing=True) == ""


@given(st.lists(st.sampled_from([A, B, "https://c.example/w_1,h_1/ü.jpg?x=1;y=2"])), st.data())
def test_replaced_urls_are_split_into_the_outputs(urls: list[str], data: st.DataObject) -> None:
    cell = data.draw(
        st.sampled_from([", ".join(urls), "|".join(urls), json.dumps(urls), repr(urls)])
    )
    outputs = [f"https://out.example/{n}.jpg" for n in range(len(urls))]
    assert split_urls(cell) == urls
    assert split_urls(replace_urls(split_cell(cell), outputs)) == outputs
    kept = data.draw(st.sets(st.integers(0, len(urls))))
    some = [output if n in kept else None for n, output in enumerate(outputs)]
    rest = [output for output in some if output]
    assert split_urls(replace_urls(split_cell(cell), some, remove_missing=True)) == rest


@pytest.mark.parametrize("quote", ["'", '"'])
def test_join_urls_is_reverted_by_split_urls_for_a_full_stop_in_quotes(quote: str) -> None:
    urls = split_urls(f"{A}, {quote}{B}.{quote}")
    assert urls == [A, B]
    assert split_urls(join_urls(urls)) == urls


@given(URLISH)
def test_join_urls_is_reverted_by_split_urls(cell: str) -> None:
    urls = split_urls(cell)
    assert split_urls(join_urls(urls)) == urls


@given(
    st.lists(
        st.tuples(st.sampled_from(["http://h", "HTTPS://h.de:8", "//h", "'https://h"]), CELLS),
        max_size=5,
    ),
    st.sampled_from(" ,|"),
)
@example([("http://h", "/,http:/"), ("http://h", "/a;b,c")], " ")
@example([("http://h", ",\\u201dhttp://")], " ")
def test_join_urls_is_reverted_by_split_urls_for_valid_urls(
    parts: list[tuple[str, str]], separator: str
) -> None:
    cell = separator.join(f"{start}/{rest}" for start, rest in parts)
    try:
        urls = [parse_url(text).text for text in split_urls(cell)]
    except UrlError:
        return
    assert split_urls(join_urls(urls)) == urls


def test_replace_urls_keeps_text_when_it_removes_all_urls() -> None:
    assert replace_urls(("mug.jpg, ", A, " "), [None], remove_missing=True) == "mug.jpg"


@given(CELLS)
@example("https://a/1.jpg")
def test_plain_url_is_split_between_two_empty_texts(cell: str) -> None:
    plain = f"https://a/{cell}x"
    for text in cell, plain:
        if is_plain_url(text):
            assert split_cell(text) == ("", text, "")
            assert split_cell(f" {text}") == (" ", text, "")
            assert url_text(text) == url_text(f" {text}") == text
    assert is_plain_url("https://a/1.jpg")


@given(CELLS)
def test_url_text_is_stable(written: str) -> None:
    assert url_text(url_text(written)) == url_text(written)


@pytest.mark.parametrize(
    "unit",
    [
        *(",", " ", "a,", ",a", ":", "://", "a.", "a://", ", a:/", "\u3000", "|", "|//", "//a,"),
        *(
            "\\,",
            "\\",
            "\\/",
            "'",
            "\u201c",
            ",'",
            ', "',
            ".",
            ". ",
            '["',
            '"',
            "','",
            '",',
            "&amp;",
        ),
        *("amp;", "\\u0026", "\\ud83d", ") ", "(", '""', "[", "]", "null,", "a:\\", "_xl."),
    ],
)
@pytest.mark.parametrize(
    "start", ["x", "https://a/", "//", '["', "['", '=IMAGE("', '=IMAGE("x",', "'", "=_xl"]
)
def test_split_urls_takes_linear_time_on_hostile_cells(unit: str, start: str) -> None:
    """In quadratic time this would exceed the timeout of the test."""
    for end in "", "x":
        cell = start + unit * (2**18 // len(unit)) + end
        pieces = split_cell(cell)
        outputs = [None, *[OUT] * (len(pieces) // 2 - 1)][: len(pieces) // 2]
        replace_urls(pieces, outputs, remove_missing=True)
        split_urls(cell, 1000)
