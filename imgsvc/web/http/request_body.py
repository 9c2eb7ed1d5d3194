"""Streaming access to the body of an API call. The client sends it only when a handler reads it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import aiohttp
from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.http.problems import HttpProblemError
from imgsvc.web.limits import BodyLimits

BODY_CHUNK_BYTES = 64 * 1024
"""Maximum chunk size. Small, so that parsing a form does not block the event loop for long."""
_SMALL_BODY_IDLE_SECONDS = 10.0
"""Idle timeout of a small body."""


async def defer_100_continue(request: web.Request) -> None:
    """Send no `100 Continue` yet. `read_chunks` sends it when the body is read."""


def media_type(request: web.Request) -> str:
    """Return the declared media type of the body, without parameters; "" if there is none.

    aiohttp's `content_type` is application/octet-stream, or raises, if the header is malformed.
    """
    declared = request.headers.get("Content-Type", "").encode("utf-8", "replace").decode()
    return declared.partition(";")[0].strip().lower()


def reject_encoding(request: web.Request) -> None:
    """Raise `ProblemError` if the body has a `Content-Encoding`."""
    encodings = ",".join(request.headers.getall("Content-Encoding", [])).lower().split(",")
    if any(encoding.strip() not in {"", "identity"} for encoding in encodings):
        raise HttpProblemError(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE,
            "A Content-Encoding is not supported. Send the body uncompressed.",
            headers={"Accept-Encoding": "identity"},
        )


def declared_length(request: web.Request) -> int:
    """Return the declared length of the body in bytes, or 0 if there is none."""
    return request.content_length or 0


async def read_chunks(
    request: web.Request, idle_seconds: float, limits: BodyLimits = BodyLimits()
) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives.

    Raise `ProblemError` if no data arrive for `idle_seconds`, if they arrive too slowly, or if the
    framing is malformed.
    """
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # Count only the final response.
    rate = _RateLimit(idle_seconds, limits)
    while True:
        try:
            chunk = await _read(request.content, rate)
        except web.RequestPayloadError as error:
            raise ProblemError(
                ProblemCode.BAD_REQUEST, f"The framing of the body is malformed: {error}"
            ) from None
        if not chunk:
            return
        yield chunk


class _RateLimit:
    """The slowest rate at which a body may arrive."""

    def __init__(self, idle_seconds: float, limits: BodyLimits) -> None:
        self._idle_seconds = idle_seconds
        self._limits = limits
        self._seconds = 0.0
        self._size = 0

    @property
    def timeout(self) -> float:
        """The seconds in which the next bytes must arrive."""
        return min(self._idle_seconds, max(0.0, self._limits.period_seconds - self._seconds))

    def add(self, size: int, seconds: float) -> None:
        """Count bytes for which the service has waited `seconds`."""
        self._size += size
        self._seconds += seconds
        if self._size >= self._limits.min_bytes:
            self._seconds, self._size = 0.0, 0

    def error(self) -> ProblemError:
        """Return the problem of a body that is too slow."""
        if self.timeout >= self._idle_seconds:
            message = f"No data received for {self._idle_seconds:g} s (server.upload_idle_seconds)."
        else:
            message = (
                f"The upload is too slow: less than {self._limits.min_bytes:,} bytes in "
                f"{self._limits.period_seconds:g} s."
            )
        return ProblemError(ProblemCode.UPLOAD_STALLED, message)


async def _read(content: aiohttp.StreamReader, rate: _RateLimit) -> bytes:
    """Return the next bytes, or b"" at the end. Raise `ProblemError` if they arrive too slowly."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(rate.timeout):
            chunk = await content.read(BODY_CHUNK_BYTES)
    except TimeoutError:
        # Bytes that have arrived while this process was suspended count.
        chunk = content.read_nowait(BODY_CHUNK_BYTES)
        if not chunk and not content.at_eof():
            raise rate.error() from None
    rate.add(len(chunk), time.monotonic() - started)
    return chunk


async def read_small(request: web.Request, expected_type: str, limit: int) -> bytes:
    """Return the whole body. Raise `ProblemError` if it has another media type or is too long."""
    if media_type(request) != expected_type:
        raise ProblemError(ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"The body must be {expected_type}.")
    reject_encoding(request)
    body = b""
    async for chunk in read_chunks(request, _SMALL_BODY_IDLE_SECONDS):
        body += chunk
        if len(body) > limit:
            raise ProblemError(ProblemCode.TOO_LARGE, f"The body must be at most {limit:,} bytes.")
    return body
