"""The store of outputs in the data folder: one file for each output.

Outputs are `outputs/ab/TOKEN.EXT`, where `ab` are the first two digits of the token. Files are
written in `outputs/tmp` first. This is one folder, so the cleanup at the start is quick with any
number of outputs. It is on the same file system, so the move to the final path is atomic.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.machine_errors import MachineError, is_machine_error
from imgsvc.storage.base import (
    ImageStore,
    StorageFullError,
    check_output_name,
    is_output_name,
)
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.fsync import begin_sync, sync_file, sync_folder

OUTPUTS = "outputs"
_TMP = "tmp"
_TEMPORARY = re.compile(r"(?P<name>[0-9a-f]+\.[a-z]+)\.[0-9a-f]{16}\.tmp")
_FULL = {errno.ENOSPC, errno.EDQUOT}
RETRY_DELAYS = (0.05, 0.25, 1.0)
"""Delays after errors of the machine. Other files of the same group are closed by the first retry."""
GROUP = 64
"""Maximum number of files that are written and synced together. Each is an open file meanwhile."""


def output_path(data_dir: Path, name: str) -> Path:
    """Return the path of the output `TOKEN.EXT`. Raise ValueError if `name` is not such a name."""
    check_output_name(name)
    return data_dir.joinpath(OUTPUTS, name[:2], name)


def has_outputs(data_dir: Path) -> bool:
    """Return whether the data folder contains any output. Blocks."""
    for folder in (data_dir / OUTPUTS).glob("[0-9a-f][0-9a-f]/"):
        with os.scandir(folder) as entries:
            if any(is_output_name(entry.name) for entry in entries):
                return True
    return False


class _Put:
    """One file that is being stored."""

    def __init__(self, name: str, path: Path, temporary: Path, data: bytes) -> None:
        self.name = name
        self.path = path
        self.temporary = temporary
        self.data = data
        self.fd = -1
        self.error: OSError | None = None
        self.abandoned = False
        self.moved = False
        self.folder_created = False
        self.attempts = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def active(self) -> bool:
        return self.error is None and not self.abandoned

    def fail(self, error: OSError) -> None:
        """Record an error without its traceback, which would keep the data in memory."""
        self.error = OSError(*error.args)

    def begin_retry(self, temporary: Path) -> bool:
        """Prepare to store the file again, if an error of the machine was the cause. Return whether.

        What was written is never used: after a failed sync, the next one may succeed without the data.
        """
        if self.error is None or self.abandoned or not is_machine_error(self.error):
            return False
        self.error, self.temporary, self.moved = None, temporary, False
        self.attempts += 1
        return True

    def resolve(self) -> None:
        """Set the result of `done`."""
        if self.done.done():
            return
        if self.error is None:
            self.done.set_result(None)
        elif self.error.errno in _FULL:
            self.done.set_exception(StorageFullError(_reason(self.error)))
        elif is_machine_error(self.error):
            self.done.set_exception(MachineError(_reason(self.error)))
        else:
            reason = f"The output could not be stored: {_reason(self.error)}."
            self.done.set_exception(ImageError(ImageErrorCode.STORAGE_FAILED, reason))


class FilesystemStore(ImageStore):
    """An `ImageStore` in the data folder. It writes in its own threads, and creates its folders.

    Nothing is stored while `disk_space` has no free space. `retry_delays`: seconds before a file is
    stored again after an error of the machine.
    """

    def __init__(
        self, data_dir: Path, disk_space: DiskSpace, *, retry_delays: Sequence[float] = RETRY_DELAYS
    ) -> None:
        self._retry_delays = retry_delays
        self._data_dir = data_dir
        self._disk_space = disk_space
        self._tmp = data_dir / OUTPUTS / _TMP
        for folder in (data_dir, data_dir / OUTPUTS, self._tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="imgsvc-files")
        self._waiting: list[_Put] = []
        self._flushing: asyncio.Task[None] | None = None

    def path(self, name: str) -> Path:
        """Return the path of the output `TOKEN.EXT`. Raise ValueError if `name` is not such a name."""
        return output_path(self._data_dir, name)

    async def put(self, name: str, data: bytes) -> None:
        """Store an output. Calls that arrive during a sync are stored together as the next group."""
        path = self.path(name)
        if not self._disk_space.has_free_space():
            raise StorageFullError("free disk space is below storage.min_free_bytes")
        put = _Put(name, path, self._temporary(name), data)
        self._waiting.append(put)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        try:
            await asyncio.shield(put.done)
        except asyncio.CancelledError:
            # The caller forgets the name now, so no file may remain under it.
            put.abandoned = True
            await asyncio.wait({put.done})
            with suppress(OSError):  # the disk fails; the image is requeued anyway
                if put.moved:
                    await self.delete([name])
            raise
        finally:
            # An error refers to this frame. Without `del`, the frame would refer to the error through
            # `put`, and this cycle would keep the data in memory.
            del put

    async def read(self, name: str, offset: int, count: int) -> bytes:
        """Return a part of an output. It is read in a shared thread: writes would delay it."""
        path = self.path(name)
        for delay in self._retry_delays:
            try:
                return await asyncio.to_thread(_read, path, offset, count)
            except OSError as error:
                if not is_machine_error(error):
                    raise
            await asyncio.sleep(delay)
        return await asyncio.to_thread(_read, path, offset, count)

    async def delete(self, names: Iterable[str]) -> None:
        """Delete outputs permanently. Names without a file are ignored."""
        paths = [self.path(name) for name in names]
        await asyncio.get_running_loop().run_in_executor(self._threads, _delete, paths)

    async def list_names(self, prefix: str = "", after: str = "", limit: int = 1_000) -> list[str]:
        """Return the names of stored outputs, in order."""
        outputs = self._data_dir / OUTPUTS
        return await asyncio.to_thread(_list_names, outputs, prefix, after, limit)

    async def sweep(self) -> None:
        """Remove temporary files. All other files stay."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._sweep)

    async def close(self) -> None:
        """Wait for pending writes, and stop the threads."""
        if self._flushing is not None:
            await asyncio.wait({self._flushing})
        self._threads.shutdown()

    def _temporary(self, name: str) -> Path:
        return self._tmp / f"{name}.{secrets.token_hex(8)}.tmp"

    async def _flush(self) -> None:
        """Store all waiting files, group by group."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
                try:
                    await loop.run_in_executor(self._threads, _store, group)
                except RuntimeError as error:  # already closed
                    for put in group:
                        put.error = OSError(str(error))
                failed = [
                    put
                    for put in group
                    if put.attempts < len(self._retry_delays)
                    and put.begin_retry(self._temporary(put.name))
                ]
                for put in group:
                    if put not in failed:
                        put.resolve()
                if failed:
                    await asyncio.sleep(self._retry_delays[max(put.attempts for put in failed) - 1])
                    self._waiting[:0] = failed
        finally:
            self._flushing = None

    def _sweep(self) -> None:
        with os.scandir(self._tmp) as entries:
            leftovers = [Path(e.path) for e in entries if _is_temporary(e.name)]
        for path in leftovers:
            path.unlink(missing_ok=True)


def _store(group: Sequence[_Put]) -> None:
    """Store a group of files: write all, sync all, move all, and sync the folders.

    Syncing all at once lets the disk combine the writes. An error of one file is recorded in its
    `_Put` and does not affect the others.
    """
    for step in (_write, _sync, _move):
        for put in group:
            if put.active:
                try:
                    step(put)
                except OSError as error:
                    put.fail(error)
    moved: dict[Path, list[_Put]] = {}
    for put in group:
        if put.active:
            moved.setdefault(put.path.parent, []).append(put)
        else:
            _discard(put)
    created = {put.path.parent for put in group if put.folder_created}
    for folder in created & moved.keys():
        moved.setdefault(folder.parent, []).extend(moved[folder])
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
    except FileNotFoundError:  # the folder does not exist yet
        put.path.parent.mkdir(mode=0o700, exist_ok=True)
        put.folder_created = True
        put.temporary.replace(put.path)
    put.moved = True


def _discard(put: _Put) -> None:
    """Remove what this call of `put` has written. An older output of the name stays."""
    if put.fd >= 0:
        with suppress(OSError):  # on NFS, close may report the error of an earlier write again
            os.close(put.fd)
        put.fd = -1
    for path in (put.temporary, *([put.path] if put.moved else [])):
        with suppress(OSError):
            path.unlink()


def _is_temporary(name: str) -> bool:
    """Return whether `_temporary` has created this file."""
    match = _TEMPORARY.fullmatch(name)
    return match is not None and is_output_name(match["name"])


def _read(path: Path, offset: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(count)


def _list_names(outputs: Path, prefix: str, after: str, limit: int) -> list[str]:
    names: list[str] = []
    for folder in sorted(outputs.glob("[0-9a-f][0-9a-f]/")):
        if folder.name < after[:2] or not folder.name.startswith(prefix[:2]):
            continue
        with os.scandir(folder) as entries:
            names += sorted(
                entry.name
                for entry in entries
                if entry.name.startswith(prefix)
                and entry.name > after
                and is_output_name(entry.name)
            )
        if len(names) >= limit:
            break
    return names[:limit]


def _delete(paths: Sequence[Path]) -> None:
    """Delete all of these files that can be deleted, then raise the first error."""
    errors = []
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            errors.append(error)
    for folder in {path.parent for path in paths}:
        with suppress(FileNotFoundError):
            sync_folder(folder)
    if errors:
        raise errors[0]


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
