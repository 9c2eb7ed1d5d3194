"""Scratch files: temporary files of this process in the data folder."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aiofiles import tempfile

from imgsvc.storage.base import StorageFullError
from imgsvc.storage.disk_space import DiskSpace

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader

T = TypeVar("T")
SCRATCH_THREADS = 4
"""Threads that read and write scratch files. Slow look-ups of host names cannot delay them."""
_SCRATCH = re.compile(r"scratch\.[0-9a-f]{16}\.tmp")
"""Scratch files of version 1.0."""


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise `StorageFullError` instead of the `OSError` of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(str(error)) from error
        raise


@dataclass(frozen=True, slots=True)
class ScratchLimits:
    """The limits of all scratch files together. The disk's free space limits them too."""

    files: int = 256
    """Maximum number of files. Each is an open file; slow readers of long responses have one each."""
    total_bytes: int = 8 * 2**30
    """Maximum size. The forms of 32 uploads of the default maximum fit."""
    memory_bytes: int = 64 * 2**20
    """Memory of spools. Above it, they use files sooner."""


class ScratchFile:
    """A scratch file, whose size counts until it is closed. `write` raises `StorageFullError`."""

    def __init__(self, file: AsyncBufferedReader, scratch: Scratch) -> None:
        self._file = file
        self._scratch = scratch
        self._position = self._size = 0
        self._closed = False

    def fileno(self) -> int:
        """Return the file descriptor."""
        return int(self._file.fileno())

    async def write(self, *pieces: bytes) -> None:
        """Write at the position, and hand the bytes over to the system."""
        end = self._position + sum(map(len, pieces))
        self._resize(max(self._size, end))
        with disk_errors():
            await self._file.writelines(pieces)
            await self._file.flush()
        self._position = end

    async def read(self, count: int) -> bytes:
        """Return at most `count` bytes from the position on."""
        data = bytes(await self._file.read(count))
        self._position += len(data)
        return data

    async def seek(self, position: int) -> None:
        """Set the position."""
        await self._file.seek(position)
        self._position = position

    async def clear(self) -> None:
        """Make the file empty."""
        await self._file.truncate(0)
        self._resize(0)

    async def close(self) -> None:
        """Delete the file."""
        if not self._closed:
            self._closed = True
            self._resize(0)
            self._scratch.files -= 1
            with suppress(OSError):  # the disk is full; the content is no longer needed
                await asyncio.shield(self._file.close())

    def _resize(self, size: int) -> None:
        if size > self._size:
            self._scratch.check_size(size - self._size)
        self._scratch.size += size - self._size
        self._size = size


class Scratch:
    """Creates scratch files in `outputs/tmp` of the data folder. Call `close` at the end.

    `files` and `size` are the number of open files and their bytes. `memory` are the bytes that spools
    hold besides.
    """

    def __init__(
        self, data_dir: Path, disk_space: DiskSpace, limits: ScratchLimits = ScratchLimits()
    ) -> None:
        self.files = self.size = self.memory = 0
        self._folder = data_dir / "outputs" / "tmp"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._disk_space = disk_space
        self._limits = limits
        self._threads = ThreadPoolExecutor(SCRATCH_THREADS, thread_name_prefix="imgsvc-scratch")

    async def open(self) -> ScratchFile:
        """Open an empty file for writing and reading. Close it with `await file.close()`.

        Where the file system allows it the file has no name. So the system frees it when it is closed,
        and when this process ends for any reason. Raise `StorageFullError` if there are too many.
        """
        self.check_size(0)
        if self.files >= self._limits.files:
            raise StorageFullError(f"{self.files} scratch files are open")
        self.files += 1
        try:
            with disk_errors():
                file = await tempfile.TemporaryFile(dir=self._folder, executor=self._threads)
        except BaseException:
            self.files -= 1
            raise
        return ScratchFile(file, self)

    def check_size(self, added: int) -> None:
        """Raise `StorageFullError` if the files may not grow by `added` bytes."""
        if self.size + added > self._limits.total_bytes:
            raise StorageFullError(f"the scratch files have {self.size:,} bytes")
        if not self._disk_space.has_free_space():
            raise StorageFullError("free disk space is below storage.min_free_bytes")

    def has_memory(self, count: int) -> bool:
        """Return whether a spool may hold `count` more bytes in memory."""
        return self.memory + count <= self._limits.memory_bytes

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call that takes long in one of the threads, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def sweep(self) -> None:
        """Remove the scratch files that version 1.0 left. All other files stay."""
        for path in self._folder.iterdir():
            if _SCRATCH.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()
