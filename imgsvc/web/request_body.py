"""Reading what a call brings along: streamed, counted, and not before it is known to be wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.problems import HttpProblemError

CHUNK_BYTES = 64 * 1024
"""What is taken at once, so that reading a form holds up nobody's answers."""
_SMALL_SECONDS = 10.0


async def expect(request: web.Request) -> None:
    """Stay silent on `Expect: 100-continue` until somebody reads the body: see `chunks`."""


def media_type(request: web.Request) -> str:
    """The body's media type as the call declares it, without parameters; "" where it does not.

    aiohttp's own word for a malformed one is application/octet-stream, or an error.
    """
    declared = request.headers.get("Content-Type", "").encode("utf-8", "replace").decode()
    return declared.partition(";")[0].strip().lower()


def refuse_encoding(request: web.Request) -> None:
    """Raise `ProblemError` where the body is compressed."""
    encodings = ",".join(request.headers.getall("Content-Encoding", [])).lower().split(",")
    if any(encoding.strip() not in {"", "identity"} for encoding in encodings):
        raise HttpProblemError(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE,
            "The body has a Content-Encoding. Send it as it is.",
            headers={"Accept-Encoding": "identity"},
        )


def declared_length(request: web.Request) -> int:
    """The body's length as the call declares it; 0 where it does not."""
    return request.content_length or 0


async def chunks(request: web.Request, idle_seconds: float) -> AsyncGenerator[bytes, None]:
    """Give the body as it comes. Raises `ProblemError` where it stands still or is malformed."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # What counts is the answer proper.
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                chunk = await request.content.read(CHUNK_BYTES)
        except TimeoutError:
            raise ProblemError(
                ProblemCode.UPLOAD_STALLED,
                f"No byte came for {idle_seconds:g} s (server.upload_idle_seconds).",
            ) from None
        except web.RequestPayloadError as error:
            raise ProblemError(
                ProblemCode.BAD_REQUEST, f"The body's framing is malformed: {error}"
            ) from None
        if not chunk:
            return
        yield chunk


async def read_small(request: web.Request, kind: str, limit: int) -> bytes:
    """Read a body that is to be short and of this kind. Raises `ProblemError`."""
    if media_type(request) != kind:
        raise ProblemError(ProblemCode.UNSUPPORTED_MEDIA_TYPE, f"The body must be {kind}.")
    refuse_encoding(request)
    body = b""
    async for chunk in chunks(request, _SMALL_SECONDS):
        body += chunk
        if len(body) > limit:
            raise ProblemError(ProblemCode.TOO_LARGE, f"The body must be at most {limit:,} bytes.")
    return body
