"""Tests of the readiness of the service."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.config import CompressConfig, FetchConfig
from imgsvc.database import connection
from imgsvc.database.connection import Database
from imgsvc.execution.local import LocalExecutor
from imgsvc.metrics import Metrics
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from imgsvc.processing.health import HealthMonitor, ServiceState
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.workers.pool import WorkerPool
from tests.harness.service import SwitchableDisk
from tests.waiting import wait_until


@pytest.fixture
def disk(tmp_path: Path) -> SwitchableDisk:
    return SwitchableDisk(tmp_path)


@asynccontextmanager
async def open_monitor(
    folder: Path,
    disk: SwitchableDisk,
    *,
    function: str = "tests.faulty_worker:compress",
    probe_seconds: float = 2.0,
    timeout_seconds: float = 5.0,
) -> AsyncIterator[HealthMonitor]:
    """Monitor a database and an executor of one worker."""
    database = await Database.open(folder / "imgsvc.db")
    config, metrics = FetchConfig(), Metrics()
    session = open_session(config, AddressRules(config.allowed_networks))
    pool = WorkerPool(CompressConfig(workers=1), function=function)
    fetcher, store = Fetcher(session, config, ByteBudget(1)), FilesystemStore(folder, disk)
    executor = LocalExecutor(fetcher, pool, store, metrics)
    await executor.start()
    monitor = HealthMonitor(
        database,
        executor,
        disk,
        probe_seconds=probe_seconds,
        timeout_seconds=timeout_seconds,
    )
    watching = asyncio.create_task(monitor.watch())
    try:
        yield monitor
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await executor.close(0)
        await session.close()
        await store.close()
        await database.close()


async def test_service_is_ready_only_in_running_state(tmp_path: Path, disk: SwitchableDisk) -> None:
    async with open_monitor(tmp_path, disk) as monitor:
        assert not monitor.health().ready
        monitor.state = ServiceState.RUNNING
        assert monitor.health().ready
        assert monitor.health().reasons == ()
        monitor.state = ServiceState.STOPPING
        assert not monitor.health().ready


async def test_service_is_not_ready_while_disk_is_full(
    tmp_path: Path, disk: SwitchableDisk
) -> None:
    async with open_monitor(tmp_path, disk) as monitor:
        monitor.state = ServiceState.RUNNING
        disk.full = True
        assert monitor.health().reasons == ("the disk is full",)
        assert not monitor.health().ready
        disk.full = False
        assert monitor.health().ready


async def test_service_is_not_ready_while_database_accepts_no_writes(
    tmp_path: Path,
    disk: SwitchableDisk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    async with open_monitor(tmp_path, disk, probe_seconds=0.01, timeout_seconds=0.5) as monitor:
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


async def test_service_is_not_ready_if_no_worker_starts(
    tmp_path: Path, disk: SwitchableDisk
) -> None:
    async with open_monitor(
        tmp_path, disk, function="tests.faulty_worker:missing_function"
    ) as monitor:
        monitor.state = ServiceState.RUNNING
        await wait_until(lambda: not monitor.health().ready, "the failed start to be detected")
        assert monitor.health().reasons == ("no worker process can be started",)
