"""Streaming parser for `multipart/form-data` (RFC 7578): bytes in, events out, no I/O.

The library `multipart` finds the parts. This module adds what uploads need besides: which part is a
file, and an error for encoded parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

MAX_PART_HEADER_BYTES = 8_192
"""Maximum size of one header of a part."""
MAX_PART_HEADERS = 64
"""Maximum number of headers of a part."""
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER = re.compile(r';\s*([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))', re.DOTALL)
_EXTENDED_VALUE = re.compile(r"(utf-8|iso-8859-1)'[^']*'(.*)", re.IGNORECASE | re.DOTALL)
_ESCAPED = re.compile("%22|%0D|%0A", re.IGNORECASE)
"""Characters that browsers escape in `filename`."""
_IDENTITY_ENCODINGS = {"", "binary", "7bit", "8bit"}
"""Transfer encodings that leave the data unchanged."""


class FormError(ValueError):
    """The form is malformed. The message says why, without a capital or full stop."""


@dataclass(frozen=True, slots=True)
class PartStart:
    """Start of a part; its data follow. A part with a file name is a file, any other is a field.

    `file_name` is as the client sent it, "" without one.
    """

    name: str
    is_file: bool
    file_name: str = ""


@dataclass(frozen=True, slots=True)
class PartEnd:
    """End of the current part."""


Event = PartStart | PartEnd | bytes


class FormParser:
    """Parses one form. `feed` it all bytes, then `close` it. Both raise `FormError`."""

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise FormError("the boundary is missing or malformed")
        self._delimiter = b"\r\n--" + boundary.encode()
        self._preamble: bytes | None = b"\r\n"  # The first boundary needs no line break before it.
        self._parser = PushMultipartParser(
            boundary,
            max_header_size=MAX_PART_HEADER_BYTES,
            max_header_count=MAX_PART_HEADERS,
            header_charset="latin-1",  # Accepts any bytes: some clients send file names in a code page.
        )

    def feed(self, data: bytes) -> Iterator[Event]:
        """Parse the next bytes and yield the events in them. The data of parts are yielded as bytes."""
        data = self._without_preamble(data)
        if not data:  # The library would close the parser.
            return
        try:
            for event in self._parser.parse(data):
                if event is None:
                    yield PartEnd()
                elif isinstance(event, MultipartSegment):
                    yield _part_start(event)
                else:
                    yield bytes(event)
        except ParserLimitReached:
            raise FormError("the headers of a part are too long or too many") from None
        except MultipartError as error:
            message = str(error.args[0])
            raise FormError(message[:1].lower() + message[1:]) from None

    def close(self) -> None:
        """Mark the end of the input. Raise `FormError` if the closing boundary is missing."""
        try:
            list(self._parser.parse(b""))  # No data: the end of the input.
        except MultipartError:
            raise FormError("it ends before its closing boundary") from None

    def _without_preamble(self, data: bytes) -> bytes:
        """Return the data from the first boundary on.

        The library's own search depends on how the data are divided into chunks.
        """
        if self._preamble is None:
            return data
        preamble = self._preamble + data
        at = preamble.find(self._delimiter)
        self._preamble = preamble[-len(self._delimiter) :] if at < 0 else None
        return preamble[at + len(b"\r\n") :] if at >= 0 else b""


def _part_start(segment: MultipartSegment) -> PartStart:
    if _header(segment, "Content-Transfer-Encoding").lower() not in _IDENTITY_ENCODINGS:
        raise FormError("a part has a Content-Transfer-Encoding; send it without one")
    # Not segment.filename: it lacks `filename*`, which some clients send without a `filename`.
    parameters = {
        name.lower(): _unescaped(name.lower(), quoted) or bare
        for name, quoted, bare in _PARAMETER.findall(_header(segment, "Content-Disposition"))
    }
    return PartStart(
        parameters.get("name", ""),
        any(value for name, value in parameters.items() if name.split("*")[0] == "filename"),
        _file_name(parameters),
    )


def _unescaped(name: str, quoted: str) -> str:
    """Return a quoted value. Browsers do not escape the backslashes of a path in a file name."""
    escaped = r'\\(["\\])' if name == "filename" else r"\\(.)"
    return re.sub(escaped, r"\1", quoted)


def _file_name(parameters: Mapping[str, str]) -> str:
    """Return the file name: of `filename*` (RFC 8187), else of `filename`, as browsers escape it."""
    match = _EXTENDED_VALUE.fullmatch(parameters.get("filename*", ""))
    if match is None:
        return _ESCAPED.sub(lambda found: unquote(found[0]), parameters.get("filename", ""))
    return unquote(match[2], "latin-1" if match[1].lower() == "iso-8859-1" else "utf-8")


def _header(segment: MultipartSegment, name: str) -> str:
    """Return a header of a part as text, or "" if the part does not have it."""
    return str(segment.header(name, "")).strip().encode("latin-1").decode("utf-8", "replace")
