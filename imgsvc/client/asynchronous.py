"""The client for asyncio."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self, Unpack, cast
from urllib.parse import quote

import aiohttp
from pydantic.alias_generators import to_camel

from imgsvc.atomic_write import atomic_write
from imgsvc.client.types import (
    AcceptedRequest,
    CheckedFile,
    DownloadArguments,
    ListedRequest,
    RepeatArguments,
    RequestPage,
    Status,
    StatusProduct,
    UploadArguments,
)
from imgsvc.errors import file_error_lines

TableSource = str | Path | bytes | BinaryIO
"""A table to upload: the path of a file, its bytes, or an open file."""

_LONG_POLL_SECONDS = 30
"""Maximum time that one status call waits for a change."""
_RECONNECT_SECONDS = 120
"""How long `watch` retries if the service stops responding, for example while it restarts."""
_PAGE_SIZE = 1_000


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


class AsyncClient:
    """Client of one service: `async with AsyncClient("http://127.0.0.1:8080") as client`."""

    def __init__(self, server: str, api_key: str | None = None) -> None:
        self._server = server.rstrip("/")
        # Not Authorization: a proxy may use that header (https://user:word@images.example).
        headers = {"X-API-Key": api_key} if api_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def upload(
        self, table: TableSource, **options: Unpack[UploadArguments]
    ) -> AcceptedRequest:
        """Upload a table, and return the new request. Its `name` is by default that of the file."""
        return cast("AcceptedRequest", await self._upload(table, options))

    async def check(self, table: TableSource, **options: Unpack[UploadArguments]) -> CheckedFile:
        """Return how a table would be read. Nothing is stored."""
        return cast("CheckedFile", await self._upload(table, {**options, "dry_run": True}))

    async def _upload(self, table: TableSource, options: Mapping[str, object]) -> object:
        if isinstance(table, str | Path):
            path = Path(table)
            printable = "".join(filter(str.isprintable, path.name)).strip()
            with await asyncio.to_thread(path.open, "rb") as file:
                return await self._upload(file, {"name": printable[:200], **options})
        headers = {"Content-Type": "application/octet-stream"}
        return await self._json("POST", "/processImages", options, data=table, headers=headers)

    async def status(
        self, request_id: str, *, products: bool = False, offset: int = 0, limit: int | None = None
    ) -> Status:
        """Return the status of a request. `products`: with one page of its products.

        The page begins at `offset`, and has at most `limit` products: by default 100, at most 1,000.
        """
        page = {"offset": offset, "limit": limit} if products else {}
        query = {"format": "json", "products": products, **page}
        return cast("Status", await self._json("GET", _path("checkStatus", request_id), query))

    async def products(
        self, request_id: str, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[StatusProduct]:
        """Yield the products of a request with their images, from `offset` on, at most `limit`."""
        end = None if limit is None else offset + limit
        while end is None or offset < end:
            size = _PAGE_SIZE if end is None else min(_PAGE_SIZE, end - offset)
            query = {"format": "json", "offset": offset, "limit": size}
            page = await self._json("GET", _path("checkStatus", request_id), query)
            products = cast("Status", page)["products"]
            for product in products:
                yield product
            offset += len(products)
            if len(products) < size:
                return

    async def watch(self, request_id: str) -> AsyncIterator[Status]:
        """Yield the status of a request: now, and after each change until it has finished.

        If the service does not respond for a while, for example while it restarts, keep trying.
        """
        query = {"format": "json", "products": False, "wait": _LONG_POLL_SECONDS}
        headers = {"If-None-Match": '"none"'}
        last_response = 0.0
        while True:
            try:
                async with self._request(
                    "GET", _path("checkStatus", request_id), query, headers=headers
                ) as response:
                    last_response = time.monotonic()
                    if response.status == 304:
                        continue
                    status: Status = await response.json()
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

    async def wait(self, request_id: str) -> Status:
        """Wait until a request has finished, and return its status."""
        async for status in self.watch(request_id):
            if status["finishedAt"] is not None:
                return status
        raise ServiceError(f"Request {request_id} has no end.")

    async def requests(
        self, *, status: str | None = None, name: str | None = None
    ) -> AsyncIterator[ListedRequest]:
        """Yield requests, newest first: all, or those with a status or with a text in their names."""
        cursor = None
        while True:
            page = await self.request_page(status=status, name=name, cursor=cursor)
            for request in page["requests"]:
                yield request
            if (cursor := page["nextCursor"]) is None:
                return

    async def request_page(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> RequestPage:
        """Return one page of requests, newest first, and the totals of all requests."""
        query = {"status": status, "name": name, "limit": limit, "cursor": cursor}
        return cast("RequestPage", await self._json("GET", "/listRequests", query))

    async def cancel(self, request_id: str, host: str | None = None) -> Status:
        """Cancel what a request has not finished, or only the images of one host."""
        query = {"host": host}
        return cast("Status", await self._json("POST", _path("cancelRequest", request_id), query))

    async def retry(self, request_id: str, *, include_cancelled: bool = False) -> Status:
        """Try the failed images of a request again. `include_cancelled`: also the cancelled ones."""
        query = {"include": "cancelled" if include_cancelled else None}
        return cast("Status", await self._json("POST", _path("retryFailed", request_id), query))

    async def repeat(self, request_id: str, **options: Unpack[RepeatArguments]) -> AcceptedRequest:
        """Process the rows of a request again, as a new request. Its other options are kept."""
        path = _path("repeatRequest", request_id)
        return cast("AcceptedRequest", await self._json("POST", path, options))

    async def delete(self, request_id: str) -> None:
        """Delete a request, and the stored images that no other request uses."""
        async with self._request("DELETE", _path("deleteRequest", request_id)):
            pass

    async def download_table(
        self,
        request_id: str,
        to: str | Path | None = None,
        **options: Unpack[DownloadArguments],
    ) -> Path:
        """Save the table with the output URLs, and return its path.

        `to` None: the name that the service suggests, in the working directory. An existing file is
        replaced when the download is complete. The format is that of the name: `.xlsx`, or else CSV.
        """
        path = None if to is None else Path(to)
        if "format" not in options:
            is_xlsx = path is not None and path.suffix.lower() == ".xlsx"
            options["format"] = "xlsx" if is_xlsx else "csv"
        return await self._save(_path("checkStatus", request_id), path, options)

    async def download_images(self, request_id: str, to: str | Path | None = None) -> Path:
        """Save all outputs of a request as a ZIP, and return its path. `to`: see `download_table`."""
        path = None if to is None else Path(to)
        return await self._save(_path("downloadImages", request_id), path)

    async def get(self, path: str) -> bytes:
        """Return the body of `GET path`. It is read into memory: use this only for small bodies."""
        async with self._request("GET", path) as response:
            return await response.read()

    async def _save(
        self, path: str, to: Path | None, options: Mapping[str, object] | None = None
    ) -> Path:
        async with self._request("GET", path, options) as response:
            target = to or Path(_suggested_name(response))
            with atomic_write(target) as partial, partial.open("wb") as file:
                async for chunk in response.content.iter_chunked(2**16):
                    file.write(chunk)
        return target

    async def _json(
        self,
        method: str,
        path: str,
        options: Mapping[str, object] | None = None,
        *,
        data: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> object:
        async with self._request(method, path, options, data=data, headers=headers) as response:
            return await response.json()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        options: Mapping[str, object] | None = None,
        *,
        data: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._server + path
        params = list(_query(options or {}))
        try:
            async with self._session.request(
                method, url, params=params, data=data, headers=headers, allow_redirects=False
            ) as response:
                if response.status not in {200, 201, 202, 204, 304}:
                    raise _error_from_response(url, response, await response.read())
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            # The message of a connector error contains an address family and a TLS context.
            reason = error.strerror if isinstance(error, aiohttp.ClientConnectorError) else error
            raise ServiceError(f"Cannot reach {self._server}: {reason or 'timed out'}.") from error


def _path(route: str, request_id: str) -> str:
    return f"/{route}/{quote(request_id, safe='')}"


def _query(options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the options that are set as the API writes them. A sequence is a repeated option."""
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        for each in values:
            if each is not None:
                yield to_camel(name), str(each).lower() if isinstance(each, bool) else str(each)


def _suggested_name(response: aiohttp.ClientResponse) -> str:
    """Return the name that the response suggests for its file, without a folder."""
    disposition = response.content_disposition
    name = Path((disposition and disposition.filename) or "").name
    return name.lstrip(".") or "download"


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
