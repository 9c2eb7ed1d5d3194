"""Tests of the readiness of the service."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.adapters import Replacements
from imgsvc.limits import ServiceLimits
from imgsvc.processing.health import HealthLimits, HealthMonitor, ServiceState
from tests.harness.database import NO_LOCK_WAIT
from tests.harness.service import SwitchableDisk, background, config_of, open_service
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
    limits: ServiceLimits = ServiceLimits(),
) -> AsyncIterator[HealthMonitor]:
    """Monitor a service of which only the executor is started, with one worker."""
    replacements = Replacements(disk_space=disk, compress_function=function, confined=False)
    async with open_service(config_of(folder), limits=limits, replacements=replacements) as service:
        await service.executor.start()
        try:
            async with background(service.monitor.watch()):
                yield service.monitor
        finally:
            await service.executor.close(0)


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
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = ServiceLimits(health=HealthLimits(0.01, 0.5), database=NO_LOCK_WAIT)
    async with open_monitor(tmp_path, disk, limits=limits) as monitor:
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
        assert monitor.health().reasons == ("no worker process is running",)
