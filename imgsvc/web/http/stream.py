"""Responses that are sent while they are rendered, and written ahead of slow clients."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from aiohttp import web

from imgsvc.storage.scratch import Scratch, ScratchFile
from imgsvc.storage.spool import MAX_MEMORY_BYTES, SPOOL_CHUNK_BYTES

START_BYTES = 2_048
"""Bytes after which a response starts before it is complete. A shorter one has a `Content-Length`, and
an error in it is reported as a problem."""
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


class SpoolQueue:
    """A queue of bytes from one writer to one reader: in memory while the reader keeps up.

    What the reader has not taken beyond `MAX_MEMORY_BYTES` is in a scratch file, so the writer never
    waits for the reader. `write` raises `StorageFullError` if the disk is full.
    """

    def __init__(self, scratch: Scratch) -> None:
        self.size = 0
        """The number of all bytes that were written."""
        self.closed = False
        self._scratch = scratch
        # In the order of reading: `_memory`, the file from `_read_at` to `_write_at`, `_newest`.
        self._memory: deque[bytes] = deque()
        self._memory_bytes = 0
        self._file: ScratchFile | None = None
        self._read_at = self._write_at = 0
        self._newest: list[bytes] = []
        self._newest_bytes = 0
        self._file_lock = asyncio.Lock()
        self._changed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        if not data:  # `read` returns no bytes only at the end
            return
        self.size += len(data)
        is_spooled = self._read_at < self._write_at or self._newest
        has_memory = self._memory_bytes + len(data) <= MAX_MEMORY_BYTES
        if not is_spooled and has_memory and self._scratch.has_memory(len(data)):
            self._memory.append(data)
            self._memory_bytes += len(data)
            self._scratch.memory += len(data)
        else:
            self._newest.append(data)
            self._newest_bytes += len(data)
            if self._newest_bytes >= SPOOL_CHUNK_BYTES:
                await self._flush()
        self._changed.set()

    def close(self) -> None:
        """Mark the end of the bytes."""
        self.closed = True
        self._changed.set()

    async def wait_for(self, size: int) -> None:
        """Wait until `size` bytes have been written, or the queue is closed."""
        while self.size < size and not self.closed:
            await self._wait()

    async def read(self) -> bytes:
        """Return the next bytes, or b"" at the end."""
        while True:
            if self._memory:
                data = self._memory.popleft()
                self._memory_bytes -= len(data)
                self._scratch.memory -= len(data)
                return data
            if self._read_at < self._write_at:
                return await self._read_file()
            if self._newest:
                self._memory.extend(self._newest)
                self._memory_bytes = self._newest_bytes
                self._scratch.memory += self._newest_bytes
                self._newest, self._newest_bytes = [], 0
            elif self.closed:
                return b""
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _flush(self) -> None:
        """Write `_newest` to the file."""
        newest, self._newest, self._newest_bytes = self._newest, [], 0
        async with self._file_lock:
            if self._file is None:
                self._file = await self._scratch.open()
            await self._file.seek(self._write_at)
            await self._file.write(*newest)
            self._write_at += sum(map(len, newest))

    async def _read_file(self) -> bytes:
        async with self._file_lock:
            assert self._file is not None, "bytes are in the file"  # noqa: S101
            await self._file.seek(self._read_at)
            data = await self._file.read(min(SPOOL_CHUNK_BYTES, self._write_at - self._read_at))
            self._read_at += len(data)
            if self._read_at == self._write_at:
                await self._file.clear()
                self._read_at = self._write_at = 0
            return data

    async def discard(self) -> None:
        """Free the memory and the file."""
        self._scratch.memory -= self._memory_bytes
        self._memory.clear()
        self._memory_bytes = 0
        self._newest.clear()
        if self._file is not None:
            await self._file.close()


class StreamedResponse:
    """A response that a task sends while its body is written: `async with StreamedResponse(…)`.

    Call `start` once, `write` for each part of the body, and `finish`. If the block is left by an error
    after the response has started, the middleware aborts the connection.
    """

    def __init__(self, request: web.Request, scratch: Scratch) -> None:
        self._request = request
        self._queue = SpoolQueue(scratch)
        self._sender: asyncio.Task[web.StreamResponse] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        await self._queue.discard()

    def start(self, headers: Mapping[str, str], *, status: int = 200) -> None:
        """Start to send the response."""
        response = web.StreamResponse(status=status, headers=headers)
        self._sender = asyncio.create_task(self._send(response))

    async def write(self, data: bytes) -> None:
        """Append a part of the body. Raise `ConnectionError` if the client has disconnected."""
        if self._sender is not None and self._sender.done():
            await self._sender
        await self._queue.write(data)

    async def finish(self) -> web.StreamResponse:
        """Wait until the client has received the whole response, and return it."""
        assert self._sender is not None, "the response has started"  # noqa: S101
        self._queue.close()
        return await self._sender

    async def _send(self, response: web.StreamResponse) -> web.StreamResponse:
        queue = self._queue
        has_body = self._request.method != "HEAD"
        if has_body:
            await queue.wait_for(START_BYTES)
            if queue.closed:
                response.content_length = queue.size
        await response.prepare(self._request)
        while has_body and (chunk := await queue.read()):
            await write_chunk(response, chunk)
        await response.write_eof()
        return response
