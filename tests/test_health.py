"""Tests of the readiness of the service."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.config import CompressConfig
from imgsvc.database import connection
from imgsvc.database.connection import Database
from imgsvc.processing import health as module
from imgsvc.processing.health import HealthMonitor, ServiceState
from imgsvc.workers.pool import WorkerPool
from tests.waiting import wait_until


@asynccontextmanager
async def open_monitor(
    folder: Path, *, function: str = "tests.faulty_worker:compress"
) -> AsyncIterator[HealthMonitor]:
    """Monitor a database and a pool of one worker. A file `full` in `folder` makes the disk full."""
    database = await Database.open(folder / "imgsvc.db")
    pool = WorkerPool(CompressConfig(workers=1), function=function)
    await pool.start()
    monitor = HealthMonitor(database, pool, has_free_space=lambda: not (folder / "full").exists())
    watching = asyncio.create_task(monitor.watch())
    try:
        yield monitor
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await pool.close(0)
        await database.close()


async def test_service_is_ready_only_in_running_state(tmp_path: Path) -> None:
    async with open_monitor(tmp_path) as monitor:
        assert not monitor.health().ready
        monitor.state = ServiceState.RUNNING
        assert monitor.health().ready
        assert monitor.health().reasons == ()
        monitor.state = ServiceState.STOPPING
        assert not monitor.health().ready


async def test_service_is_not_ready_while_disk_is_full(tmp_path: Path) -> None:
    async with open_monitor(tmp_path) as monitor:
        monitor.state = ServiceState.RUNNING
        (tmp_path / "full").touch()
        assert monitor.health().reasons == ("the disk is full",)
        assert not monitor.health().ready
        (tmp_path / "full").unlink()
        assert monitor.health().ready


async def test_service_is_not_ready_while_database_accepts_no_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(module, "WRITE_PROBE_SECONDS", 0.01)
    monkeypatch.setattr(module, "WRITE_TIMEOUT_SECONDS", 0.5)
    async with open_monitor(tmp_path) as monitor:
        monitor.state = ServiceState.RUNNING
        await wait_until(lambda: monitor.health().ready, "a first write")
        lock = sqlite3.connect(tmp_path / "imgsvc.db", isolation_level=None, timeout=20)
        lock.execute("BEGIN IMMEDIATE")
        await wait_until(lambda: not monitor.health().ready, "the monitor to detect it")
        assert "no write" in monitor.health().reasons[0]
        lock.execute("ROLLBACK")
        lock.close()
        await wait_until(lambda: monitor.health().ready, "writes again")
    assert caplog.text.count("accepts no writes") == 1


async def test_service_is_not_ready_if_no_worker_starts(tmp_path: Path) -> None:
    async with open_monitor(tmp_path, function="tests.faulty_worker:missing_function") as monitor:
        monitor.state = ServiceState.RUNNING
        await wait_until(lambda: not monitor.health().ready, "the failed start to be detected")
        assert monitor.health().reasons == ("no worker process can be started",)
