"""The stored outputs: whole and durable, or not there at all.

`outputs/ab/TOKEN.ext`, where `ab` begins the token, which has 34 digits, or 32 from an earlier version.
What is being written lies in `outputs/tmp`: one folder to look through at the start, however many
outputs there are, and of the same file system, so that moving a file to its place is atomic.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import EXTENSIONS
from imgsvc.storage.fsync import begin_sync, sync_file, sync_folder

OUTPUTS = "outputs"
_TMP = "tmp"
_TOKEN = re.compile(r"([0-9a-f]{2}){16,17}")
_NAME = re.compile(rf"{_TOKEN.pattern}\.({'|'.join(sorted(set(EXTENSIONS.values())))})")
_TEMPORARY = re.compile(rf"({_TOKEN.pattern}\.[a-z]+|scratch)\.[0-9a-f]{{16}}\.tmp")
_FULL = {errno.ENOSPC, errno.EDQUOT}
GROUP = 64
"""Files that are written and synced together, at most: each is an open file meanwhile."""


class StorageFullError(Exception):
    """There is no room for a file, on the disk or in a quota."""


def output_path(data_dir: Path, name: str) -> Path:
    """Where the output `TOKEN.EXT` lies. Raises ValueError for what is no such name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not the name of an output: {name!r}")
    return data_dir / OUTPUTS / name[:2] / name


def any_output(data_dir: Path) -> bool:
    """Whether the folder holds any output."""
    for folder in (data_dir / OUTPUTS).glob("[0-9a-f][0-9a-f]"):
        with os.scandir(folder) as entries:
            if any(_NAME.fullmatch(entry.name) for entry in entries):
                return True
    return False


class _Put:
    """One file on its way to the disk."""

    def __init__(self, name: str, path: Path, temporary: Path, data: bytes) -> None:
        self.name = name
        self.path = path
        self.temporary = temporary
        self.data = data
        self.fd = -1
        self.error: OSError | None = None
        self.abandoned = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def alive(self) -> bool:
        return self.error is None and not self.abandoned

    def fail(self, error: OSError) -> None:
        """Note what went wrong, but not where: that would hold the data."""
        self.error = OSError(*error.args)

    def settle(self) -> None:
        """Tell who waits for it."""
        if self.done.done():
            return
        if self.error is None:
            self.done.set_result(None)
        elif self.error.errno in _FULL:
            self.done.set_exception(StorageFullError(_reason(self.error)))
        else:
            reason = f"the output could not be stored: {_reason(self.error)}"
            self.done.set_exception(ImageError(ImageErrorCode.STORAGE_FAILED, reason))


class FilesystemStore:
    """Puts, deletes and sweeps outputs, on threads of its own. Makes its folders if need be."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._tmp = data_dir / OUTPUTS / _TMP
        for folder in (data_dir, data_dir / OUTPUTS, self._tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="imgsvc-files")
        self._waiting: list[_Put] = []
        self._flushing: asyncio.Task[None] | None = None

    def path(self, name: str) -> Path:
        """Where the output `TOKEN.EXT` lies. Raises ValueError for what is no such name."""
        return output_path(self._data_dir, name)

    async def put(self, name: str, data: bytes) -> None:
        """Store an output. When this returns, it survives a power cut.

        Puts that come while others are being synced go together. One that is cancelled leaves nothing
        behind. Raises `StorageFullError`, or `ImageError` (`storage_failed`).
        """
        put = _Put(name, self.path(name), self._temporary(name), data)
        self._waiting.append(put)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        try:
            await asyncio.shield(put.done)
        except asyncio.CancelledError:
            # Its caller forgets the name with this, so nothing may lie under it any more.
            put.abandoned = True
            await asyncio.wait({put.done})
            with suppress(OSError):  # the disk fails; the image is put back all the same
                await self.delete([name])
            raise
        finally:
            del put  # An error holds this frame, and would be held by it, and the data with it.

    async def delete(self, names: Iterable[str]) -> None:
        """Delete outputs for good; those that are gone already are no error."""
        paths = [self.path(name) for name in names]
        await asyncio.get_running_loop().run_in_executor(self._threads, _delete, paths)

    async def sweep(self, in_flight_tokens: Sequence[str]) -> None:
        """Remove what an earlier process left: temporary files, and the outputs of these tokens.

        Nothing else, not even in the same folder.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._sweep, in_flight_tokens)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Lend the path of a temporary file, which is removed after the block, or at the next start."""
        path = self._temporary("scratch")
        path.touch(mode=0o600, exist_ok=False)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Wait for what is being written, and end the threads."""
        if self._flushing is not None:
            await asyncio.wait({self._flushing})
        self._threads.shutdown()

    def _temporary(self, name: str) -> Path:
        return self._tmp / f"{name}.{secrets.token_hex(8)}.tmp"

    async def _flush(self) -> None:
        """Write what waits, group by group, until nothing waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
                try:
                    await loop.run_in_executor(self._threads, _store, group)
                except RuntimeError as error:  # closed already
                    for put in group:
                        put.error = OSError(str(error))
                for put in group:
                    put.settle()
        finally:
            self._flushing = None

    def _sweep(self, tokens: Sequence[str]) -> None:
        with os.scandir(self._tmp) as entries:
            leftovers = [Path(e.path) for e in entries if _TEMPORARY.fullmatch(e.name)]
        for path in leftovers:
            path.unlink(missing_ok=True)
        for token in tokens:
            if _TOKEN.fullmatch(token):
                for extension in set(EXTENSIONS.values()):
                    self.path(f"{token}.{extension}").unlink(missing_ok=True)


def _store(group: Sequence[_Put]) -> None:
    """Write all, then sync all, so that the disk does it at once; then move all, and sync the folders.

    What goes wrong with one is noted in it, and hinders no other.
    """
    for step in (_write, _sync, _move):
        for put in group:
            if put.alive:
                try:
                    step(put)
                except OSError as error:
                    put.fail(error)
    moved: dict[Path, list[_Put]] = {}
    for put in group:
        if put.alive:
            moved.setdefault(put.path.parent, []).append(put)
        else:
            _discard(put)
    for folder, puts in moved.items():
        try:
            sync_folder(folder)
        except OSError as error:
            for put in puts:
                put.fail(error)
                _discard(put)


def _write(put: _Put) -> None:
    put.fd = os.open(put.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    rest = memoryview(put.data)
    while rest:
        rest = rest[os.write(put.fd, rest) :]
    begin_sync(put.fd)


def _sync(put: _Put) -> None:
    sync_file(put.fd)
    fd, put.fd = put.fd, -1
    os.close(fd)


def _move(put: _Put) -> None:
    try:
        put.temporary.replace(put.path)
    except FileNotFoundError:  # the first of its folder
        put.path.parent.mkdir(mode=0o700, exist_ok=True)
        sync_folder(put.path.parent.parent)
        put.temporary.replace(put.path)


def _discard(put: _Put) -> None:
    if put.fd >= 0:
        with suppress(OSError):  # on NFS, what was wrong with a write may come up again here
            os.close(put.fd)
        put.fd = -1
    for path in (put.temporary, put.path):
        with suppress(OSError):
            path.unlink()


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        with suppress(FileNotFoundError):
            sync_folder(folder)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
