"""Reads HTTP/1 responses as browsers do. No I/O.

Browsers accept malformed header lines, long headers and bytes after the body. So does this reader. It
is strict about framing: a response whose end is ambiguous is an error.

The work is limited. One call of `read` handles a limited number of lines and chunks, and a response
whose framing is much larger than its body is an error. So a hostile host cannot block the event loop.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

MAX_OVERHEAD_BYTES = 128 * 1024
"""How many more bytes of framing (heads, chunk sizes) than of the body a response may have so far."""
MAX_SMALL_CHUNKS = 10_000
"""From this number of chunks on, their mean size must be at least `MIN_MEAN_CHUNK_BYTES`."""
MIN_MEAN_CHUNK_BYTES = 64
"""The minimum of the mean chunk size. Real servers send chunks of 1 to 64 KiB."""
MAX_HEADERS = 1_000
"""The maximum number of header lines of a response. Real responses have fewer than 250."""
MAX_CHUNK_LINE_BYTES = 4 * 1024
"""The maximum size of a chunk-size line, with its extensions, and of a trailer line."""
MAX_SIZE_DIGITS = 18
"""The maximum number of digits of a Content-Length."""

_BLANK = b" \t"
_VERSION_PREFIX = b"HTTP/"
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/(\d)\.(\d)[ \t]+(\d{3})(?:[ \t]+([^\r]*))?[ \t\r]*")
_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?")
_WHOLE_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,5})\r\n")
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_WITHOUT_BODY = frozenset({204, 304})


class InvalidResponseError(Exception):
    """The response is not valid HTTP, or a flood. The message is a sentence without details."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The status and headers of a final response.

    Header names are valid, and at most one header is Content-Length, with `length` as its value.
    `length` is the declared size of the body, None if it is not declared. `closes`: no other response
    can follow on the connection.
    """

    version: tuple[int, int]
    status: int
    reason: str
    headers: tuple[tuple[bytes, bytes], ...]
    length: int | None
    chunked: bool
    closes: bool


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The result of one `read`: the head if it is complete, a part of the body, and its end."""

    head: ResponseHead | None = None
    body: bytes = b""
    ended: bool = False


class _State(Enum):
    HEAD = auto()
    LENGTH = auto()
    UNTIL_CLOSE = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    ENDED = auto()


class ResponseReader:
    """Reads one response, after any number of informational (1xx) responses.

    `pending` is true if `read` has stopped at its limit, and should be called again without new data.
    `closes` is true if the connection cannot be used again.
    """

    def __init__(self) -> None:
        self._state = _State.HEAD
        self._buffer = bytearray()
        self._position = 0
        self._searched = 0
        self._remaining = 0
        self._overhead = 0
        self._body_bytes = 0
        self._chunks = 0
        self._may_extend = False
        self.pending = False
        self.closes = True

    def read(self, data: bytes, limit: int) -> ReadResult:
        """Read the next bytes, and handle about `limit` lines and chunks.

        Raise `InvalidResponseError` if the response is not valid.
        """
        if not self._buffer and self._is_plain(data):
            return self._read_plain(data)
        self._buffer += data
        self.pending = False
        head: ResponseHead | None = None
        parts: list[bytes] = []
        while limit > 0 and self._state is not _State.ENDED:
            if self._state is _State.HEAD:
                cost, head = self._read_head()
            elif self._state is _State.CHUNK_SIZE and (
                whole := self._read_whole_chunks(parts, limit)
            ):
                cost = whole
            else:
                cost = self._read_body(parts)
            if not cost:
                break
            limit -= cost
        del self._buffer[: self._position]
        self._searched = max(0, self._searched - self._position)
        self._position = 0
        if self._state is _State.ENDED and self._buffer:
            self.closes = True
            self._buffer.clear()
        stopped = limit <= 0 and bool(self._buffer)
        self._check_overhead(0 if stopped else len(self._buffer))
        self.pending = stopped
        return ReadResult(head, b"".join(parts), self._state is _State.ENDED)

    def read_end(self) -> ReadResult:
        """Read to the end of the connection. Raise `EOFError` if the response is not complete."""
        result = self.read(b"", MAX_OVERHEAD_BYTES)
        if self._state is _State.UNTIL_CLOSE:
            self._state = _State.ENDED
            return ReadResult(result.head, result.body, ended=True)
        if not result.ended:
            raise EOFError
        return result

    def _is_plain(self, data: bytes) -> bool:
        """Return whether all of `data` is body, or comes after it."""
        if self._state is _State.CHUNK_DATA:
            return len(data) < self._remaining
        return self._state in {_State.LENGTH, _State.UNTIL_CLOSE}

    def _read_plain(self, data: bytes) -> ReadResult:
        """Read bytes that are all body. They are not copied."""
        if self._state is _State.LENGTH:
            data = self._take_of_length(data)
        elif self._state is _State.CHUNK_DATA:
            self._remaining -= len(data)
        self._body_bytes += len(data)
        return ReadResult(body=data, ended=self._state is _State.ENDED)

    def _take_of_length(self, data: bytes) -> bytes:
        """Return the bytes of `data` that belong to the body, and count them.

        If the connection closes after the response, bytes after the declared end belong to the body
        too: some servers declare the size before they change the image. The decoder ignores them
        if they do not belong to it.
        """
        surplus = len(data) - self._remaining
        if surplus < 0:
            self._remaining -= len(data)
            return data
        if surplus and self._may_extend:
            self._state = _State.UNTIL_CLOSE
            return data
        self._state = _State.ENDED
        self.closes = self.closes or surplus > 0
        return data[: self._remaining] if surplus else data

    def _check_overhead(self, waiting: int) -> None:
        """Raise `InvalidResponseError` for a flood. `waiting` is the size of an incomplete element."""
        if self._overhead + waiting > self._body_bytes + MAX_OVERHEAD_BYTES:
            raise InvalidResponseError("The host sent too many headers or too small chunks.")
        if (
            self._chunks >= MAX_SMALL_CHUNKS
            and self._body_bytes < MIN_MEAN_CHUNK_BYTES * self._chunks
        ):
            raise InvalidResponseError("The host sent too small chunks.")

    def _read_head(self) -> tuple[int, ResponseHead | None]:
        """Read a head if it is complete. Return the number of its lines, or 0, and the final head."""
        buffer = self._buffer
        while self._position < len(buffer) and buffer[self._position] in b"\r\n":
            self._position += 1
            self._overhead += 1
        start = bytes(buffer[self._position : self._position + len(_VERSION_PREFIX)])
        if not _VERSION_PREFIX.startswith(start):
            raise InvalidResponseError("The host's response is not valid HTTP.")
        found = _END_OF_HEAD.search(buffer, max(self._position, self._searched))
        if found is None:
            self._searched = max(self._position, len(buffer) - 2)
            return 0, None
        text = bytes(buffer[self._position : found.start()])
        self._overhead += found.end() - self._position
        self._position = self._searched = found.end()
        lines = text.split(b"\n", MAX_HEADERS + 1)
        if len(lines) > MAX_HEADERS + 1:
            raise InvalidResponseError(f"The host sent more than {MAX_HEADERS:,} headers.")
        match = _STATUS_LINE.fullmatch(lines[0])
        if match is None:
            raise InvalidResponseError("The host's response is not valid HTTP.")
        status = int(match[3])
        if 100 <= status <= 199 and status != 101:
            return len(lines), None
        version = (int(match[1]), int(match[2]))
        reason = (match[4] or b"").decode("utf-8", "surrogateescape").strip()
        head = self._start_body(version, status, reason, _read_headers(lines[1:]))
        return len(lines), head

    def _start_body(
        self,
        version: tuple[int, int],
        status: int,
        reason: str,
        headers: tuple[tuple[bytes, bytes], ...],
    ) -> ResponseHead:
        if status < 200:
            raise InvalidResponseError("The host's response is for another protocol.")
        if len({value for name, value in headers if name.lower() == b"location"}) > 1:
            raise InvalidResponseError("The host redirects to several URLs.")
        length = _content_length(_values(headers, b"content-length"))
        if length is not None:
            others = (header for header in headers if header[0].lower() != b"content-length")
            headers = (*others, (b"Content-Length", b"%d" % length))
        chunked = _is_chunked(_values(headers, b"transfer-encoding"))
        if chunked and length is not None:
            raise InvalidResponseError(
                "The host sent Content-Length and Transfer-Encoding, so the end is ambiguous."
            )
        options = {
            option.strip(_BLANK).lower()
            for value in _values(headers, b"connection")
            for option in value.split(b",")
        }
        self._may_extend = version < (1, 1) or b"close" in options
        self.closes = self._may_extend
        if status in _WITHOUT_BODY or length == 0:
            self._state = _State.ENDED
        elif chunked:
            self._state = _State.CHUNK_SIZE
        elif length is not None:
            self._state, self._remaining = _State.LENGTH, length
        else:
            self._state, self.closes = _State.UNTIL_CLOSE, True
        return ResponseHead(version, status, reason, headers, length, chunked, self.closes)

    def _read_body(self, parts: list[bytes]) -> int:
        """Read one element of the body. Return 1, or 0 if its bytes have not arrived."""
        match self._state:
            case _State.CHUNK_SIZE:
                return self._read_chunk_size()
            case _State.CHUNK_DATA:
                return self._read_chunk_data(parts)
            case _State.CHUNK_END:
                if (line := self._take_line()) is None:
                    return 0
                if line.strip(b"\r"):
                    raise InvalidResponseError("The host's chunks are not valid HTTP.")
                self._state = _State.CHUNK_SIZE
                return 1
            case _State.TRAILERS:
                if (line := self._take_line()) is None:
                    return 0
                if not line.strip(b"\r"):
                    self._state = _State.ENDED
                return 1
        data = bytes(self._buffer[self._position :])
        self._position = len(self._buffer)
        if self._state is _State.LENGTH:
            data = self._take_of_length(data)
        self._body_bytes += len(data)
        parts.append(data)
        return 1 if data else 0

    def _read_whole_chunks(self, parts: list[bytes], limit: int) -> int:
        """Read chunks that have arrived whole, and return their number. This is fast for small ones."""
        buffer, position, count, size = self._buffer, self._position, 0, 0
        while count < limit and (match := _WHOLE_CHUNK.match(buffer, position)):
            start = match.end()
            end = start + int(match[1], 16)
            if end == start or buffer[end : end + 2] != b"\r\n":
                break
            self._overhead += start + 2 - position
            parts.append(bytes(buffer[start:end]))
            size += end - start
            position = end + 2
            count += 1
        self._position = position
        self._body_bytes += size
        self._chunks += count
        return count

    def _read_chunk_size(self) -> int:
        line = self._take_line()
        if line is None:
            return 0
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise InvalidResponseError("The host's chunks are not valid HTTP.")
        self._remaining = int(match[1], 16)
        if self._remaining:
            self._chunks += 1
            self._state = _State.CHUNK_DATA
        else:
            self._state = _State.TRAILERS
        return 1

    def _read_chunk_data(self, parts: list[bytes]) -> int:
        data = bytes(self._buffer[self._position : self._position + self._remaining])
        if not data:
            return 0
        self._position += len(data)
        self._remaining -= len(data)
        self._body_bytes += len(data)
        parts.append(data)
        if not self._remaining:
            self._state = _State.CHUNK_END
        return 1

    def _take_line(self) -> bytes | None:
        """Return the next line without its line feed, or None if it is not complete."""
        end = self._buffer.find(b"\n", self._position, self._position + MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(self._buffer) - self._position >= MAX_CHUNK_LINE_BYTES:
                raise InvalidResponseError("The host's chunks are not valid HTTP.")
            return None
        line = bytes(self._buffer[self._position : end])
        self._overhead += end + 1 - self._position
        self._position = end + 1
        return line


def _read_headers(lines: list[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a head. Malformed lines are left out, as browsers do.

    Raise `InvalidResponseError` for a malformed line that would declare the body's size.
    """
    headers: list[tuple[bytes, bytes]] = []
    continued = False
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if continued:
                name, value = headers[-1]
                headers[-1] = (name, value + b" " + line.strip(b" \t\r"))
            continue
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t\r")
        continued = bool(colon and _HEADER_NAME.fullmatch(name)) and not (
            b"\0" in value or b"\r" in value
        )
        if continued:
            headers.append((name, value))
        elif name.strip(b" \t\r\0").lower() in _FRAMING:
            raise InvalidResponseError(
                "The host declares the size of its response in invalid HTTP."
            )
    return tuple(headers)


def _values(headers: tuple[tuple[bytes, bytes], ...], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]


def _content_length(values: list[bytes]) -> int | None:
    """Return the declared size of the body. A repeated equal size is one."""
    sizes = {part.strip(_BLANK) for value in values for part in value.split(b",")}
    if not sizes:
        return None
    size = sizes.pop()
    if sizes or not size.isdigit() or len(size) > MAX_SIZE_DIGITS:
        raise InvalidResponseError("The host sent an invalid Content-Length.")
    return int(size)


def _is_chunked(values: list[bytes]) -> bool:
    codings = [part.strip(_BLANK).lower() for value in values for part in value.split(b",")]
    codings = [coding for coding in codings if coding != b"identity"]
    if codings and codings != [b"chunked"]:
        raise InvalidResponseError("The host sent an unknown Transfer-Encoding.")
    return bool(codings)
