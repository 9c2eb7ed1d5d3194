"""An answer on its way to a slow reader, so that nothing is held open or in memory meanwhile."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, Self

from aiohttp import web

from imgsvc.storage.filesystem import FilesystemStore, StorageFullError

IN_MEMORY_BYTES = 1024 * 1024
CHUNK_BYTES = 256 * 1024
SEND_SECONDS = 120.0
"""A reader that does not take a chunk within this is cut off: it holds a file open, or a place on the
disk."""


async def write(response: web.StreamResponse, chunk: bytes) -> None:
    """Send a chunk at the reader's pace. Raises `ConnectionError` where it takes nothing."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await response.write(chunk)
    except TimeoutError:
        raise ConnectionResetError("the reader takes nothing") from None


class Spool:
    """Bytes that are written once and then read once: in memory while few, else in a scratch file.

    `async with Spool(files) as spool`; raises `StorageFullError` where the disk has no room.
    """

    def __init__(self, files: FilesystemStore) -> None:
        self._files = files
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._file: BinaryIO | None = None
        self._stack = ExitStack()
        self._lock = threading.Lock()  # A thread may be at work when its caller is cancelled.
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
        self._waiting.clear()
        if self._file is not None:
            await asyncio.shield(asyncio.to_thread(self._close))
        else:
            self._closed = True

    async def write(self, data: bytes) -> None:
        """Add bytes."""
        self.size += len(data)
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > IN_MEMORY_BYTES:
            await self._flush()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give all that was written."""
        if self._file is None:
            yield b"".join(self._waiting)
            return
        await self._flush()
        self._file.seek(0)
        while chunk := await asyncio.to_thread(self._file.read, CHUNK_BYTES):
            yield chunk

    async def _flush(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        await asyncio.to_thread(self._append, waiting)

    def _append(self, parts: list[bytes]) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                if self._file is None:
                    path = self._stack.enter_context(self._files.scratch())
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
