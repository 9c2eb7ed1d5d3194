"""Tests of the form parser. The chunking of the input never changes the parts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imgsvc.web.http.multipart import FormError, FormParser, PartEnd, PartStart

Part = tuple[str, bool, bytes]


def parse(boundary: str, chunks: list[bytes]) -> list[Part]:
    """Return the parts of a form: name, whether it is a file, and data."""
    parser = FormParser(boundary)
    parts: list[Part] = []
    data = b""
    start: PartStart | None = None
    for chunk in chunks:
        for event in parser.feed(chunk):
            if isinstance(event, PartStart):
                start, data = event, b""
            elif isinstance(event, PartEnd):
                assert start is not None
                parts.append((start.name, start.is_file, data))
            else:
                data += event
    parser.close()
    return parts


def build_form(boundary: str, parts: list[Part]) -> bytes:
    out = b""
    for name, is_file, data in parts:
        file = '; filename="f.csv"' if is_file else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        out += head.encode() + data + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


def split(data: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted({position % (len(data) + 1) for position in positions}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


near_boundaries = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"--b", b"-", b"\r\n--b", b"--", b"b", b"x", b" "])
).map(b"".join)
parts = st.lists(
    st.tuples(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.booleans(),
        st.binary(max_size=200) | near_boundaries.map(lambda d: d.replace(b"\r\n--b", b"\r\n--c")),
    ),
    max_size=5,
)


@given(parts, st.lists(st.integers(0, 10_000)))
def test_parser_returns_same_parts_for_any_chunking(form: list[Part], positions: list[int]) -> None:
    boundary = "b" * 40  # No generated data contain it.
    assert parse(boundary, split(build_form(boundary, form), positions)) == form


@given(near_boundaries, st.lists(st.integers(0, 10_000)))
def test_parser_treats_incomplete_boundary_as_data(data: bytes, positions: list[int]) -> None:
    assume(b"\r\n--b-b" not in data)
    form: list[Part] = [("f", True, data)]
    assert parse("b-b", split(build_form("b-b", form), positions)) == form


@given(st.binary(max_size=300) | near_boundaries, st.lists(st.integers(0, 10_000)))
def test_parser_returns_parts_or_form_error_for_any_bytes(
    data: bytes, positions: list[int]
) -> None:
    """Which of several errors is reported may depend on the chunks."""

    def outcome(chunks: list[bytes]) -> object:
        try:
            return parse("b", chunks)
        except FormError:
            return FormError

    assert outcome(split(data, positions)) == outcome([data])


@pytest.mark.parametrize("after", [b"b\r\n", b" \t\r\n", b"-\r\n", b" " * 200 + b"\r\n"])
def test_parser_rejects_boundary_inside_data(after: bytes) -> None:
    """RFC 2046 (section 5.1.1) forbids the boundary in the data, and clients send no padding."""
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    with pytest.raises(FormError, match="boundary"):
        parse("b", [head + b"x\r\n--b" + after + b"\r\n--b--"])


@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"For clients that do not know forms.\r\n"])
@pytest.mark.parametrize("epilogue", [b"", b"\r\n", b"\r\nmore\r\n--b\r\n"])
def test_parser_ignores_text_before_and_after_the_parts(preamble: bytes, epilogue: bytes) -> None:
    form: list[Part] = [("f", True, b"x")]
    body = preamble + build_form("b", form).rstrip() + epilogue
    for size in (1, 7, len(body)):
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        assert parse("b", chunks) == form


@pytest.mark.parametrize(
    ("disposition", "is_file"),
    [
        ('form-data; name="f"; filename="a\\"b;c.csv"', True),
        ("form-data; name=f; filename=a.csv", True),
        ("form-data;filename = a.csv ;name = f", True),
        ("form-data; name=f; filename*=UTF-8''%e2%82%ac.csv", True),
        ("form-data; name=f; filename*=x\0''a; filename*0*=b", True),
        ("form-data; name=f;\r\n filename=a.csv", True),
        ('form-data; name="f"; filename="\udce9.csv"', True),
        ('form-data; name="f"; filename=""', False),
        ('form-data; name="f"; x="; filename=a"', False),
        ("form-data; name=f\r\nContent-Type: text/plain; name=f.csv", False),
        ('FORM-DATA; NAME="\\f"', False),
    ],
)
def test_part_is_file_only_if_it_has_file_name(disposition: str, is_file: bool) -> None:
    head = f"--b\r\ncontent-disposition: {disposition}\r\n\r\n"
    body = head.encode("utf-8", "surrogateescape") + b"x\r\n--b--"
    assert parse("b", [body]) == [("f", is_file, b"x")]


HEADER_PIECES = (
    *("filename", "name", "form-data", "*", "0", "9" * 5_000, "=", ":", ";", '"', "\\", "''"),
    *("utf-8''", "idna''", "%ff", "=?utf-8?q?=ff?=", " ", "\r\n", "\r", "\n", "\0", "\ud800"),
)


@given(st.lists(st.sampled_from(HEADER_PIECES)).map("".join))
def test_parser_returns_part_or_form_error_for_any_headers(text: str) -> None:
    head = f"Content-Disposition: form-data; {text}".encode("utf-8", "surrogatepass")
    parser = FormParser("b")
    try:
        list(parser.feed(b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--"))
        parser.close()
    except FormError:
        return


@pytest.mark.parametrize("boundary", ["", "a" * 71, "a b ", 'a"b', "é"])
def test_parser_rejects_invalid_boundary(boundary: str) -> None:
    with pytest.raises(FormError):
        FormParser(boundary)


def test_parser_rejects_part_headers_that_are_too_long() -> None:
    parser = FormParser("b")
    with pytest.raises(FormError, match="too long"):
        list(parser.feed(b"--b\r\nX: " + b"x" * 20_000))


def test_parser_rejects_part_with_too_many_headers() -> None:
    with pytest.raises(FormError, match="too many"):
        list(FormParser("b").feed(b"--b\r\n" + b"X: x\r\n" * 1_000))


def test_parser_rejects_content_transfer_encoding() -> None:
    head = b"--b\r\nContent-Disposition: form-data; name=f\r\nContent-Transfer-Encoding: base64"
    with pytest.raises(FormError, match="Transfer-Encoding"):
        list(FormParser("b").feed(head + b"\r\n\r\nxx\r\n--b--"))


@pytest.mark.parametrize(
    "start", [b"", b"--%b\r\nContent-Disposition: form-data; name=f\r\n\r\n" % (b"b" * 70)]
)
def test_parser_takes_linear_time_for_many_incomplete_boundaries(start: bytes) -> None:
    """Quadratic time would exceed the test's timeout."""
    parser = FormParser("b" * 70)
    incomplete = b"\r\n--" + b"b" * 69
    for _ in range(2**10):
        for _ in parser.feed(start + incomplete * 2**6):
            pass
        start = b""
    with pytest.raises(FormError, match="before its closing boundary"):
        parser.close()
