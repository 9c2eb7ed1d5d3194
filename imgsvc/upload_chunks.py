"""The chunks of an uploaded file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from imgsvc.storage.spool import Spool


async def first_chunk(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the first bytes of a file. The options of a form that precede it have been received."""
    async for chunk in chunks:
        if chunk:
            return chunk
    return b""


async def file_chunks(
    first: bytes, chunks: AsyncIterator[bytes], copy: Spool | None
) -> AsyncGenerator[bytes, None]:
    """Yield the first chunk and the others. Write them to `copy` too."""
    if copy is not None:
        await copy.write(first)
    yield first
    async for chunk in chunks:
        if copy is not None:
            await copy.write(chunk)
        yield chunk
