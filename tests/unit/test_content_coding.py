"""Content codings are decoded in small parts, and bombs are refused."""

from __future__ import annotations

import gzip
import zlib

import pytest

from imgsvc.network.content_coding import (
    DECODED_BYTES,
    MAX_INTERMEDIATE_BYTES,
    ContentCodingError,
    ContentDecoder,
)

DATA = bytes(range(256)) * 1_000


def decode(header: str, data: bytes, size: int = 1_000) -> bytes:
    decoder = ContentDecoder(header)
    parts = [
        part
        for start in range(0, len(data), size)
        for part in decoder.decode(data[start : start + size])
    ]
    assert max(map(len, parts)) <= max(DECODED_BYTES, size)
    decoder.check_complete()
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("", DATA),
        ("gzip", gzip.compress(DATA)),
        ("X-GZIP", gzip.compress(DATA)),
        ("gzip, x-gzip", gzip.compress(gzip.compress(DATA))),
        ("deflate, gzip", gzip.compress(zlib.compress(DATA))),
        ("gzip, deflate", zlib.compress(gzip.compress(DATA))),
        ("gzip", gzip.compress(DATA[:500]) + gzip.compress(DATA[500:])),
        ("gzip", gzip.compress(DATA) + b"\0\0\0"),
        ("deflate", zlib.compress(DATA, wbits=-15)),
        ("identity, utf-8", DATA),
    ],
)
def test_decode_returns_original_in_any_pieces(header: str, data: bytes, size: int) -> None:
    assert decode(header, data, size) == DATA


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, br", "compress", ", ".join(["gzip"] * 5)])
def test_unsupported_codings_are_rejected(header: str) -> None:
    with pytest.raises(ContentCodingError):
        ContentDecoder(header)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("gzip", b"not gzip at all"),
        ("gzip", gzip.compress(DATA)[:-9]),
        ("deflate", zlib.compress(DATA)[:-5]),
        ("gzip, gzip", gzip.compress(gzip.compress(DATA)[:-9])),
        ("gzip", gzip.compress(b"") * 101),
    ],
)
def test_damaged_or_cut_data_is_rejected(header: str, data: bytes) -> None:
    with pytest.raises(ContentCodingError):
        decode(header, data)


def test_bomb_without_output_is_rejected_after_many_small_steps() -> None:
    """The inner data is 300 MiB of empty blocks, which decode to nothing."""
    inner = zlib.compressobj(wbits=31)
    block = b"\0\0\0\xff\xff" * 2**18
    outer = b"".join([inner.compress(b"\x78\x9c"), *(inner.compress(block) for _ in range(240))])
    steps: list[int] = []
    with pytest.raises(ContentCodingError):
        steps.extend(map(len, ContentDecoder("deflate, gzip").decode(outer + inner.flush())))
    assert sum(steps) == 0
    assert len(steps) >= MAX_INTERMEDIATE_BYTES // DECODED_BYTES
