"""The service with its HTTP server, without its scheduler: tests complete or fail images by hand."""

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
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDictProxy

from imgsvc.adapters import Replacements
from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import ImageInfo
from imgsvc.limits import ServiceLimits
from imgsvc.models import Claim, Completed, Failed
from imgsvc.processing.health import ServiceState
from imgsvc.service import Service
from tests.harness.service import background, config_of, open_service
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
        code = problem["type"].removeprefix("urn:imgsvc:problem:")
        assert problem["help"].endswith(f"/docs#errors-{code}")
        return problem


class HttpHarness:
    """A service, the URL it listens on, and a client session."""

    def __init__(self, service: Service, session: aiohttp.ClientSession) -> None:
        self.service = service
        self.url = service.url
        self.port = urlsplit(service.url).port
        self.job_store = service.stores.job_store
        self._session = session

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

    @asynccontextmanager
    async def open(self, method: str, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send an API call, and yield the response before its body is read."""
        async with self._session.request(method, self.url + path) as response:
            yield response

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
            token = await self.service.stores.token_store.reserve(claim, digest)
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
async def open_http(
    folder: Path,
    *,
    limits: ServiceLimits = ServiceLimits(),
    replacements: Replacements = Replacements(),
    **sections: Mapping[str, object],
) -> AsyncIterator[HttpHarness]:
    """Run a server with these settings, e.g. `open_http(tmp_path, server={"public_url": "…"})`."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        open_service(
            config_of(folder / "data", **sections), limits=limits, replacements=replacements
        ) as service,
        service.listening(),
        background(service.events.publish(), service.monitor.watch()),
        aiohttp.ClientSession(
            auto_decompress=False, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
    ):
        service.monitor.state = ServiceState.RUNNING
        try:
            yield HttpHarness(service, session)
        finally:
            await service.stop()
