"""The client for programs without asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self, TypeVar, Unpack

from imgsvc.client.asynchronous import AsyncClient, TableSource
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

ValueT = TypeVar("ValueT")


class Client:
    """Client of one service: `with Client("http://127.0.0.1:8080") as client`.

    Its methods are those of `AsyncClient`, which describes them. It cannot be used in asyncio's loop.
    """

    def __init__(self, server: str, api_key: str | None = None) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(_create_client(server, api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._runner.run(self._client.close())
        self._runner.close()

    def upload(self, table: TableSource, **options: Unpack[UploadArguments]) -> AcceptedRequest:
        """Upload a table, and return the new request."""
        return self._runner.run(self._client.upload(table, **options))

    def check(self, table: TableSource, **options: Unpack[UploadArguments]) -> CheckedFile:
        """Return how a table would be read. Nothing is stored."""
        return self._runner.run(self._client.check(table, **options))

    def status(
        self, request_id: str, *, products: bool = False, offset: int = 0, limit: int | None = None
    ) -> Status:
        """Return the status of a request. `products`: with one page of its products."""
        found = self._client.status(request_id, products=products, offset=offset, limit=limit)
        return self._runner.run(found)

    def products(
        self, request_id: str, offset: int = 0, limit: int | None = None
    ) -> Iterator[StatusProduct]:
        """Yield the products of a request with their images, from `offset` on, at most `limit`."""
        return self._iterate(self._client.products(request_id, offset, limit))

    def watch(self, request_id: str) -> Iterator[Status]:
        """Yield the status of a request: now, and after each change until it has finished."""
        return self._iterate(self._client.watch(request_id))

    def wait(self, request_id: str) -> Status:
        """Wait until a request has finished, and return its status."""
        return self._runner.run(self._client.wait(request_id))

    def requests(
        self, *, status: str | None = None, name: str | None = None
    ) -> Iterator[ListedRequest]:
        """Yield requests, newest first: all, or those with a status or with a text in their names."""
        return self._iterate(self._client.requests(status=status, name=name))

    def request_page(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> RequestPage:
        """Return one page of requests, newest first, and the totals of all requests."""
        page = self._client.request_page(status=status, name=name, limit=limit, cursor=cursor)
        return self._runner.run(page)

    def cancel(self, request_id: str, host: str | None = None) -> Status:
        """Cancel what a request has not finished, or only the images of one host."""
        return self._runner.run(self._client.cancel(request_id, host))

    def retry(self, request_id: str, *, include_cancelled: bool = False) -> Status:
        """Try the failed images of a request again. `include_cancelled`: also the cancelled ones."""
        return self._runner.run(self._client.retry(request_id, include_cancelled=include_cancelled))

    def repeat(self, request_id: str, **options: Unpack[RepeatArguments]) -> AcceptedRequest:
        """Process the rows of a request again, as a new request. Its other options are kept."""
        return self._runner.run(self._client.repeat(request_id, **options))

    def delete(self, request_id: str) -> None:
        """Delete a request, and the stored images that no other request uses."""
        self._runner.run(self._client.delete(request_id))

    def download_table(
        self,
        request_id: str,
        to: str | Path | None = None,
        **options: Unpack[DownloadArguments],
    ) -> Path:
        """Save the table with the output URLs, and return its path."""
        return self._runner.run(self._client.download_table(request_id, to, **options))

    def download_images(self, request_id: str, to: str | Path | None = None) -> Path:
        """Save all outputs of a request as a ZIP, and return its path."""
        return self._runner.run(self._client.download_images(request_id, to))

    def get(self, path: str) -> bytes:
        """Return the body of `GET path`."""
        return self._runner.run(self._client.get(path))

    def _iterate(self, values: AsyncIterator[ValueT]) -> Iterator[ValueT]:
        while (value := self._runner.run(_next(values))) is not None:
            yield value


async def _create_client(server: str, api_key: str | None) -> AsyncClient:
    return AsyncClient(server, api_key)


async def _next(values: AsyncIterator[ValueT]) -> ValueT | None:
    return await anext(values, None)
