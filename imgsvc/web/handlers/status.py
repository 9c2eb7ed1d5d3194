"""The Status API: `GET /checkStatus/{requestId}`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence

from aiohttp import web

from imgsvc import __version__
from imgsvc.config import Config
from imgsvc.database.queries import Queries, Snapshot
from imgsvc.models import ProductRow, Request
from imgsvc.processing.events import Events
from imgsvc.serializers import (
    Json,
    csv_header,
    csv_rows,
    eta_seconds,
    failed_rows,
    product_json,
    reused_json,
    status_json,
)
from imgsvc.storage.scratch import Scratch
from imgsvc.table.writer import encode_rows
from imgsvc.web.http.conditional import etag_matches, negotiate_format
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.http.spool import Spool, write_chunk
from imgsvc.web.schema import options
from imgsvc.web.schema.options import StatusFormat, StatusQuery
from imgsvc.web.schema.responses import json_response

PAGE_ROWS = 500
"""Number of rows that are read from the database at once."""
SLICE_IMAGES = 500
"""Number of images that are rendered without a pause. Takes some milliseconds."""
MAX_POLL_SECONDS = 30
"""Maximum of the `Retry-After` header."""
_BOM = "\ufeff".encode()


class StatusHandler:
    """Returns the status of a request as CSV or JSON, each response from one database snapshot.

    Responses that can be large are spooled first, so that a slow client keeps no snapshot open.
    """

    def __init__(
        self,
        config: Config,
        queries: Queries,
        events: Events,
        scratch: Scratch,
        origin_policy: OriginPolicy,
    ) -> None:
        self._retention_days = config.storage.retention_days
        self._queries = queries
        self._events = events
        self._scratch = scratch
        self._origin_policy = origin_policy

    async def check_status(self, request: web.Request) -> web.StreamResponse:
        """`GET /checkStatus/{requestId}`"""
        query = options.parse_query(StatusQuery, request)
        accept = ",".join(request.headers.getall("Accept", []))
        status_format = query.format or negotiate_format(accept)
        variant = self._variant(status_format, query, request)
        request_id = request.match_info["requestId"]
        current = await self._queries.request(request_id)
        if_none_match = ",".join(request.headers.getall("If-None-Match", []))
        if query.wait and current.finished_at is None:
            current = await self._wait_for_change(current, variant, if_none_match, query.wait)
        if if_none_match and etag_matches(if_none_match, _etag(current, variant)):
            return web.Response(status=304, headers=_headers(current, variant))
        if status_format is StatusFormat.JSON and not query.products:
            status = self.status_without_products(current)
            return json_response(status, headers=_headers(current, variant))
        async with Spool(self._scratch) as spool:
            async with self._queries.open(request_id) as snapshot:
                headers = _headers(snapshot.request, variant)
                headers |= _content_headers(status_format, snapshot.request)
                if request.method != "HEAD":
                    async for chunk in self._render(snapshot, status_format, query, request):
                        await spool.write(chunk)
            return await send_spooled(request, spool, headers)

    async def send_status(
        self, request: web.Request, request_id: str, *, status: int
    ) -> web.StreamResponse:
        """Send a request's status as JSON, with the first page of products."""
        query = StatusQuery()
        async with Spool(self._scratch) as spool:
            async with self._queries.open(request_id) as snapshot:
                variant = self._variant(StatusFormat.JSON, query, request)
                headers = _headers(snapshot.request, variant)
                headers |= _content_headers(StatusFormat.JSON, snapshot.request)
                async for chunk in self._render(snapshot, StatusFormat.JSON, query, request):
                    await spool.write(chunk)
            return await send_spooled(request, spool, headers, status=status)

    def status_without_products(self, request: Request) -> Json:
        """Return the status JSON of a request without its products."""
        return status_json(request, time.time(), self._retention_days)

    def _variant(
        self, status_format: StatusFormat, query: StatusQuery, request: web.Request
    ) -> str:
        """Return a hash of everything but the request's version that changes the response body."""
        base_url = self._origin_policy.base_url(request)
        parts: list[object] = [__version__, status_format, query.only]
        if status_format is StatusFormat.CSV:
            parts += [query.bom, base_url]
        else:
            parts += [self._retention_days, query.products]
            if query.products:
                parts += [query.offset, query.limit, base_url]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    async def _wait_for_change(
        self, current: Request, variant: str, if_none_match: str, seconds: float
    ) -> Request:
        """Wait for a change since `if_none_match`, or for the end without it. Return the request."""
        if if_none_match and not etag_matches(if_none_match, _etag(current, variant)):
            return current
        version = current.version if if_none_match else None
        await self._events.wait_for_change(current.request_id, version, seconds)
        return await self._queries.request(current.request_id)

    def _render(
        self,
        snapshot: Snapshot,
        status_format: StatusFormat,
        query: StatusQuery,
        request: web.Request,
    ) -> AsyncGenerator[bytes, None]:
        base_url = self._origin_policy.base_url(request)
        if status_format is StatusFormat.JSON:
            return self._render_json(snapshot, query, base_url)
        return self._render_csv(snapshot, query, base_url)

    async def _render_csv(
        self, snapshot: Snapshot, query: StatusQuery, base_url: str
    ) -> AsyncGenerator[bytes, None]:
        only_failed = query.only == "failed"
        columns = snapshot.request.columns
        request_id = snapshot.request.request_id
        if query.bom:
            yield _BOM
        yield encode_rows([columns.names if only_failed else csv_header(columns)])
        async for products in _slices(snapshot.pages(PAGE_ROWS, only_failed=only_failed)):
            if only_failed:
                yield encode_rows(failed_rows(products, columns))
            else:
                yield encode_rows(csv_rows(products, request_id, base_url))

    async def _render_json(
        self, snapshot: Snapshot, query: StatusQuery, base_url: str
    ) -> AsyncGenerator[bytes, None]:
        head = json.dumps(self.status_without_products(snapshot.request), separators=(",", ":"))
        yield f'{head[:-1]},"products":['.encode()
        total = 0 if query.only else snapshot.request.products
        pages: AsyncIterator[Sequence[ProductRow]] = _page_rows(snapshot, query)
        if query.only:
            pages = snapshot.pages(PAGE_ROWS, only_failed=True)
        written = 0
        async for products in _slices(pages):
            selected = products
            if query.only:
                first = max(0, query.offset - total)
                total += len(products)
                selected = products[first : first + query.limit - written]
            if selected:
                text = ",".join(
                    json.dumps(product_json(product, base_url), separators=(",", ":"))
                    for product in selected
                )
                yield f"{',' if written else ''}{text}".encode()
                written += len(selected)
        yield f'],"productsTotal":{total}}}'.encode()


async def send_spooled(
    request: web.Request, spool: Spool, headers: Mapping[str, str], *, status: int = 200
) -> web.StreamResponse:
    """Send a spooled body at the client's pace."""
    response = web.StreamResponse(status=status, headers=headers)
    if request.method != "HEAD":
        response.content_length = spool.size
    await response.prepare(request)
    if request.method != "HEAD":
        async for chunk in spool.chunks():
            await write_chunk(response, chunk)
    await response.write_eof()
    return response


async def _page_rows(
    snapshot: Snapshot, query: StatusQuery
) -> AsyncGenerator[Sequence[ProductRow], None]:
    """Yield the rows of one page in groups, because a row can be long or have a thousand images."""
    offset, end = query.offset, query.offset + query.limit
    while offset < end and (
        products := await snapshot.products(offset, min(PAGE_ROWS, end - offset))
    ):
        yield products
        offset += len(products)


async def _slices(
    pages: AsyncIterator[Sequence[ProductRow]],
) -> AsyncGenerator[Sequence[ProductRow], None]:
    """Yield the rows in slices that render quickly, and let other tasks run in between."""
    async for page in pages:
        for products in _split(page):
            yield products
            await asyncio.sleep(0)


def _split(page: Sequence[ProductRow]) -> Iterator[Sequence[ProductRow]]:
    start = images = 0
    for index, product in enumerate(page):
        images += len(product.images)
        if images >= SLICE_IMAGES:
            yield page[start : index + 1]
            start, images = index + 1, 0
    if start < len(page):
        yield page[start:]


def _etag(request: Request, variant: str) -> str:
    # Weak, because etaSeconds in the JSON changes while the version does not.
    return f'W/"{request.version}-{variant}"'


def _headers(request: Request, variant: str) -> dict[str, str]:
    progress = request.progress
    headers = {
        "ETag": _etag(request, variant),
        "Vary": "Accept",
        "Cache-Control": "private, no-cache",
        "X-Request-Status": progress.status,
        "X-Progress": f"{progress.done}/{progress.total}",
        "X-Reused": ", ".join(f"{name}={count}" for name, count in reused_json(request).items()),
    }
    if request.finished_at is None:
        headers["Retry-After"] = str(_retry_after(request))
    return headers


def _retry_after(request: Request) -> int:
    """Return the polling interval in seconds: a tenth of the remaining time."""
    remaining = eta_seconds(request, time.time())
    return 2 if remaining is None else max(1, min(MAX_POLL_SECONDS, remaining // 10))


def _content_headers(status_format: StatusFormat, request: Request) -> dict[str, str]:
    if status_format is StatusFormat.JSON:
        return {"Content-Type": "application/json; charset=utf-8"}
    return {
        "Content-Type": "text/csv; charset=utf-8",
        "Content-Disposition": f'attachment; filename="{request.request_id}.csv"',
    }
