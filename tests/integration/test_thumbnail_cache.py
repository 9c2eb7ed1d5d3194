"""Tests of the cache of thumbnails on the disk."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.storage.thumbnail_cache import ThumbnailCache
from tests.harness.service import SwitchableDisk

BLOCK = 4_096


def name(number: int) -> str:
    return f"{number:032x}.jpg"


@asynccontextmanager
async def open_cache(folder: Path, blocks: int = 100) -> AsyncIterator[ThumbnailCache]:
    cache = ThumbnailCache(folder, SwitchableDisk(folder), blocks * BLOCK)
    try:
        yield cache
    finally:
        cache.close()


def files(folder: Path) -> set[str]:
    """Return the names of all files in the cache."""
    return {path.name for path in (folder / "thumbnails").rglob("*") if path.is_file()}


@pytest.fixture
def read_only_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("the disk fails")

    monkeypatch.setattr(Path, "replace", refuse)
    return iter(())


async def test_cache_returns_what_was_put_also_after_restart(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        assert await cache.read(name(1)) is None
        await cache.put(name(1), b"one")
        assert await cache.read(name(1)) == b"one"
    async with open_cache(tmp_path) as cache:
        assert await cache.read(name(1)) == b"one"
        await cache.delete([name(1), name(2)])
        assert await cache.read(name(1)) is None
    assert files(tmp_path) == set()


async def test_cache_evicts_thumbnails_that_were_not_used_for_longest(tmp_path: Path) -> None:
    async with open_cache(tmp_path, blocks=3) as cache:
        for number in (1, 2, 3):
            await cache.put(name(number), b"x")
        await cache.read(name(1))
        await cache.put(name(4), bytes(BLOCK + 1))  # two blocks
        assert files(tmp_path) == {f"{name(number)}.webp" for number in (1, 4)}
        assert await cache.read(name(2)) is None
        await cache.put(name(5), bytes(4 * BLOCK))
        assert await cache.read(name(5)) is None
        assert await cache.read(name(1)) == b"x"


async def test_restart_evicts_oldest_files_first_and_removes_incomplete_ones(
    tmp_path: Path,
) -> None:
    async with open_cache(tmp_path) as cache:
        for number in (1, 2, 3):
            await cache.put(name(number), b"x")
    folder = tmp_path / "thumbnails" / "00"
    os.utime(folder / f"{name(1)}.webp", (9e9, 9e9))
    (folder / f"{name(4)}.tmp").write_bytes(b"half")
    (folder / "notes.txt").write_bytes(b"x")
    async with open_cache(tmp_path, blocks=2) as cache:
        await cache.put(name(5), b"x")
    assert files(tmp_path) == {f"{name(1)}.webp", f"{name(5)}.webp", "notes.txt"}


async def test_cache_keeps_nothing_when_disk_is_full(tmp_path: Path) -> None:
    disk = SwitchableDisk(tmp_path)
    disk.full = True
    cache = ThumbnailCache(tmp_path, disk)
    await cache.put(name(1), b"x")
    assert await cache.read(name(1)) is None
    cache.close()
    assert files(tmp_path) == set()


@pytest.mark.usefixtures("read_only_folders")
async def test_cache_has_no_incomplete_file_when_writing_fails(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        await cache.put(name(1), b"x")
        assert await cache.read(name(1)) is None
    assert files(tmp_path) == set()


async def test_cache_returns_nothing_for_files_that_others_deleted(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        await cache.put(name(1), b"x")
        (tmp_path / "thumbnails" / "00" / f"{name(1)}.webp").unlink()
        assert await cache.read(name(1)) is None
        with pytest.raises(ValueError, match="not an output name"):
            await cache.read("../imgsvc.db")
