"""Spooled response bodies: a slow client keeps no database snapshot open and no memory in use."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from aiohttp import web

from imgsvc.storage.base import StorageFullError
from imgsvc.storage.scratch import Scratch

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader

MAX_MEMORY_BYTES = 1024 * 1024
"""Size up to which a spool stays in memory."""
SPOOL_CHUNK_BYTES = 256 * 1024
"""Size of the chunks that are read from files and sent."""
SPOOL_SEND_TIMEOUT_SECONDS = 120.0
"""Time a client has to receive one chunk. Slower clients are disconnected, because each keeps a file
open or uses disk space."""


async def write_chunk(response: web.StreamResponse, chunk: bytes) -> None:
    """Send a chunk. Raise `ConnectionError` if the client does not receive it in time."""
    try:
        async with asyncio.timeout(SPOOL_SEND_TIMEOUT_SECONDS):
            await response.write(chunk)
    except TimeoutError:
        raise ConnectionResetError("the client does not receive data") from None


class Spool:
    """A buffer for a response body, in memory while small, else in a scratch file.

    Use it as `async with Spool(scratch) as spool`. Raise `StorageFullError` if the disk is full.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._file: AsyncBufferedReader | None = None
        self.size = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._buffer.clear()
        if self._file is not None:
            with suppress(OSError):  # the disk is full; the content is no longer needed
                await asyncio.shield(self._file.close())

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        self.size += len(data)
        self._buffer.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes > MAX_MEMORY_BYTES:
            await self._flush()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield everything that was written."""
        if self._file is None:
            yield b"".join(self._buffer)
            return
        file = await self._flush()
        await file.seek(0)
        while chunk := await file.read(SPOOL_CHUNK_BYTES):
            yield chunk

    async def _flush(self) -> AsyncBufferedReader:
        """Write the buffer to the scratch file, and return the file."""
        buffered, self._buffer, self._buffered_bytes = self._buffer, [], 0
        try:
            if self._file is None:
                self._file = await self._scratch.open()
            await self._file.writelines(buffered)
            await self._file.flush()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFullError(str(error)) from error
            raise
        return self._file
