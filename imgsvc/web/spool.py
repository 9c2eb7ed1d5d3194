"""Spooled response bodies: a slow client keeps no database snapshot open and no memory in use."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, Self

from aiohttp import web

from imgsvc.storage.base import StorageFullError
from imgsvc.storage.scratch import Scratch

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
        self._file: BinaryIO | None = None
        self._stack = ExitStack()
        self._lock = threading.Lock()  # A thread may still run after its caller is cancelled.
        self._closed = False
        self.size = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._buffer.clear()
        if self._file is not None:
            await asyncio.shield(asyncio.to_thread(self._close))
        else:
            self._closed = True

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
        await self._flush()
        self._file.seek(0)
        while chunk := await asyncio.to_thread(self._file.read, SPOOL_CHUNK_BYTES):
            yield chunk

    async def _flush(self) -> None:
        buffered, self._buffer, self._buffered_bytes = self._buffer, [], 0
        await asyncio.to_thread(self._append, buffered)

    def _append(self, parts: list[bytes]) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                if self._file is None:
                    path = self._stack.enter_context(self._scratch.file())
                    self._file = self._stack.enter_context(path.open("w+b"))
                self._file.writelines(parts)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise StorageFullError(str(error)) from error
                raise

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            self._stack.close()
