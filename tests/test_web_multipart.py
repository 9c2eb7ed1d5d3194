"""Forms, as they come: however the bytes are cut, the same parts come out."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imgsvc.web.multipart import FormError, FormReader, PartBegins, PartEnds

Part = tuple[str, bool, bytes]


def read(boundary: str, pieces: list[bytes]) -> list[Part]:
    reader = FormReader(boundary)
    parts: list[Part] = []
    data = b""
    begun: PartBegins | None = None
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, PartBegins):
                begun, data = event, b""
            elif isinstance(event, PartEnds):
                assert begun is not None
                parts.append((begun.name, begun.is_file, data))
            else:
                data += event
    reader.close()
    return parts


def written(boundary: str, parts: list[Part]) -> bytes:
    out = b""
    for name, is_file, data in parts:
        file = '; filename="f.csv"' if is_file else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        out += head.encode() + data + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


def cut(data: bytes, extra_positions: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in extra_positions}), len(data)]
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
def test_what_was_written_is_read_however_it_is_cut(
    given: list[Part], extra_positions: list[int]
) -> None:
    boundary = "b" * 40  # No data above holds it.
    assert read(boundary, cut(written(boundary, given), extra_positions)) == given


@given(near_boundaries, st.lists(st.integers(0, 10_000)))
def test_what_only_looks_like_a_boundary_is_data(data: bytes, extra_positions: list[int]) -> None:
    assume(not re.search(rb"\r\n--b-b( *\r| *$|-)", data))
    given: list[Part] = [("f", True, data)]
    assert read("b-b", cut(written("b-b", given), extra_positions)) == given


@given(st.binary(max_size=300) | near_boundaries, st.lists(st.integers(0, 10_000)))
def test_any_bytes_give_parts_or_a_form_error(data: bytes, extra_positions: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            return read("b", pieces)
        except FormError as error:
            return str(error)

    assert outcome(cut(data, extra_positions)) == outcome([data])


@pytest.mark.parametrize(
    ("after", "data"),
    [
        (b"\r\n--bb\r\n", b"x\r\n--bb\r\n"),
        (b"\r\n--b \t\r\n", None),
        (b"\r\n--b-\r\n", b"x\r\n--b-\r\n"),
        (b"\r\n--b" + b" " * 200 + b"\r\n", b"x\r\n--b" + b" " * 200 + b"\r\n"),
    ],
)
def test_what_follows_a_boundary_decides(after: bytes, data: bytes | None) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    tail = b'Content-Disposition: form-data; name="g"\r\n\r\ny' if data is None else b""
    found = read("b", [head + b"x" + after + tail + b"\r\n--b--"])
    assert found[0] == ("f", True, b"x" if data is None else data)
    assert len(found) == (2 if data is None else 1)


@pytest.mark.parametrize(
    ("disposition", "is_file"),
    [
        ('form-data; name="f"; filename="a\\"b;c.csv"', True),
        ("form-data; name=f; filename=a.csv", True),
        ("form-data;filename = a.csv ;name = f", True),
        ("form-data; name=f; filename*=UTF-8''%e2%82%ac.csv", True),
        ("form-data; name=f; filename*=x\0''a; filename*0*=b", True),
        ("form-data; name=f;\r\n filename=a.csv", True),
        ('form-data; name="f"; filename=""', False),
        ('form-data; name="f"; x="; filename=a"', False),
        ("form-data; name=f\r\nContent-Type: text/plain; name=f.csv", False),
        ('FORM-DATA; NAME="\\f"', False),
    ],
)
def test_a_part_with_a_file_name_is_a_file(disposition: str, is_file: bool) -> None:
    body = f"--b\r\ncontent-disposition: {disposition}\r\n\r\nx\r\n--b--".encode()
    assert read("b", [body]) == [("f", is_file, b"x")]


HEADER_PIECES = (
    *("filename", "name", "form-data", "*", "0", "9" * 5_000, "=", ":", ";", '"', "\\", "''"),
    *("utf-8''", "idna''", "%ff", "=?utf-8?q?=ff?=", " ", "\r\n", "\r", "\n", "\0", "\ud800"),
)


@given(st.lists(st.sampled_from(HEADER_PIECES)).map("".join))
def test_any_headers_give_a_part_or_a_form_error(text: str) -> None:
    head = f"Content-Disposition: form-data; {text}".encode("utf-8", "surrogatepass")
    reader = FormReader("b")
    try:
        list(reader.feed(b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--"))
        reader.close()
    except FormError:
        return


@pytest.mark.parametrize("boundary", ["", "a" * 71, "a b ", 'a"b', "é"])
def test_a_boundary_that_cannot_be(boundary: str) -> None:
    with pytest.raises(FormError):
        FormReader(boundary)


def test_headers_are_bounded() -> None:
    reader = FormReader("b")
    with pytest.raises(FormError, match="too long"):
        list(reader.feed(b"--b\r\nX: " + b"x" * 20_000))


def test_a_transfer_encoding_is_refused() -> None:
    head = b"--b\r\nContent-Disposition: form-data; name=f\r\nContent-Transfer-Encoding: base64"
    with pytest.raises(FormError, match="Transfer-Encoding"):
        list(FormReader("b").feed(head + b"\r\n\r\nxx\r\n--b--"))


@pytest.mark.parametrize("start", [b"", b"--b\r\nContent-Disposition: form-data; name=f\r\n\r\n"])
def test_what_only_looks_like_boundaries_takes_linear_time(start: bytes) -> None:
    """With quadratic time this would not end before the test's time-out."""
    reader = FormReader("b")
    for _ in reader.feed(start + b"\r\n--bb" * 2**19):
        pass
    with pytest.raises(FormError, match="before its last boundary"):
        reader.close()
