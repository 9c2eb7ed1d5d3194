"""A client of the service's own HTTP API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote

import aiohttp

_WAIT_SECONDS = 30
_PATIENCE_SECONDS = 120
"""How long a service that was there may be away, restarting for example, before a wait gives up."""


class ServiceError(Exception):
    """The service refused a call, or could not be reached.

    `status` is the answer's (0: there was none) and `problem` its problem report.
    """

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.status = status
        self.problem = problem or {}


class Client:
    """Calls one service: `async with Client("http://127.0.0.1:8080") as client: …`.

    Every method raises `ServiceError`.
    """

    def __init__(self, server: str, api_key: str | None = None) -> None:
        self._server = server.rstrip("/")
        # Not Authorization, which may be a proxy's: https://user:word@images.example
        headers = {"X-API-Key": api_key} if api_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def submit(
        self, table: bytes | BinaryIO, options: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Upload a CSV; return the answer's JSON, `requestId` in it."""
        headers = {"Content-Type": "text/csv"}
        async with self._call(
            "POST", "/processImages", params=options, data=table, headers=headers
        ) as answer:
            return dict(await answer.json())

    async def status(self, request_id: str, **query: str) -> dict[str, Any]:
        """The request's status, without its products unless `query` says otherwise."""
        params = {"format": "json", "products": "false", **query}
        async with self._call(
            "GET", f"/checkStatus/{quote(request_id, safe='')}", params=params
        ) as answer:
            return dict(await answer.json())

    async def watch(self, request_id: str) -> AsyncIterator[dict[str, Any]]:
        """Give the request's status, without products, now and whenever it changes, to its end.

        A service that is away for a while, to restart, is waited for.
        """
        params = {"format": "json", "products": "false", "wait": str(_WAIT_SECONDS)}
        headers: dict[str, str] = {"If-None-Match": '"none"'}
        heard = 0.0
        while True:
            try:
                async with self._call(
                    "GET",
                    f"/checkStatus/{quote(request_id, safe='')}",
                    params=params,
                    headers=headers,
                ) as answer:
                    heard = time.monotonic()
                    if answer.status == 304:
                        continue
                    status = await answer.json()
                    headers = {"If-None-Match": answer.headers["ETag"]}
            except ServiceError as error:
                patient = time.monotonic() - heard < _PATIENCE_SECONDS
                if heard and patient and error.status in {0, 502, 503, 504}:
                    await asyncio.sleep(1)
                    continue
                raise
            yield status
            if status["finishedAt"] is not None:
                return

    async def get(self, path: str) -> bytes:
        """The body of anything small that the service serves."""
        async with self._call("GET", path) as answer:
            return await answer.read()

    async def save_csv(self, request_id: str, out: Path) -> None:
        """Write the request's CSV to `out`, which keeps its old contents until all is there."""
        async with self._call(
            "GET", f"/checkStatus/{quote(request_id, safe='')}", params={"format": "csv"}
        ) as answer:
            partial = out.with_name(f".{out.name}.partial")
            try:
                with partial.open("wb") as file:
                    async for chunk in answer.content.iter_chunked(2**16):
                        file.write(chunk)
                partial.replace(out)
            finally:
                partial.unlink(missing_ok=True)

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._server + path
        try:
            async with self._session.request(
                method, url, params=params, data=data, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status not in {200, 201, 202, 304}:
                    raise _refused(url, answer, await answer.read())
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            # A connector's own words name an address family and a TLS context.
            reason = error.strerror if isinstance(error, aiohttp.ClientConnectorError) else error
            raise ServiceError(
                f"cannot reach {self._server}: {reason or 'it timed out'}"
            ) from error


def _refused(url: str, answer: aiohttp.ClientResponse, body: bytes) -> ServiceError:
    if "Location" in answer.headers:
        return ServiceError(f"{url} has moved to {answer.headers['Location']}", answer.status)
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict) or "title" not in problem:
        return ServiceError(f"{url} answered {answer.status} {answer.reason}", answer.status)
    lines = [". ".join(filter(None, [problem["title"], problem.get("detail")]))]
    # An option's cause is told by the detail as it is.
    lines += [_fault_line(each) for each in problem.get("errors", []) if "option" not in each]
    if (more := problem.get("errorCount", 0) - len(lines) + 1) > 0 and len(lines) > 1:
        lines.append(f"  and {more} more")
    return ServiceError("\n".join(lines), answer.status, problem)


def _fault_line(fault: Mapping[str, Any]) -> str:
    extra_positions = [("row", fault.get("row")), ("column", fault.get("column"))]
    where = ", ".join(f"{name} {value}" for name, value in extra_positions if value is not None)
    return f"  {where or 'the file'}: {fault.get('message')}"
