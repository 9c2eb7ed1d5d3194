"""Forms, as they come: however the bytes are cut, the same parts come out."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imgsvc.web.multipart import FormError, FormReader, PartBegins, PartEnds

Part = tuple[str, str | None, bytes]


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
                parts.append((begun.name, begun.filename, data))
            else:
                data += event
    reader.close()
    return parts


def written(boundary: str, parts: list[Part]) -> bytes:
    out = b""
    for name, filename, data in parts:
        file = "" if filename is None else f'; filename="{filename}"'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        out += head.encode() + data + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


near_boundaries = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"--b", b"-", b"\r\n--b", b"--", b"b", b"x", b" "])
).map(b"".join)
parts = st.lists(
    st.tuples(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.none() | st.from_regex(r"[a-z]{1,8}\.csv", fullmatch=True),
        st.binary(max_size=200) | near_boundaries.map(lambda d: d.replace(b"\r\n--b", b"\r\n--c")),
    ),
    max_size=5,
)


@given(parts, st.lists(st.integers(0, 10_000)))
def test_what_was_written_is_read_however_it_is_cut(given: list[Part], places: list[int]) -> None:
    boundary = "b" * 40  # No data above holds it.
    assert read(boundary, cut(written(boundary, given), places)) == given


@given(near_boundaries, st.lists(st.integers(0, 10_000)))
def test_what_only_looks_like_a_boundary_is_data(data: bytes, places: list[int]) -> None:
    assume(not re.search(rb"\r\n--b-b( *\r| *$|-)", data))
    given: list[Part] = [("f", "f.csv", data)]
    assert read("b-b", cut(written("b-b", given), places)) == given


@given(st.binary(max_size=300) | near_boundaries, st.lists(st.integers(0, 10_000)))
def test_any_bytes_give_parts_or_a_form_error(data: bytes, places: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            return read("b", pieces)
        except FormError as error:
            return str(error)

    assert outcome(cut(data, places)) == outcome([data])


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
    assert found[0] == ("f", "f", b"x" if data is None else data)
    assert len(found) == (2 if data is None else 1)


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('form-data; name="f"; filename="a\\"b;c.csv"', 'a"b;c.csv'),
        ("form-data; name=f; filename=a.csv", "a.csv"),
        ("form-data; name=f; filename*=UTF-8''%e2%82%ac.csv", "€.csv"),
        ("FORM-DATA; NAME=f", None),
    ],
)
def test_names_of_files(disposition: str, filename: str | None) -> None:
    body = f"--b\r\ncontent-disposition: {disposition}\r\n\r\nx\r\n--b--".encode()
    assert read("b", [body]) == [("f", filename, b"x")]


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
