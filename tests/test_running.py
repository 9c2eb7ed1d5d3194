"""The service in this process: built in order, taken down in reverse, and taken up again."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imgsvc import service as module
from imgsvc.config import Config
from imgsvc.database import connection
from imgsvc.errors import ProblemCode, ProblemError, StartupError
from imgsvc.image_types import CompressionSettings
from imgsvc.intake import UploadOptions
from imgsvc.models import Progress, Request, RequestOptions
from imgsvc.processing.health import ServiceState
from imgsvc.service import Service, running
from tests.database_harness import open_database
from tests.origin import Origin, Reply
from tests.service_process import table
from tests.waiting import wait_until


def config_in(folder: Path, **server: Any) -> Config:
    return Config.model_validate(
        {
            "server": {"port": 0, "shutdown_seconds": 20, **server},
            "storage": {"data_dir": folder / "data", "min_free_bytes": 0},
            "fetch": {"allowed_networks": ["127.0.0.0/8"]},
            "compress": {"workers": 1},
        }
    )


async def upload(service: Service, *urls: str) -> Request:
    async def chunks() -> AsyncIterator[bytes]:
        yield table([(n, "p", url) for n, url in enumerate(urls)])

    given = UploadOptions(RequestOptions(CompressionSettings()))
    request = (await service.intake.upload(chunks(), lambda: given)).request
    assert request is not None
    return request


async def done(service: Service, request: Request) -> Request:
    async with asyncio.timeout(30):
        await service.events.changed(request.request_id, None, 1_000)
    return await service.snapshots.request(request.request_id)


def stored(folder: Path) -> set[str]:
    return {p.name for p in (folder / "data" / "outputs").rglob("*") if p.is_file()}


async def test_without_listening_it_does_all_its_work(tmp_path: Path, origin: Origin) -> None:
    async with running(config_in(tmp_path), listen=False) as service:
        assert service.url == ""
        request = await upload(service, origin.photo(1), origin.script("/x.jpg", Reply(404)))
        ended = await done(service, request)
        assert ended.progress == Progress(completed=1, failed=1)
        assert len(stored(tmp_path)) == 1
        assert service.monitor.health().ready
    assert service.monitor.health().state is ServiceState.STOPPING


async def test_it_listens_and_says_where(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as service, aiohttp.ClientSession() as session:
        async with session.get(f"{service.url}/health/ready") as answer:
            assert answer.status == 200
        url = service.url
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{url}/health/ready")


async def test_a_folder_is_one_services_at_a_time(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    async with running(config, listen=False) as service:
        with pytest.raises(StartupError):
            async with running(config, listen=False):
                pass
        assert service.monitor.health().ready
    async with running(config, listen=False):
        pass


async def test_a_port_that_is_taken_stops_the_start_and_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartupError, match="cannot listen"):
            async with running(config_in(tmp_path, port=taken.getsockname()[1])):
                pass
    async with running(config_in(tmp_path)) as service:
        assert service.monitor.health().ready


async def test_a_start_takes_up_what_an_earlier_process_left(
    tmp_path: Path, origin: Origin
) -> None:
    (tmp_path / "data").mkdir()
    async with open_database(tmp_path / "data") as db:
        left = await db.accept([[origin.photo(n)] for n in range(3)])
        claims = await db.claim(limit=2)
        cancelled = await db.accept([[origin.script("/c.jpg", Reply(gate="never"))]])
        await db.work.start_cancel(cancelled.request_id)
        await db.stage([[origin.photo(9)]])
    lost = tmp_path / "data" / "outputs" / claims[0].token[:2] / f"{claims[0].token}.jpg"
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"stored, but its commit was never made")
    async with running(config_in(tmp_path), listen=False) as service:
        assert (await done(service, left)).progress == Progress(completed=3)
        assert (await done(service, cancelled)).progress == Progress(cancelled=1)
    assert not lost.exists()
    assert len(stored(tmp_path)) == 3
    assert (origin.hits("/c.jpg"), origin.hits("/photo/9.jpg")) == (0, 0)
    async with open_database(tmp_path / "data") as db:
        stages = await db.database.read(
            lambda c: [stage for (stage,) in c.execute("SELECT stage FROM requests")]
        )
        assert "staging" not in stages


async def test_a_start_waits_for_a_database_that_takes_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(module, "RECOVERY_SECONDS", 0.02)
    config = config_in(tmp_path)
    async with running(config, listen=False):
        pass

    async def start_and_stop() -> None:
        async with running(config, listen=False) as service:
            assert service.monitor.health().ready

    other = sqlite3.connect(tmp_path / "data" / "imgsvc.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    starting = asyncio.create_task(start_and_stop())
    await wait_until(lambda: "takes no write" in caplog.text, "it to be noticed")
    assert not starting.done()
    other.execute("ROLLBACK")
    other.close()
    await starting


async def test_a_stop_puts_back_downloads_and_the_next_start_makes_them(
    tmp_path: Path, origin: Origin
) -> None:
    config = config_in(tmp_path, shutdown_seconds=5)
    async with running(config, listen=False) as service:
        held = origin.script("/held.jpg", Reply(gate="held", photo="/photo/2.jpg"))
        request = await upload(service, held)
        await wait_until(lambda: origin.hits("/held.jpg") == 1, "the download")
    async with open_database(tmp_path / "data") as db:
        shown = await db.snapshots.request(request.request_id)
        assert shown.progress == Progress(pending=1), "put back by the stop, not by the next start"
    origin.open_gate("held")
    async with running(config, listen=False) as service:
        assert (await done(service, request)).progress == Progress(completed=1)


async def test_a_stop_ends_uploads_and_watchers(tmp_path: Path, origin: Origin) -> None:
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield table([(n, "p", f"http://a.example/{n}.jpg") for n in range(3_000)])
        reached.set()
        await asyncio.Event().wait()

    given = UploadOptions(RequestOptions(CompressionSettings()))
    async with running(config_in(tmp_path, shutdown_seconds=4), listen=False) as service:
        request = await upload(service, origin.script("/held.jpg", Reply(gate="held")))
        uploading = asyncio.create_task(service.intake.upload(endless(), lambda: given))
        watching = asyncio.create_task(service.events.changed(request.request_id, None, 1_000))
        await reached.wait()
        await wait_until(lambda: service.events.watchers, "the watcher")
    with pytest.raises(ProblemError) as refused:
        await uploading
    assert refused.value.code is ProblemCode.UNAVAILABLE
    await watching


async def test_a_part_that_fails_ends_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise LookupError("nobody thought of this")

    async with running(config_in(tmp_path), listen=False) as service:
        service._own(fail(), "a part")
        async with asyncio.timeout(20):
            await service.ended()
    assert "a part of the service has failed: a part" in caplog.text
