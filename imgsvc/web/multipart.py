"""`multipart/form-data` (RFC 7578), read as it comes: bytes in, events out, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from enum import Enum, auto

MOST_HEADER_BYTES = 8_192
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PADDING = 64
"""White space that may follow a boundary, at most."""


class FormError(ValueError):
    """This is no well-formed form; the message says why."""


@dataclass(frozen=True, slots=True)
class PartBegins:
    """A part begins; its data follow. `filename` is None for a plain field."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartEnds:
    """The part that began last is whole."""


Event = PartBegins | PartEnds | bytes


class _State(Enum):
    PREAMBLE = auto()
    BOUNDARY = auto()
    HEADERS = auto()
    DATA = auto()
    END = auto()


class FormReader:
    """Reads one form: `feed` all its bytes, then `close`. Both raise `FormError`."""

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise FormError("the boundary is missing or malformed")
        self._delimiter = b"\r\n--" + boundary.encode()
        self._buffer = bytearray(b"\r\n")  # The first boundary needs no line break before it.
        self._state = _State.PREAMBLE
        self._before = _State.PREAMBLE

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes and give what they tell."""
        self._buffer += data
        steps = {
            _State.PREAMBLE: self._text,
            _State.DATA: self._text,
            _State.BOUNDARY: self._boundary,
            _State.HEADERS: self._headers,
        }
        while self._state is not _State.END:
            before = (self._state, len(self._buffer))
            yield from steps[self._state]()
            if (self._state, len(self._buffer)) == before:
                return
        self._buffer.clear()

    def close(self) -> None:
        """Say that all bytes have been fed."""
        if self._state is not _State.END:
            raise FormError("the form ends before its last boundary")

    def _text(self) -> Iterator[Event]:
        """Give a part's data up to what may be the beginning of a boundary."""
        at = self._buffer.find(self._delimiter)
        safe = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if safe and self._state is _State.DATA:
            yield bytes(self._buffer[:safe])
        del self._buffer[:safe]
        if at >= 0:
            self._before, self._state = self._state, _State.BOUNDARY

    def _boundary(self) -> Iterator[Event]:
        """Judge what follows a delimiter: only a line of nothing else makes it one."""
        start = len(self._delimiter)
        line = bytes(self._buffer[start : start + _PADDING + 2])
        if line.startswith(b"--"):
            if self._before is _State.DATA:
                yield PartEnds()
            self._state = _State.END
            return
        end = line.find(b"\r\n")
        padding = (line if end < 0 else line[:end]).strip(b" \t")
        undecided = end < 0 and len(line) <= _PADDING and padding in {b"\r", b"-"}
        if (padding and not undecided) or (end < 0 and len(line) > _PADDING):
            self._state = self._before
            if self._state is _State.DATA:
                yield bytes(self._buffer[:2])
            del self._buffer[:2]
        elif end >= 0:
            if self._before is _State.DATA:
                yield PartEnds()
            del self._buffer[: start + end]
            self._state = _State.HEADERS

    def _headers(self) -> Iterator[Event]:
        """Read a part's headers; the buffer begins with the line break before them."""
        end = self._buffer.find(b"\r\n\r\n")
        if end > MOST_HEADER_BYTES or (end < 0 and len(self._buffer) > MOST_HEADER_BYTES):
            raise FormError("the headers of a part are too long")
        if end < 0:
            return
        yield _part(BytesHeaderParser().parsebytes(bytes(self._buffer[2 : end + 2])))
        del self._buffer[: end + 4]
        self._state = _State.DATA


def _part(headers: Message) -> PartBegins:
    if headers.get_content_disposition() != "form-data":
        raise FormError("a part has no `Content-Disposition: form-data`")
    if str(headers.get("Content-Transfer-Encoding", "binary")).lower() not in {
        "binary",
        "7bit",
        "8bit",
    }:
        raise FormError("a part has a Content-Transfer-Encoding; send it as it is")
    name = headers.get_param("name", "", "content-disposition")
    return PartBegins(name if isinstance(name, str) else "", headers.get_filename())
