"""Decodes the content codings that hosts apply without being asked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

MAX_CODINGS = 4
"""The maximum number of codings of a body. Real responses have one, or two by mistake."""
DECODED_BYTES = 64 * 1024
"""The maximum number of bytes decoded at once, so that the caller can count them."""
MAX_GZIP_MEMBERS = 100
"""The maximum number of members of a gzip stream. Real streams have one."""
MAX_INTERMEDIATE_BYTES = 256 * 2**20
"""The maximum size of a body between two codings. Without a limit, 64 MiB can hold terabytes."""

_GZIP = frozenset({"gzip", "x-gzip"})
_UNSUPPORTED = frozenset({"br", "zstd", "compress", "x-compress"})


class ContentCodingError(Exception):
    """The body cannot be decoded."""


class ContentDecoder:
    """Decodes the bytes of one body. `header` is the value of Content-Encoding.

    Names that are not codings (`none`, `utf-8`, `image/jpeg`) are ignored, as browsers do. Raise
    `ContentCodingError` for a coding that cannot be decoded.
    """

    def __init__(self, header: str) -> None:
        names = [name.strip().lower() for name in header.split(",")]
        codings = [name for name in names if name in _GZIP | _UNSUPPORTED | {"deflate"}]
        if len(codings) > MAX_CODINGS or not _UNSUPPORTED.isdisjoint(codings):
            raise ContentCodingError
        # The last coding was applied last, so it is decoded first.
        self._layers: list[_Gzip | _Deflate] = [
            _Deflate() if coding == "deflate" else _Gzip() for coding in reversed(codings)
        ]
        self._intermediate_bytes = 0

    def __bool__(self) -> bool:
        """Return whether there is anything to decode."""
        return bool(self._layers)

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes of `data`, at most `DECODED_BYTES` at once.

        Between two parts, which may be empty, at most about 0.1 ms passes.
        """
        try:
            yield from self._decode(0, data)
        except zlib.error as error:
            raise ContentCodingError from error

    def _decode(self, index: int, data: bytes) -> Iterator[bytes]:
        """Decode the bytes by the layers from `index` on."""
        if index == len(self._layers):
            yield data
            return
        for part in self._layers[index].decode(data):
            yield from self._decode(index + 1, part)
            if index + 1 < len(self._layers):
                self._intermediate_bytes += len(part)
                if self._intermediate_bytes > MAX_INTERMEDIATE_BYTES:
                    raise ContentCodingError
                yield b""

    def check_complete(self) -> None:
        """Raise `ContentCodingError` if a coding has not reached its end."""
        if not all(layer.complete for layer in self._layers):
            raise ContentCodingError


class _Gzip:
    """Decodes gzip, of one or several members. Bytes after the last member are ignored."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._members = 1
        self._ended = False

    @property
    def complete(self) -> bool:
        return self._decoder.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data and not self._ended:
            if part := self._decoder.decompress(data, DECODED_BYTES):
                yield part
            data = self._decoder.unconsumed_tail
            if self._decoder.eof:
                data = self._decoder.unused_data
                self._ended = bool(data) and data[:1] != b"\x1f"
                if data and not self._ended:
                    self._members += 1
                    if self._members > MAX_GZIP_MEMBERS:
                        raise ContentCodingError
                    self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)


class _Deflate:
    """Decodes deflate in a zlib stream, or without one as some servers send it."""

    def __init__(self) -> None:
        self._decoder: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        return self._decoder is not None and self._decoder.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None and data:
            wrapped = data[0] & 0x0F == zlib.DEFLATED
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        while data and self._decoder is not None:
            if part := self._decoder.decompress(data, DECODED_BYTES):
                yield part
            data = self._decoder.unconsumed_tail
