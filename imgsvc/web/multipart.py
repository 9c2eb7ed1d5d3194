"""`multipart/form-data` (RFC 7578), read as it comes: bytes in, events out, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

MOST_HEADER_BYTES = 8_192
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PADDING = 64
"""White space that may follow a boundary, at most."""
_FOLD = re.compile(r"\r\n(?=[ \t])")
_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))', re.DOTALL)
_AS_IT_IS = {"", "binary", "7bit", "8bit"}
"""Transfer encodings that change nothing."""


class FormError(ValueError):
    """This is no well-formed form; the message says why."""


@dataclass(frozen=True, slots=True)
class PartBegins:
    """A part begins; its data follow. One with a file name is a file, any other a plain field."""

    name: str
    is_file: bool


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
        yield _part(self._buffer[2:end].decode("utf-8", "replace"))
        del self._buffer[: end + 4]
        self._state = _State.DATA


def _part(head: str) -> PartBegins:
    # Not by the parser for e-mail: what form clients never send makes it raise all sorts of errors.
    headers: dict[str, str] = {}
    for line in _FOLD.sub("", head).split("\r\n"):
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    disposition = headers.get("content-disposition", "")
    if disposition.partition(";")[0].strip().lower() != "form-data":
        raise FormError("a part has no `Content-Disposition: form-data`")
    if headers.get("content-transfer-encoding", "").lower() not in _AS_IT_IS:
        raise FormError("a part has a Content-Transfer-Encoding; send it as it is")
    parameters = {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare
        for name, quoted, bare in _PARAMETER.findall(disposition)
    }
    return PartBegins(
        parameters.get("name", ""),
        any(value for name, value in parameters.items() if name.split("*")[0] == "filename"),
    )
