"""Tests of starting and stopping the service, in this process."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imgsvc.adapters import Replacements
from imgsvc.config import Config
from imgsvc.errors import ProblemCode, ProblemError, StartupError
from imgsvc.image_types import CompressionSettings
from imgsvc.limits import ServiceLimits
from imgsvc.models import Progress, Request, RequestOptions
from imgsvc.processing.health import ServiceState
from imgsvc.service import Service, opened, running
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.upload_types import UploadOptions
from tests.harness.database import NO_LOCK_WAIT, open_database
from tests.harness.service import config_of
from tests.origin import Origin, Reply
from tests.service_process import table
from tests.waiting import wait_until


def config_in(folder: Path, **server: Any) -> Config:
    return config_of(
        folder / "data",
        server={"shutdown_seconds": 20, **server},
        fetch={"allowed_networks": ["127.0.0.0/8"]},
    )


async def upload(service: Service, *urls: str) -> Request:
    async def chunks() -> AsyncIterator[bytes]:
        yield table([(n, "p", url) for n, url in enumerate(urls)])

    options = UploadOptions(RequestOptions(CompressionSettings()))
    request = (await service.intake.upload(chunks(), lambda: options)).request
    assert request is not None
    return request


async def wait_finished(service: Service, request: Request) -> Request:
    async with asyncio.timeout(30):
        await service.events.wait_for_change(request.request_id, None, 1_000)
    return await service.queries.request(request.request_id)


def stored_files(folder: Path) -> set[str]:
    return {p.name for p in (folder / "data" / "outputs").rglob("*") if p.is_file()}


async def test_service_processes_requests_without_listening(tmp_path: Path, origin: Origin) -> None:
    async with running(config_in(tmp_path), listen=False) as service:
        assert service.url == ""
        request = await upload(service, origin.photo(1), origin.script("/x.jpg", Reply(404)))
        finished = await wait_finished(service, request)
        assert finished.progress == Progress(completed=1, failed=1)
        assert len(stored_files(tmp_path)) == 1
        assert service.monitor.health().ready
    assert service.monitor.health().state is ServiceState.STOPPING


async def test_service_listens_at_its_url_until_stopped(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as service, aiohttp.ClientSession() as session:
        async with session.get(f"{service.url}/health/ready") as response:
            assert response.status == 200
        url = service.url
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{url}/health/ready")


async def test_second_service_on_same_folder_does_not_start(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    async with running(config, listen=False) as service:
        with pytest.raises(StartupError):
            async with running(config, listen=False):
                pass
        assert service.monitor.health().ready
    async with running(config, listen=False):
        pass


async def test_start_with_used_port_fails_and_releases_the_folder(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartupError, match="Cannot listen"):
            async with running(config_in(tmp_path, port=taken.getsockname()[1])):
                pass
    async with running(config_in(tmp_path)) as service:
        assert service.monitor.health().ready


async def test_start_recovers_state_of_earlier_process(tmp_path: Path, origin: Origin) -> None:
    (tmp_path / "data").mkdir()
    async with open_database(tmp_path / "data") as db:
        interrupted = await db.accept([[origin.photo(n)] for n in range(3)])
        claims = await db.claim(limit=2)
        cancelled = await db.accept([[origin.script("/c.jpg", Reply(gate="never"))]])
        await db.job_store.start_cancel(cancelled.request_id)
        await db.stage([[origin.photo(9)]])
        token = await db.token_store.reserve(claims[0], b"its digest")
    assert token is not None
    uncommitted = tmp_path / "data" / "outputs" / token[:2] / f"{token}.jpg"
    uncommitted.parent.mkdir(parents=True)
    uncommitted.write_bytes(b"stored but not committed")
    async with running(config_in(tmp_path), listen=False) as service:
        assert (await wait_finished(service, interrupted)).progress == Progress(completed=3)
        assert (await wait_finished(service, cancelled)).progress == Progress(cancelled=1)
        await wait_until(lambda: not uncommitted.exists(), "the leftover to be deleted")
    assert len(stored_files(tmp_path)) == 3
    assert (origin.hits("/c.jpg"), origin.hits("/photo/9.jpg")) == (0, 0)
    async with open_database(tmp_path / "data") as db:
        stages = await db.database.read(
            lambda c: [stage for (stage,) in c.execute("SELECT stage FROM requests")]
        )
        assert "staging" not in stages


async def test_start_waits_while_database_accepts_no_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_in(tmp_path)
    async with running(config, listen=False):
        pass

    async def start_and_stop() -> None:
        limits = ServiceLimits(recovery_retry_seconds=0.02, database=NO_LOCK_WAIT)
        async with running(config, listen=False, limits=limits) as service:
            assert service.monitor.health().ready

    lock = sqlite3.connect(tmp_path / "data" / "imgsvc.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    starting = asyncio.create_task(start_and_stop())
    await wait_until(lambda: "accepts no writes" in caplog.text, "the monitor to detect it")
    assert not starting.done()
    lock.execute("ROLLBACK")
    lock.close()
    await starting


async def test_stop_requeues_downloads_and_next_start_repeats_them(
    tmp_path: Path, origin: Origin
) -> None:
    config = config_in(tmp_path, shutdown_seconds=5)
    async with running(config, listen=False) as service:
        held = origin.script("/held.jpg", Reply(gate="held", photo="/photo/2.jpg"))
        request = await upload(service, held)
        await wait_until(lambda: origin.hits("/held.jpg") == 1, "the download")
    async with open_database(tmp_path / "data") as db:
        snapshot = await db.queries.request(request.request_id)
        assert snapshot.progress == Progress(pending=1), (
            "requeued by the stop, not by the next start"
        )
    origin.open_gate("held")
    async with running(config, listen=False) as service:
        assert (await wait_finished(service, request)).progress == Progress(completed=1)


async def test_stop_ends_uploads_and_watchers(tmp_path: Path, origin: Origin) -> None:
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield table([(n, "p", f"http://a.example/{n}.jpg") for n in range(3_000)])
        reached.set()
        await asyncio.Event().wait()

    options = UploadOptions(RequestOptions(CompressionSettings()))
    async with running(config_in(tmp_path, shutdown_seconds=4), listen=False) as service:
        request = await upload(service, origin.script("/held.jpg", Reply(gate="held")))
        uploading = asyncio.create_task(service.intake.upload(endless(), lambda: options))
        watching = asyncio.create_task(
            service.events.wait_for_change(request.request_id, None, 1_000)
        )
        await reached.wait()
        await wait_until(lambda: service.events.watchers, "the watcher")
    with pytest.raises(ProblemError) as refused:
        await uploading
    assert refused.value.code is ProblemCode.UNAVAILABLE
    await watching


async def test_failed_component_ends_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise LookupError("unexpected")

    async with running(config_in(tmp_path), listen=False) as service:
        service._start_task(fail(), "test")
        async with asyncio.timeout(20):
            await service.ended()
    assert "a component of the service has failed: test" in caplog.text


async def test_start_waits_while_there_are_no_file_descriptors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class BusyStore(FilesystemStore):
        sweeps = 0

        async def sweep(self) -> None:
            self.sweeps += 1
            if self.sweeps < 3:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            await super().sweep()

    config = config_in(tmp_path)
    store = BusyStore(config.storage.data_dir, DiskSpace(config.storage.data_dir, 0))
    limits = ServiceLimits(recovery_retry_seconds=0.02)
    async with opened(config, limits=limits, replacements=Replacements(store=store)) as service:
        await service.start()
        assert service.monitor.health().ready
        await service.stop()
    assert store.sweeps == 3
    assert "lacks file descriptors" in caplog.text
