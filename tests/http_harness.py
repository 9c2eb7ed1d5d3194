"""An HTTP server on a real service without its scheduler: tests complete or fail images by hand."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDictProxy

from imgsvc.config import Config
from imgsvc.database.connection import Database
from imgsvc.database.job_store import JobStore
from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import ImageInfo
from imgsvc.models import Claim, Completed, Failed
from imgsvc.processing.health import ServiceState
from imgsvc.service import DATABASE, Service
from imgsvc.web.app import create_app
from imgsvc.web.http.server import Runner
from tests.service_process import table

ROWS = ((1, "Lamp, desk", ["http://a.example/w_1,h_1/1.jpg", "http://b.example/2.jpg"], "red"),)
HEADER = ("S. No.", "Product Name", "Input Image Urls", "Colour")


def csv_body(rows: Sequence[Sequence[object]] = ROWS) -> bytes:
    """Return a CSV with the columns `HEADER`."""
    return table(rows, HEADER)


@dataclass(frozen=True)
class HttpResponse:
    """A response that has been read completely."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> Any:
        """Return the body after checking that it is a problem report."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        problem = self.json()
        assert problem["status"] == self.status
        assert {"type", "title", "detail"} <= problem.keys()
        return problem


class HttpHarness:
    """A service, the URL it listens on, and a client session."""

    def __init__(self, service: Service, port: int, session: aiohttp.ClientSession) -> None:
        self.service = service
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._session = session
        self.job_store: JobStore = service._job_store

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        if isinstance(body, bytes):
            body = io.BytesIO(body)
        async with self._session.request(
            method, self.url + path, data=body, headers=headers, allow_redirects=False
        ) as response:
            return HttpResponse(response.status, response.headers, await response.read())

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
        return await self.call("GET", path, headers=headers)

    async def post(
        self, path: str, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        return await self.call("POST", path, body, headers)

    async def upload(self, rows: Sequence[Sequence[object]] = ROWS, query: str = "") -> str:
        """Upload valid rows and return the request's ID."""
        response = await self.post(
            f"/processImages{query}", csv_body(rows), {"Content-Type": "text/csv"}
        )
        assert response.status == 201, response.body
        return str(response.json()["requestId"])

    async def claim(self, limit: int = 1_000) -> list[Claim]:
        return await self.job_store.claim(limit, lambda _: limit, time.time())

    async def complete(self, claims: Sequence[Claim], data: bytes = b"x" * 400) -> None:
        """Store an output of these bytes for each claim, as a job does."""
        info = ImageInfo(1_000, len(data), 30, 20, "jpeg", "jpeg", 90, 45, kept=False)
        outcomes = []
        for claim in claims:
            digest = f"{claim.request_key} {claim.numbers[0]}".encode()
            token = await self.service._token_store.reserve(claim, digest)
            await self.service.store.put(f"{token}.jpg", data)
            outcomes.append(Completed(claim, digest, info))
        result = await self.job_store.finish(outcomes)
        self.service.events.mark_changed(result.changed_requests)

    async def fail(self, claims: Sequence[Claim], message: str = "404 Not Found") -> None:
        """Fail each claim with an `http_status` error."""
        outcomes = [Failed(claim, 1, ImageErrorCode.HTTP_STATUS, message) for claim in claims]
        result = await self.job_store.finish(outcomes)
        self.service.events.mark_changed(result.changed_requests)

    async def raw(self, *chunks: bytes) -> bytes:
        """Send raw bytes and return everything received until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def open_http(folder: Path, **sections: Mapping[str, object]) -> AsyncIterator[HttpHarness]:
    """Run a server with these settings, e.g. `open_http(tmp_path, server={"api_keys": ["k"]})`."""
    settings: dict[str, Any] = {
        "storage": {"data_dir": folder / "data", "min_free_bytes": 0},
        "compress": {"workers": 1},
    }
    for section, keys in sections.items():
        settings[section] = {**settings.get(section, {}), **keys}
    config = Config.model_validate(settings)
    config.storage.data_dir.mkdir(exist_ok=True)
    database = await Database.open(config.storage.data_dir / DATABASE)
    service = Service(config, database)
    coroutines = (service.events.publish(), service.monitor.watch())
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    service.monitor.state = ServiceState.RUNNING
    runner = Runner(create_app(service.app_context), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(
            auto_decompress=False, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            yield HttpHarness(service, runner.addresses[0][1], session)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await service.stop()
        await runner.cleanup()
        await service.close()
        await database.close()
