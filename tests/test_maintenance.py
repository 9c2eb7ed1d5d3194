"""What is no longer needed goes, and only that, wherever the removing was interrupted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.config import StorageConfig
from imgsvc.models import Request
from imgsvc.processing import maintenance as module
from imgsvc.processing.maintenance import DAY, Maintenance
from imgsvc.storage.filesystem import FilesystemStore
from tests.database_harness import DatabaseHarness, open_database
from tests.waiting import wait_until

ROWS = [[f"http://a.example/{n}.jpg"] for n in range(12)]


class House:
    """Books and files with a housekeeping over them."""

    def __init__(self, folder: Path, db: DatabaseHarness, days: float = 0) -> None:
        self.folder = folder
        self.db = db
        self.files = FilesystemStore(folder)
        config = StorageConfig(retention_days=days)
        self.keeping = Maintenance(db.uploads, self.files, config)

    async def finished(self, rows: list[list[str]] = ROWS) -> Request:
        """A request whose images are stored."""
        request = await self.db.accept(rows)
        claims = await self.db.claim()
        for claim in claims:
            await self.files.put(f"{claim.token}.jpg", b"stored")
        await self.db.complete(claims)
        return request

    def stored(self) -> int:
        return sum(p.is_file() for p in (self.folder / "outputs").rglob("*"))

    async def rows(self) -> int:
        return await self.db.database.read(
            lambda c: sum(
                c.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                for name in ("requests", "products", "images", "files", "doomed", "headers")
            )
        )


@asynccontextmanager
async def house_in(folder: Path, days: float = 0) -> AsyncIterator[House]:
    async with open_database(folder) as db:
        house = House(folder, db, days)
        try:
            yield house
        finally:
            await house.files.close()


@asynccontextmanager
async def kept(house: House) -> AsyncIterator[None]:
    """Keep house until the block ends."""
    task = asyncio.create_task(house.keeping.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_purge_removes_what_is_marked_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 5)
    async with house_in(tmp_path) as house:
        gone, stays = await house.finished(), await house.finished()
        await house.db.uploads.mark_deleting(gone.request_id)
        await house.keeping.purge()
        assert house.stored() == 12
        assert (await house.db.snapshots.request(stays.request_id)).progress.completed == 12
        await house.db.uploads.mark_deleting(stays.request_id)
        await house.keeping.purge()
        assert (house.stored(), await house.rows()) == (0, 0)


async def test_a_purge_that_is_interrupted_anywhere_is_taken_up_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut off after each number of turns of the loop."""
    monkeypatch.setattr(module, "SLICE", 5)
    for turns in range(0, 60, 4):
        async with house_in(tmp_path) as house:
            gone = await house.finished()
            await house.db.uploads.mark_deleting(gone.request_id)
            purging = asyncio.create_task(house.keeping.purge())
            for _ in range(turns):
                await asyncio.sleep(0)
            purging.cancel()
            await asyncio.gather(purging, return_exceptions=True)
        async with house_in(tmp_path) as house:
            await house.keeping.purge()
            assert (house.stored(), await house.rows()) == (0, 0), turns


async def test_names_that_an_earlier_process_left_doomed_are_deleted(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house:
        gone = await house.finished()
        await house.db.uploads.mark_deleting(gone.request_id)
        while (await house.db.uploads.purge_slice()).more:
            pass
        assert house.stored() == 12
    async with house_in(tmp_path) as house, kept(house):
        await wait_until(lambda: house.stored() == 0, "the files to go")

        async def forgotten() -> bool:
            return await house.rows() == 0

        await wait_until(forgotten, "their names to be forgotten")


async def test_requests_past_their_retention_go_and_others_stay(tmp_path: Path) -> None:
    async with house_in(tmp_path, days=7) as house:
        old, young = await house.finished(), await house.finished()
        waiting = await house.db.accept([["http://a.example/waits.jpg"]])
        await house.db.database.write(
            lambda c: [
                c.execute(
                    "UPDATE requests SET created_at = ?, finished_at = finished_at - ? "
                    "WHERE key = ?",
                    (time.time() - 9 * DAY, ago * DAY, request.key),
                ).rowcount
                for request, ago in ((old, 7.01), (young, 6.99), (waiting, 0))
            ]
        )
        async with kept(house):
            await wait_until(lambda: house.stored() == 12, "the old one's files to go")
        listed, _ = await house.db.snapshots.list_requests(None, 10, None)
        assert {request.key for request in listed} == {young.key, waiting.key}


async def test_without_a_retention_nothing_goes(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house:
        old, marked = await house.finished(), await house.finished()
        await house.db.database.write(
            lambda c: c.execute("UPDATE requests SET finished_at = 1").rowcount
        )
        await house.db.uploads.mark_deleting(marked.request_id)
        async with kept(house):
            await wait_until(lambda: house.stored() == 12, "the round to be made")
        assert (await house.db.snapshots.request(old.request_id)).progress.completed == 12


async def test_it_looks_again_when_woken(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house, kept(house):
        gone = await house.finished()
        await house.db.uploads.mark_deleting(gone.request_id)
        house.keeping.wake()
        await wait_until(lambda: house.stored() == 0, "the files to go")


async def test_a_round_that_fails_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder is where the file should be: it cannot be deleted until somebody takes it away."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    async with house_in(tmp_path) as house:
        gone = await house.finished(ROWS[:1])
        (file,) = [p for p in (tmp_path / "outputs").rglob("*.jpg") if p.is_file()]
        file.unlink()
        file.mkdir()
        await house.db.uploads.mark_deleting(gone.request_id)
        async with kept(house):
            await wait_until(lambda: "cleaning up failed" in caplog.text, "a failure")
            file.rmdir()

            async def clean() -> bool:
                return await house.rows() == 0

            await wait_until(clean, "another round")


@pytest.mark.parametrize(
    ("days", "seconds"),
    [(0, 600.0), (30, 600.0), (1 / 24, 360.0), (10 / DAY, 1.0), (1 / DAY, 1.0)],
)
async def test_it_looks_as_often_as_the_retention_asks(
    tmp_path: Path, days: float, seconds: float
) -> None:
    async with house_in(tmp_path, days) as house:
        assert house.keeping._look_seconds == pytest.approx(seconds)
