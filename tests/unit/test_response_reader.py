"""The reader accepts what browsers accept, is strict about framing, and limits its work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.network.response_reader import (
    MAX_HEADERS,
    MAX_OVERHEAD_BYTES,
    MAX_SMALL_CHUNKS,
    InvalidResponseError,
    ResponseHead,
    ResponseReader,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Read:
    """The result of reading a response to its end, in pieces and with a limit for each call."""

    def __init__(self, data: bytes, sizes: tuple[int, ...] = (), limit: int = 1_000_000) -> None:
        self.head: ResponseHead | None = None
        self.body = b""
        self.complete = False
        self._limit = limit
        self._reader = ResponseReader()
        for size in sizes:
            self._read(data[:size])
            data = data[size:]
        self._read(data)
        self.ended_before_close = self.complete
        try:
            result = self._reader.read_end()
        except EOFError:
            return
        self.body += result.body
        self.complete = result.ended

    def _read(self, data: bytes) -> None:
        pending = True
        while pending and not self.complete:
            result = self._reader.read(data, self._limit)
            self.head = result.head or self.head
            self.body += result.body
            self.complete = result.ended
            pending, data = self._reader.pending, b""
        self.closes = self._reader.closes

    @property
    def headers(self) -> dict[bytes, bytes]:
        assert self.head is not None
        return dict(self.head.headers)


COMPLETE = {
    "length": OK + b"Content-Length: 3\r\n\r\nabc",
    "equal lengths": OK + b"Content-Length: 3\r\nContent-Length: 3, 3\r\n\r\nabc",
    "surplus": OK + b"Content-Length: 3\r\n\r\nabc<!-- cached -->",
    "until close": OK + b"\r\nabc",
    "version 1.0": b"HTTP/1.0 200 OK\r\n\r\nabc",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc",
    "line feeds": b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
    "line break before": b"\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\nabc",
    "informational": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + OK + b"\r\nabc",
    "chunked": CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
    "chunk extension": CHUNKED + b"3 ; a=b\r\nabc\r\n0\r\n\r\n",
    "chunks with line feeds": CHUNKED + b"3\nabc\n0\n\n",
    "trailers": CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
    "header without colon": OK + b"X-Cache HIT\r\nContent-Length: 3\r\n\r\nabc",
    "blank before colon": OK + b"X-Cache : HIT\r\nContent-Length: 3\r\n\r\nabc",
    "blank in name": OK + b"Content Type: image/jpeg\r\nContent-Length: 3\r\n\r\nabc",
    "empty name": OK + b": nothing\r\nContent-Length: 3\r\n\r\nabc",
    "NUL": OK + b"X-A: a\0b\r\nContent-Length: 3\r\n\r\nabc",
    "folded": OK + b"X-Long: a\r\n b\r\nContent-Length: 3\r\n\r\nabc",
    "non-ASCII": OK + b"X-A: caf\xe9\r\nContent-Length: 3\r\n\r\nabc",
    "long header": OK + b"X: " + b"a" * 20_000 + b"\r\nContent-Length: 3\r\n\r\nabc",
    "many headers": OK + b"X: y\r\n" * 900 + b"Content-Length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("name", COMPLETE)
@given(sizes=st.lists(st.integers(0, 60), max_size=8), limit=st.sampled_from([1, 2, 3, 1_000]))
def test_reader_accepts_what_browsers_accept_in_any_pieces(
    name: str, sizes: list[int], limit: int
) -> None:
    read = Read(COMPLETE[name], tuple(sizes), limit)
    assert (read.body, read.complete) == (b"abc", True)
    assert read.head is not None
    assert read.head.status == 200


def test_reader_leaves_out_malformed_headers_and_joins_folded_ones() -> None:
    lines = b"A: 1\r\n 2\r\nB : 3\r\n continued\r\nC 4\r\n: 5\r\nD: \xff\r\nE:6\r\nF: a\0b\r\n"
    read = Read(OK + lines + b"Content-Length: 0\r\n\r\n")
    assert read.headers == {b"A": b"1 2", b"D": b"\xff", b"E": b"6", b"Content-Length": b"0"}


def test_connection_is_kept_after_complete_body_and_closed_after_surplus() -> None:
    assert not Read(OK + b"Content-Length: 3\r\n\r\nabc").closes
    assert not Read(CHUNKED + b"3\r\nabc\r\n0\r\n\r\n").closes
    assert Read(OK + b"Content-Length: 3\r\n\r\nabcd").closes
    assert Read(CHUNKED + b"3\r\nabc\r\n0\r\n\r\nd").closes
    assert Read(OK + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc").closes
    assert Read(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc").closes


def test_bytes_after_declared_end_belong_to_body_when_connection_closes() -> None:
    head = OK + b"Connection: close\r\nContent-Length: 3\r\n\r\n"
    assert Read(head + b"abcdef").body == b"abcdef"
    assert Read(head + b"abcdef", (len(head),)).body == b"abcdef"
    assert Read(head + b"abc").ended_before_close


@pytest.mark.parametrize(
    "data",
    [
        OK,
        OK + b"Content-Length: 3\r\n\r\nab",
        CHUNKED + b"3\r\nab",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\n",
    ],
)
def test_cut_response_is_not_complete(data: bytes) -> None:
    assert not Read(data).complete


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0\xff",
        b"<html>",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        OK + b"Content-Length: 3, 4\r\n\r\nabcd",
        OK + b"Content-Length: +3\r\n\r\nabc",
        OK + b"Content-Length: -3\r\n\r\nabc",
        OK + b"Content-Length:\r\n\r\nabc",
        OK + b"Content-Length: 3\r\n 4\r\n\r\nabc",
        OK + b"Content-Length : 3\r\n\r\nabc",
        OK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: 1\0\r\n\r\nabc",
        OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\n\r\n",
        CHUNKED + b"plain image data\r\n",
        CHUNKED + b"-1\r\n\r\n",
        CHUNKED + b"0x3\r\nabc\r\n",
        CHUNKED + b"3\r\nabcd\r\n",
        CHUNKED + b"3;" + b"x" * 5_000,
        OK + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    ],
)
def test_reader_rejects_invalid_http_and_ambiguous_framing(data: bytes) -> None:
    with pytest.raises(InvalidResponseError):
        Read(data)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"", b"\r\n"),
        (OK, b"X: y\r\n"),
        (OK + b"X: ", b"y"),
        (CHUNKED + b"0\r\n", b"X: y\r\n"),
        (CHUNKED, b"1;" + b"x" * 1_000 + b"\r\nx\r\n"),
    ],
)
@pytest.mark.parametrize("limit", [7, 1_000_000])
def test_flood_of_framing_ends_at_128_kib(start: bytes, piece: bytes, limit: int) -> None:
    reader, sent = ResponseReader(), len(start)
    reader.read(start, limit)

    def send() -> None:
        nonlocal sent
        data = piece * (4_096 // len(piece))
        sent += len(data)
        reader.read(data, limit)
        while reader.pending:
            reader.read(b"", limit)

    with pytest.raises(InvalidResponseError):  # noqa: PT012 - any of the pieces may raise
        while sent < 2 * MAX_OVERHEAD_BYTES:
            send()
    assert sent <= MAX_OVERHEAD_BYTES + 8_192


@pytest.mark.parametrize(("size", "allowed"), [(63, False), (64, True)])
def test_mean_chunk_must_have_64_bytes_after_10000_chunks(size: int, allowed: bool) -> None:
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    Read(CHUNKED + chunk * (MAX_SMALL_CHUNKS - 1))
    if allowed:
        Read(CHUNKED + chunk * 2 * MAX_SMALL_CHUNKS)
    else:
        with pytest.raises(InvalidResponseError):
            Read(CHUNKED + chunk * MAX_SMALL_CHUNKS)


def test_read_handles_limited_number_of_chunks() -> None:
    reader = ResponseReader()
    result = reader.read(CHUNKED + b"1\r\nx\r\n" * 1_000, 32)
    assert 25 < len(result.body) <= 32
    assert reader.pending


def test_body_with_length_is_not_copied() -> None:
    reader = ResponseReader()
    reader.read(OK + b"Content-Length: 100\r\n\r\n", 32)
    data = bytes(50)
    assert reader.read(data, 32).body is data


FRAGMENTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 404\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"\r\n",
        b"\n",
        b" folded\r\n",
        b"5\r\nabcde\r\n",
        b"0\r\n\r\n",
        b"abcde",
        b"ffffffff\r\n",
        b"\0",
        b":",
    ]
)


@given(st.lists(st.one_of(FRAGMENTS, st.binary(max_size=9)), max_size=20), st.integers(1, 50))
def test_pieces_do_not_change_result_for_any_bytes(fragments: list[bytes], size: int) -> None:
    def result(sizes: tuple[int, ...], limit: int) -> object:
        try:
            read = Read(b"".join(fragments), sizes, limit)
        except InvalidResponseError:
            return "invalid"
        return read.head, read.complete

    data_size = sum(map(len, fragments))
    whole = result((), 1_000_000)
    assert result((size,) * (data_size // size), 1) == whole
