"""Repair PNG files that lack their end or have wrong checksums, although all pixels are there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from imgsvc.images.errors import corrupt, truncated
from imgsvc.images.formats import png_chunks
from imgsvc.images.formats.base import DecodeLimits

_INFLATED_BYTES = 2**20
"""Bytes that are decompressed at a time, to limit memory."""

_RAW_DEFLATE = -15
_ZLIB_HEADER_BYTES, _SEQUENCE_BYTES = 2, 4
"""Sizes of the header of compressed data, and of the sequence number of an APNG's chunks."""


class _Chunk(NamedTuple):
    """A chunk. `is_intact` means that its checksum is there and right."""

    chunk_type: bytes
    body: bytes
    is_intact: bool


def repair(data: bytes, limits: DecodeLimits) -> bytes:
    """Return the file with right checksums and an IEND chunk, if all its image data is complete.

    Raise `corrupt_image` if pixels or frames are missing, or if data was changed: then both the
    checksum of its chunk and that of the compressed data are wrong.
    """
    chunk_list = list(_lenient_chunks(data))
    header = next(iter(chunk_list), None)
    if header is None or header.chunk_type != b"IHDR" or not header.is_intact:
        raise corrupt("The PNG file is damaged: it does not start with a header.")
    width, height, depth, colour_type = struct.unpack_from(">IIBB", header.body)
    limits.check(width, height)
    png = png_chunks.Png(width, height, depth, colour_type, header=header.body)
    out = [png_chunks.MAGIC]
    images = [(width, height)]
    declared_frames = frames = 0
    pending: list[_Chunk] = []
    for chunk in [*chunk_list, _Chunk(b"IEND", b"", is_intact=True)]:
        if pending and chunk.chunk_type != pending[0].chunk_type:
            out += _repaired_image(pending, png.row_bytes(*images[-1]))
            pending = []
        if chunk.chunk_type in {b"IDAT", b"fdAT"}:
            pending.append(chunk)
            continue
        if chunk.chunk_type == b"acTL" and len(chunk.body) >= 8:
            declared_frames = int.from_bytes(chunk.body[:4], "big")
        elif chunk.chunk_type == b"fcTL" and len(chunk.body) >= 12 and declared_frames:
            frames += 1
            images.append(struct.unpack_from(">II", chunk.body, 4))
            limits.check(*images[-1])
        elif chunk.chunk_type == b"PLTE" and not chunk.is_intact:
            raise corrupt("The PNG file is damaged: a checksum is wrong.")
        out.append(png_chunks.build_chunk(chunk.chunk_type, chunk.body))
    if frames < declared_frames:
        raise truncated()
    return b"".join(out)


def _lenient_chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks before IEND. The last one may be cut if it has image data."""
    position = len(png_chunks.MAGIC)
    while position + 8 <= len(data):
        length, chunk_type = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        is_cut = end > len(data)
        if is_cut and chunk_type == b"eXIf":
            raise truncated()  # the orientation is missing
        if (
            chunk_type == b"IEND"
            or not chunk_type.isalpha()
            or (is_cut and chunk_type not in {b"IDAT", b"fdAT"})
        ):
            return
        checksum = zlib.crc32(memoryview(data)[position + 4 : end]).to_bytes(4, "big")
        yield _Chunk(chunk_type, data[position + 8 : end], checksum == data[end : end + 4])
        position = end + 4


def _repaired_image(chunk_list: list[_Chunk], row_bytes: int) -> Iterator[bytes]:
    """Yield the chunks of one image with right checksums. Raise `corrupt_image`."""
    chunk_type = chunk_list[0].chunk_type
    skipped = _SEQUENCE_BYTES if chunk_type == b"fdAT" else 0
    stream = b"".join(chunk.body[skipped:] for chunk in chunk_list)
    end, checksum = _inflate(stream, row_bytes)
    # The last chunk of a file that ends early has no checksum; its data is complete nevertheless.
    is_changed = not all(chunk.is_intact for chunk in chunk_list)
    if is_changed and stream[end : end + 4] not in {checksum, checksum[: len(stream) - end]}:
        raise corrupt("The PNG file is damaged: a checksum is wrong.")
    rest = stream[:end] + checksum
    for number, chunk in enumerate(chunk_list, 1):
        size = len(chunk.body) - skipped if number < len(chunk_list) else len(rest)
        yield png_chunks.build_chunk(chunk_type, chunk.body[:skipped] + rest[:size])
        rest = rest[size:]


def _inflate(stream: bytes, row_bytes: int) -> tuple[int, bytes]:
    """Return where the compressed data of an image ends, and its checksum (Adler-32).

    Raise `corrupt_image` if it is incomplete or has too few rows.
    """
    decompressor = zlib.decompressobj(_RAW_DEFLATE)
    checksum, size = 1, 0
    rest = stream[_ZLIB_HEADER_BYTES:]
    try:
        while rest and not decompressor.eof and size <= row_bytes + _INFLATED_BYTES:
            piece = decompressor.decompress(rest, _INFLATED_BYTES)
            checksum, size = zlib.adler32(piece, checksum), size + len(piece)
            rest = decompressor.unconsumed_tail
    except zlib.error:
        raise corrupt("The PNG file is damaged: its pixels cannot be decompressed.") from None
    if not decompressor.eof or size < row_bytes:
        raise truncated()
    return len(stream) - len(decompressor.unused_data), checksum.to_bytes(4, "big")
