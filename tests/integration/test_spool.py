"""Tests of scratch files, and of the spools that write to them."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsvc.storage.base import StorageFullError
from imgsvc.storage.scratch import Scratch
from imgsvc.storage.spool import MAX_MEMORY_BYTES, Spool


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    scratch = Scratch(tmp_path)
    yield scratch
    scratch.close()


def names_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_scratch_file_has_no_name(scratch: Scratch, tmp_path: Path) -> None:
    file = await scratch.open()
    await file.write(b"rows")
    await file.seek(0)
    assert await file.read() == b"rows"
    assert os.fstat(file.fileno()).st_nlink == 0
    await file.close()
    assert names_below(tmp_path) == []


def test_sweep_removes_only_scratch_files_of_version_1(scratch: Scratch, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "tmp"
    leftover = folder / f"scratch.{'0' * 16}.tmp"
    others = [folder / "other.tmp", folder / "scratch.tmp", tmp_path / leftover.name]
    for file in (leftover, *others):
        file.write_text("rows")
    scratch.sweep()
    assert set(names_below(tmp_path)) == set(others)


async def test_scratch_file_is_read_while_default_executor_is_busy(scratch: Scratch) -> None:
    """Look-ups of host names run in the default executor and can take many seconds."""
    go = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(go.wait, 60)) for _ in range(64)]
    try:
        async with asyncio.timeout(30):
            file = await scratch.open()
            await file.write(b"rows")
            await file.close()
    finally:
        go.set()
        await asyncio.gather(*busy)


@pytest.mark.parametrize("size", [0, 10, MAX_MEMORY_BYTES, 3 * MAX_MEMORY_BYTES + 7])
async def test_spool_yields_everything_that_was_written_each_time(
    scratch: Scratch, size: int
) -> None:
    data = os.urandom(size)
    async with Spool(scratch) as spool:
        for start in range(0, size, 100_000):
            await spool.write(data[start : start + 100_000])
        assert spool.size == size
        for _ in range(2):
            assert b"".join([chunk async for chunk in spool.chunks()]) == data


async def test_spool_raises_storage_full_error_when_disk_is_full(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_full_disk() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch, "open", open_full_disk)
    async with Spool(scratch) as spool:
        with pytest.raises(StorageFullError):
            await spool.write(bytes(MAX_MEMORY_BYTES + 1))


async def test_spool_leaves_no_file_when_cancelled_while_writing(
    scratch: Scratch, tmp_path: Path
) -> None:
    async def fill() -> None:
        async with Spool(scratch) as spool:
            while True:
                await spool.write(bytes(MAX_MEMORY_BYTES + 1))

    for _ in range(5):
        task = asyncio.create_task(fill())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert names_below(tmp_path) == []
