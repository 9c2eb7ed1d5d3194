"""Client of the HTTP API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote

import aiohttp

from imgsvc.atomic_write import atomic_write
from imgsvc.errors import file_error_lines

_LONG_POLL_SECONDS = 30
"""Maximum time that one status call waits for a change."""
_RECONNECT_SECONDS = 120
"""How long `watch` retries if the service stops responding, for example while it restarts."""


class ServiceError(Exception):
    """The service returned an error, or could not be reached.

    `status` is the HTTP status of the response, or 0 if there was none. `problem` is its problem
    report, or empty.
    """

    def __init__(
        self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem or {}


class Client:
    """Client of one service: `async with Client("http://127.0.0.1:8080") as client: …`.

    All methods raise `ServiceError`.
    """

    def __init__(self, server: str, api_key: str | None = None) -> None:
        self._server = server.rstrip("/")
        # Not Authorization: a proxy may use that header (https://user:word@images.example).
        headers = {"X-API-Key": api_key} if api_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(
        self, table: bytes | BinaryIO, options: Sequence[tuple[str, str]] = ()
    ) -> dict[str, Any]:
        """Upload a CSV, and return the JSON of the response, which contains `requestId`."""
        headers = {"Content-Type": "text/csv"}
        async with self._request(
            "POST", "/processImages", params=list(options), data=table, headers=headers
        ) as response:
            return dict(await response.json())

    async def repeat(
        self, request_id: str, options: Sequence[tuple[str, str]] = ()
    ) -> dict[str, Any]:
        """Repeat a request, and return the JSON of the response, which contains `requestId`."""
        path = f"/repeatRequest/{quote(request_id, safe='')}"
        async with self._request("POST", path, params=list(options)) as response:
            return dict(await response.json())

    async def status(self, request_id: str, **query: str) -> dict[str, Any]:
        """Return the request's status. It has no products unless `query` asks for them."""
        params = {"format": "json", "products": "false", **query}
        async with self._request(
            "GET", f"/checkStatus/{quote(request_id, safe='')}", params=params
        ) as response:
            return dict(await response.json())

    async def watch(self, request_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the request's status without products: now, and after each change until it finishes.

        If the service does not respond for a while, for example while it restarts, keep trying.
        """
        params = {"format": "json", "products": "false", "wait": str(_LONG_POLL_SECONDS)}
        headers: dict[str, str] = {"If-None-Match": '"none"'}
        last_response = 0.0
        while True:
            try:
                async with self._request(
                    "GET",
                    f"/checkStatus/{quote(request_id, safe='')}",
                    params=params,
                    headers=headers,
                ) as response:
                    last_response = time.monotonic()
                    if response.status == 304:
                        continue
                    status = await response.json()
                    headers = {"If-None-Match": response.headers["ETag"]}
            except ServiceError as error:
                retry = time.monotonic() - last_response < _RECONNECT_SECONDS
                if last_response and retry and error.status in {0, 502, 503, 504}:
                    await asyncio.sleep(1)
                    continue
                raise
            yield status
            if status["finishedAt"] is not None:
                return

    async def get(self, path: str) -> bytes:
        """Return the body of `GET path`. It is read into memory: use this only for small bodies."""
        async with self._request("GET", path) as response:
            return await response.read()

    async def save_csv(
        self, request_id: str, out: Path, options: Sequence[tuple[str, str]] = (("format", "csv"),)
    ) -> None:
        """Write the request's CSV to `out`. An existing file is replaced after the whole download."""
        async with self._request(
            "GET", f"/checkStatus/{quote(request_id, safe='')}", params=list(options)
        ) as response:
            with atomic_write(out) as partial, partial.open("wb") as file:
                async for chunk in response.content.iter_chunked(2**16):
                    file.write(chunk)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        data: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._server + path
        try:
            async with self._session.request(
                method, url, params=params, data=data, headers=headers, allow_redirects=False
            ) as response:
                if response.status not in {200, 201, 202, 304}:
                    raise _error_from_response(url, response, await response.read())
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            # The message of a connector error contains an address family and a TLS context.
            reason = error.strerror if isinstance(error, aiohttp.ClientConnectorError) else error
            raise ServiceError(f"Cannot reach {self._server}: {reason or 'timed out'}.") from error


def _error_from_response(url: str, response: aiohttp.ClientResponse, body: bytes) -> ServiceError:
    if "Location" in response.headers:
        return ServiceError(f"{url} redirects to {response.headers['Location']}.", response.status)
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict) or "title" not in problem:
        return ServiceError(f"{url} returned {response.status} {response.reason}.", response.status)
    lines = [". ".join(filter(None, [problem["title"], problem.get("detail")]))]
    # The detail already contains the errors of options.
    errors = [
        (error.get("row"), error.get("column"), str(error.get("message")))
        for error in problem.get("errors", [])
        if "option" not in error
    ]
    lines += file_error_lines(errors, problem.get("errorCount", 0))
    return ServiceError("\n".join(lines), response.status, problem)
