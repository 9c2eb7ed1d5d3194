"""Tests of scratch files, and of the spools that write to them."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiofiles import tempfile

from imgsvc.storage.base import StorageFullError
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.scratch import Scratch, ScratchLimits
from imgsvc.storage.spool import MAX_MEMORY_BYTES, Spool
from imgsvc.web.http.stream import SpoolQueue


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    scratch = Scratch(tmp_path, DiskSpace(tmp_path, 0))
    yield scratch
    scratch.close()


def names_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_scratch_file_has_no_name(scratch: Scratch, tmp_path: Path) -> None:
    file = await scratch.open()
    await file.write(b"rows")
    await file.seek(0)
    assert await file.read(10) == b"rows"
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
    async def open_full_disk(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", open_full_disk)
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


@pytest.mark.parametrize("reads", ["as written", "late", "in the middle", "alternating"])
async def test_spool_queue_returns_everything_in_order(scratch: Scratch, reads: str) -> None:
    data = os.urandom(12 * MAX_MEMORY_BYTES + 7)
    parts = [data[start : start + 50_000] for start in range(0, len(data), 50_000)]
    queue = SpoolQueue(scratch)
    received: list[bytes] = []
    for number, part in enumerate(parts):
        await queue.write(part)
        count = {
            "as written": 1,
            "late": 0,
            "in the middle": 1_000 if number == len(parts) // 2 else 0,
            "alternating": number % 3,
        }[reads]
        while count and sum(map(len, received)) < queue.size:
            received.append(await queue.read())
            count -= 1
    queue.close()
    while chunk := await queue.read():
        received.append(chunk)
    assert b"".join(received) == data
    assert queue.size == len(data)
    await queue.discard()


async def test_spool_queue_uses_no_file_while_the_reader_keeps_up(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_no_file() -> None:
        raise AssertionError("a scratch file is opened")

    monkeypatch.setattr(scratch, "open", open_no_file)
    queue = SpoolQueue(scratch)
    for _ in range(100):
        await queue.write(bytes(MAX_MEMORY_BYTES // 2))
        assert len(await queue.read()) == MAX_MEMORY_BYTES // 2


async def test_spool_queue_frees_the_file_when_the_reader_has_caught_up(scratch: Scratch) -> None:
    queue = SpoolQueue(scratch)
    for _ in range(3):
        for _ in range(100):
            await queue.write(bytes(100_000))
        left = 100 * 100_000
        while left:
            left -= len(await queue.read())
        assert queue._file is not None
        assert os.fstat(queue._file.fileno()).st_size == 0
    await queue.discard()


async def test_spool_queue_reader_waits_for_the_writer(scratch: Scratch) -> None:
    queue = SpoolQueue(scratch)
    reader = asyncio.create_task(queue.read())
    await asyncio.sleep(0)
    assert not reader.done()
    await queue.write(b"rows")
    assert await reader == b"rows"
    end = asyncio.create_task(queue.read())
    await asyncio.sleep(0)
    queue.close()
    assert await end == b""


async def test_spool_queue_raises_storage_full_error_when_disk_is_full(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_full_disk(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", open_full_disk)
    queue = SpoolQueue(scratch)
    await queue.write(bytes(MAX_MEMORY_BYTES))
    with pytest.raises(StorageFullError):
        await queue.write(bytes(MAX_MEMORY_BYTES))


async def test_scratch_files_are_limited_in_number(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, DiskSpace(tmp_path, 0), ScratchLimits(files=2))
    files = [await scratch.open() for _ in range(2)]
    with pytest.raises(StorageFullError, match="2 scratch files"):
        await scratch.open()
    await files[0].close()
    files.append(await scratch.open())
    for file in files:
        await file.close()
    assert (scratch.files, scratch.size) == (0, 0)
    scratch.close()


async def test_scratch_files_are_limited_in_their_size_together(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, DiskSpace(tmp_path, 0), ScratchLimits(total_bytes=100))
    one, other = await scratch.open(), await scratch.open()
    await one.write(bytes(60))
    await one.seek(20)
    await one.write(bytes(30), bytes(20))
    assert scratch.size == 70
    with pytest.raises(StorageFullError, match="70 bytes"):
        await other.write(bytes(31))
    await one.clear()
    await other.write(bytes(100))
    for file in (one, other):
        await file.close()
    assert scratch.size == 0
    scratch.close()


async def test_scratch_files_leave_the_configured_free_space(tmp_path: Path) -> None:
    free = DiskSpace(tmp_path, 0).free()
    scratch = Scratch(tmp_path, DiskSpace(tmp_path, 2 * free))
    async with Spool(scratch) as spool:
        with pytest.raises(StorageFullError, match="min_free_bytes"):
            await spool.write(bytes(MAX_MEMORY_BYTES + 1))
    scratch.close()


async def test_spools_use_files_sooner_when_many_hold_memory(tmp_path: Path) -> None:
    limits = ScratchLimits(memory_bytes=2 * MAX_MEMORY_BYTES)
    scratch = Scratch(tmp_path, DiskSpace(tmp_path, 0), limits)
    queues = [SpoolQueue(scratch) for _ in range(5)]
    part = bytes(MAX_MEMORY_BYTES // 4)
    for queue in queues:
        for _ in range(4):
            await queue.write(part)
    assert scratch.memory == limits.memory_bytes
    assert scratch.files == 3
    async with Spool(scratch) as spool:
        await spool.write(part + b"x")
        assert scratch.files == 4
        assert b"".join([chunk async for chunk in spool.chunks()]) == part + b"x"
    for queue in queues:
        queue.close()
        assert b"".join([data async for data in iterate(queue)]) == 4 * part
        await queue.discard()
    assert (scratch.memory, scratch.files, scratch.size) == (0, 0, 0)
    scratch.close()


async def iterate(queue: SpoolQueue) -> AsyncIterator[bytes]:
    """Yield all bytes of a closed queue."""
    while data := await queue.read():
        yield data
