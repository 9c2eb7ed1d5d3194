"""Spools: data of any size that one API call needs, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Self

from imgsvc.storage.scratch import Scratch, ScratchFile

MAX_MEMORY_BYTES = 1024 * 1024
"""Size up to which a spool stays in memory."""
SPOOL_CHUNK_BYTES = 256 * 1024
"""Size of the chunks that are read from files."""


class Spool:
    """A buffer that can be read several times, in memory while small, else in a scratch file.

    Use it as `async with Spool(scratch) as spool`. Raise `StorageFullError` if the disk is full.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._file: ScratchFile | None = None
        self.size = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._clear_buffer()
        if self._file is not None:
            await self._file.close()

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        self.size += len(data)
        self._buffer.append(data)
        self._buffered_bytes += len(data)
        self._scratch.memory += len(data)
        if self._buffered_bytes > MAX_MEMORY_BYTES or (
            self._buffered_bytes > SPOOL_CHUNK_BYTES and not self._scratch.has_memory(0)
        ):
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

    async def _flush(self) -> ScratchFile:
        """Write the buffer to the scratch file, and return the file."""
        buffered = self._buffer
        self._clear_buffer()
        if self._file is None:
            self._file = await self._scratch.open()
        await self._file.write(*buffered)
        return self._file

    def _clear_buffer(self) -> None:
        self._scratch.memory -= self._buffered_bytes
        self._buffer, self._buffered_bytes = [], 0
