"""Tests of a damaged database: nothing more is written, and the service is not ready and says why."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from imgsvc.check import check_outputs
from imgsvc.config import Config, StorageConfig
from imgsvc.database.connection import Database, DatabaseDamagedError
from imgsvc.database.damage import ADVICE
from imgsvc.errors import StartupError
from imgsvc.limits import ServiceLimits
from imgsvc.offline import FileOptions, process_file
from imgsvc.processing.health import HealthLimits, ServiceState
from imgsvc.service import Service, running
from tests.harness.database import open_database
from tests.harness.service import config_of
from tests.waiting import wait_until

PAGE = 4_096


async def fill(folder: Path) -> Path:
    """Return the path of a database with some hundred pages, which is not open."""
    async with open_database(folder) as db:
        await db.accept([[f"http://a.example/{n}/{'x' * 500}.jpg"] for n in range(1_000)])
    path = folder / "imgsvc.db"
    assert path.stat().st_size > 100 * PAGE
    return path


def overwrite(path: Path, first: int, count: int = 1) -> None:
    """Overwrite pages. Pages are numbered from 1; negative numbers count from the end."""
    pages = path.stat().st_size // PAGE
    with path.open("r+b") as file:
        file.seek(((first - 1) if first > 0 else pages + first) * PAGE)
        file.write(b"\xa5" * PAGE * count)


def drop(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as c:
        c.execute(statement)
        c.commit()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "page 3": lambda path: overwrite(path, 3),
    "middle page": lambda path: overwrite(path, path.stat().st_size // PAGE // 2),
    "last ten pages": lambda path: overwrite(path, -10, 10),
    "dropped table": lambda path: drop(path, "DROP TABLE products"),
    "dropped index": lambda path: drop(path, "DROP INDEX images_waiting"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_check_finds_damage_and_then_nothing_is_written(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = await fill(tmp_path)
    DAMAGES[damage](path)
    database = await Database.open(path)
    try:
        await database.check()
        assert database.damage.reason is not None
        with pytest.raises(DatabaseDamagedError):
            await database.write(lambda c: c.execute("DELETE FROM probe").rowcount)
    finally:
        await database.close()
    assert caplog.text.count("restore the backup") == 1


async def test_check_finds_nothing_in_an_undamaged_database(tmp_path: Path) -> None:
    database = await Database.open(await fill(tmp_path))
    await database.check()
    assert database.damage.reason is None
    assert not database.damage.found.is_set()
    await database.close()


async def test_check_of_outputs_reports_damaged_database(tmp_path: Path) -> None:
    path = await fill(tmp_path)
    config = Config(storage=StorageConfig(data_dir=tmp_path))
    assert (await check_outputs(config)).consistent
    DAMAGES["middle page"](path)
    with pytest.raises(StartupError, match="restore the backup"):
        await check_outputs(config)


async def test_table_that_is_dropped_while_the_service_runs_is_damage(tmp_path: Path) -> None:
    path = await fill(tmp_path)
    database = await Database.open(path)
    try:
        drop(path, "DROP TABLE failures")
        with pytest.raises(DatabaseDamagedError, match="no such table"):
            await database.read(lambda c: c.execute("SELECT * FROM failures").fetchall())
        assert database.damage.found.is_set()
    finally:
        await database.close()


@asynccontextmanager
async def running_service(folder: Path) -> AsyncIterator[Service]:
    """Run a whole service that does not listen. It waits for the check of the database."""
    limits = ServiceLimits(health=HealthLimits(check_seconds=60.0))
    async with running(config_of(folder), listen=False, limits=limits) as service:
        yield service


async def test_damaged_service_answers_reads_and_is_not_ready(tmp_path: Path) -> None:
    path = await fill(tmp_path)
    DAMAGES["last ten pages"](path)
    async with running_service(tmp_path) as service:
        health = service.monitor.health()
        assert health.state is ServiceState.RUNNING
        assert not health.ready
        assert any("restore the backup" in reason for reason in health.reasons)
        assert await service.queries.list_requests(None, 10, None)


async def test_service_stops_its_components_when_damage_is_found_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = await fill(tmp_path)
    async with running_service(tmp_path) as service:
        assert service.monitor.health().ready
        drop(path, "DROP TABLE deliveries")
        with pytest.raises(DatabaseDamagedError):
            await service.stores.webhook_store.next_due(0.0)
        await wait_until(lambda: not service._tasks, "all components to stop")
        assert not service.monitor.health().ready
    assert caplog.text.count("database is damaged") == 1
    assert "component" not in caplog.text


async def test_process_names_its_folder_if_the_database_in_it_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "working"
    folder.mkdir()
    path = await fill(folder)
    DAMAGES["last ten pages"](path)
    table = tmp_path / "products.csv"
    table.write_text("Product Name,Input Image Urls\nMug,http://a.example/1.jpg\n")
    with pytest.raises(StartupError, match=r"working is damaged\. Delete this folder"):
        await process_file(
            config_of(folder),
            table,
            tmp_path / "out.csv",
            lambda _: None,
            FileOptions(tmp_path / "images", replace=False),
        )


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE t (x)", "PRAGMA application_id = 7", "PRAGMA user_version = 12"]
)
async def test_open_refuses_database_of_another_program(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "imgsvc.db"
    drop(path, statement)
    before = path.read_bytes()
    with pytest.raises(StartupError, match=r"another program.*data_dir"):
        await Database.open(path)
    drop(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(sqlite3.connect(path)) as c:
        tables = c.execute("SELECT name FROM sqlite_master").fetchall()
    assert len(tables) == (b"CREATE TABLE t" in before)


async def test_open_sets_application_id(tmp_path: Path) -> None:
    path = await fill(tmp_path)
    with closing(sqlite3.connect(path)) as c:
        assert c.execute("PRAGMA application_id").fetchone() == (int.from_bytes(b"imgs", "big"),)


async def damage_of(path: Path) -> str:
    """Return what an administrator reads about a damaged database."""
    try:
        database = await Database.open(path)
    except StartupError as error:
        return str(error)
    await database.check()
    await database.close()
    return f"{database.damage.reason}: {ADVICE}" if database.damage.reason else ""


async def test_every_overwritten_page_is_found(tmp_path: Path) -> None:
    async with open_database(tmp_path) as db:
        await db.accept([["http://a.example/1.jpg"], ["http://a.example/2.jpg"]])
    path = tmp_path / "imgsvc.db"
    whole = path.read_bytes()
    for page in range(1, len(whole) // PAGE + 1):
        path.write_bytes(whole)
        overwrite(path, page)
        assert "restore the backup" in await damage_of(path), page
