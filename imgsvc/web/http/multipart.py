"""Streaming parser for `multipart/form-data` (RFC 7578): bytes in, events out, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

MAX_PART_HEADER_BYTES = 8_192
"""Maximum size of the headers of one part."""
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_MAX_PADDING = 64
"""Maximum number of spaces and tabs after a boundary."""
_FOLD = re.compile(r"\r\n(?=[ \t])")
_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))', re.DOTALL)
_IDENTITY_ENCODINGS = {"", "binary", "7bit", "8bit"}
"""Transfer encodings that leave the data unchanged."""


class FormError(ValueError):
    """The form is malformed. The message says why, without a capital or full stop."""


@dataclass(frozen=True, slots=True)
class PartStart:
    """Start of a part; its data follow. A part with a file name is a file, any other is a field."""

    name: str
    is_file: bool


@dataclass(frozen=True, slots=True)
class PartEnd:
    """End of the current part."""


Event = PartStart | PartEnd | bytes


class _ParserState(Enum):
    PREAMBLE = auto()
    BOUNDARY = auto()
    HEADERS = auto()
    DATA = auto()
    END = auto()


class FormParser:
    """Parses one form. `feed` it all bytes, then `close` it. Both raise `FormError`."""

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise FormError("the boundary is missing or malformed")
        self._delimiter = b"\r\n--" + boundary.encode()
        self._buffer = bytearray(b"\r\n")  # The first boundary needs no line break before it.
        self._state = _ParserState.PREAMBLE
        self._state_before_boundary = _ParserState.PREAMBLE

    def feed(self, data: bytes) -> Iterator[Event]:
        """Parse the next bytes and yield the events in them. The data of parts are yielded as bytes."""
        self._buffer += data
        parsers = {
            _ParserState.PREAMBLE: self._parse_data,
            _ParserState.DATA: self._parse_data,
            _ParserState.BOUNDARY: self._parse_boundary,
            _ParserState.HEADERS: self._parse_headers,
        }
        while self._state is not _ParserState.END:
            before = (self._state, len(self._buffer))
            yield from parsers[self._state]()
            if (self._state, len(self._buffer)) == before:
                return
        self._buffer.clear()

    def close(self) -> None:
        """Mark the end of the input. Raise `FormError` if the closing boundary is missing."""
        if self._state is not _ParserState.END:
            raise FormError("it ends before its closing boundary")

    def _parse_data(self) -> Iterator[Event]:
        """Yield the data of a part, up to bytes that may be the start of a boundary."""
        at = self._buffer.find(self._delimiter)
        safe = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if safe and self._state is _ParserState.DATA:
            yield bytes(self._buffer[:safe])
        del self._buffer[:safe]
        if at >= 0:
            self._state_before_boundary, self._state = self._state, _ParserState.BOUNDARY

    def _parse_boundary(self) -> Iterator[Event]:
        """Check the bytes after a delimiter. It is a boundary only if nothing but padding follows."""
        start = len(self._delimiter)
        line = bytes(self._buffer[start : start + _MAX_PADDING + 2])
        if line.startswith(b"--"):
            if self._state_before_boundary is _ParserState.DATA:
                yield PartEnd()
            self._state = _ParserState.END
            return
        end = line.find(b"\r\n")
        padding = (line if end < 0 else line[:end]).strip(b" \t")
        undecided = end < 0 and len(line) <= _MAX_PADDING and padding in {b"\r", b"-"}
        if (padding and not undecided) or (end < 0 and len(line) > _MAX_PADDING):
            self._state = self._state_before_boundary
            if self._state is _ParserState.DATA:
                yield bytes(self._buffer[:2])
            del self._buffer[:2]
        elif end >= 0:
            if self._state_before_boundary is _ParserState.DATA:
                yield PartEnd()
            del self._buffer[: start + end]
            self._state = _ParserState.HEADERS

    def _parse_headers(self) -> Iterator[Event]:
        """Parse the headers of a part. The buffer starts with the line break before them."""
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_PART_HEADER_BYTES or (end < 0 and len(self._buffer) > MAX_PART_HEADER_BYTES):
            raise FormError("the headers of a part are too long")
        if end < 0:
            return
        yield _parse_part_headers(self._buffer[2:end].decode("utf-8", "replace"))
        del self._buffer[: end + 4]
        self._state = _ParserState.DATA


def _parse_part_headers(head: str) -> PartStart:
    # The standard library's email parser raises many kinds of errors on headers that form clients
    # never send.
    headers: dict[str, str] = {}
    for line in _FOLD.sub("", head).split("\r\n"):
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    disposition = headers.get("content-disposition", "")
    if disposition.partition(";")[0].strip().lower() != "form-data":
        raise FormError("a part lacks `Content-Disposition: form-data`")
    if headers.get("content-transfer-encoding", "").lower() not in _IDENTITY_ENCODINGS:
        raise FormError("a part has a Content-Transfer-Encoding; send it without one")
    parameters = {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare
        for name, quoted, bare in _PARAMETER.findall(disposition)
    }
    return PartStart(
        parameters.get("name", ""),
        any(value for name, value in parameters.items() if name.split("*")[0] == "filename"),
    )
