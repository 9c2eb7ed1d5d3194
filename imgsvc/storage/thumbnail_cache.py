"""The cache of thumbnails in the data folder: one file for each, `thumbnails/ab/TOKEN.EXT.webp`.

It is no part of a backup, because any thumbnail can be made again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from imgsvc.storage.base import check_output_name
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.fsync import sync_file

log = logging.getLogger(__name__)

THUMBNAILS = "thumbnails"
MAX_CACHE_BYTES = 256 * 2**20
"""Maximum size of all cached thumbnails. Ten thumbnails take about 100 KB."""
_BLOCK_BYTES = 4_096
"""Files count in whole blocks, as file systems store them. So the number of files has a limit too."""
_SUFFIX, _INCOMPLETE_SUFFIX = ".webp", ".tmp"

T = TypeVar("T")


class ThumbnailCache:
    """Keeps the thumbnails that were used last. A cached thumbnail is complete, or does not exist.

    All methods raise ValueError if a name is not the name of an output.
    """

    def __init__(
        self, data_dir: Path, disk_space: DiskSpace, max_bytes: int = MAX_CACHE_BYTES
    ) -> None:
        self._folder = data_dir / THUMBNAILS
        self._disk_space = disk_space
        self._max_bytes = max_bytes
        # Only this thread uses the index, so calls need no lock and keep their order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="imgsvc-thumbnails")
        self._index: OrderedDict[str, int] | None = None
        self._bytes = 0

    async def read(self, name: str) -> bytes | None:
        """Return the thumbnail of an output, or None if it is not in the cache."""
        return await self._run(lambda: self._read(name))

    async def put(self, name: str, data: bytes) -> None:
        """Keep the thumbnail of an output. Do nothing if the disk is full or fails."""
        await self._run(lambda: self._put(name, data))

    async def delete(self, names: Iterable[str]) -> None:
        """Delete the thumbnails of these outputs. Raise `OSError` if that fails."""
        await self._run(lambda: self._delete(names))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _path(self, name: str) -> Path:
        check_output_name(name)
        return self._folder / name[:2] / f"{name}{_SUFFIX}"

    def _read(self, name: str) -> bytes | None:
        index = self._load()
        path = self._path(name)
        if name not in index:
            return None
        try:
            data = path.read_bytes()
        except OSError:
            self._forget(name)
            return None
        index.move_to_end(name)
        return data

    def _put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        self._forget(name)
        size = _disk_bytes(len(data))
        if size > self._max_bytes or not self._disk_space.has_free_space():
            return
        try:
            self._evict(self._max_bytes - size)
            _write(path, data)
        except OSError as error:
            log.warning("a thumbnail could not be cached", extra={"reason": str(error)})
            return
        self._load()[name] = size
        self._bytes += size

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._path(name)
            path.unlink(missing_ok=True)
            self._forget(name)

    def _evict(self, max_bytes: int) -> None:
        """Delete the thumbnails that have not been used for the longest time."""
        index = self._load()
        while self._bytes > max_bytes:
            name = next(iter(index))
            self._path(name).unlink(missing_ok=True)
            self._forget(name)

    def _forget(self, name: str) -> None:
        size = self._load().pop(name, 0)
        self._bytes -= size

    def _load(self) -> OrderedDict[str, int]:
        """Return the size of each cached file by its output's name, in the order of use.

        The first call reads the folder. It takes the time of writing for the time of use, and removes
        incomplete files.
        """
        if self._index is not None:
            return self._index
        found = []
        for path in self._folder.glob("??/*"):
            name = path.name.removesuffix(_SUFFIX)
            with suppress(OSError, ValueError):
                if path.suffix == _INCOMPLETE_SUFFIX:
                    path.unlink()
                elif path == self._path(name):
                    status = path.stat()
                    found.append((status.st_mtime_ns, name, _disk_bytes(status.st_size)))
        self._index = OrderedDict((name, size) for _, name, size in sorted(found))
        self._bytes = sum(self._index.values())
        return self._index


def _write(path: Path, data: bytes) -> None:
    """Write a file, so that it is complete or does not exist even after a power cut."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(_INCOMPLETE_SUFFIX)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            sync_file(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _disk_bytes(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
