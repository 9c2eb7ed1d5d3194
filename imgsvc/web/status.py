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
    status_json,
)
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.table.writer import encode_rows
from imgsvc.web import options
from imgsvc.web.conditional import matches, wanted_format
from imgsvc.web.options import StatusFormat, StatusQuery
from imgsvc.web.origin_policy import OriginPolicy
from imgsvc.web.responses import json_response
from imgsvc.web.spool import Spool, write

PAGE_ROWS = 500
SLICE_IMAGES = 500
"""Images that are rendered without a pause: some milliseconds."""
MOST_RETRY_SECONDS = 30
_BOM = "\ufeff".encode()


class StatusHandler:
    """Answers how far a request is, as a CSV or as JSON, each from one snapshot.

    Whatever may be large is spooled first: a slow reader holds no snapshot open.
    """

    def __init__(
        self,
        config: Config,
        snapshots: Queries,
        events: Events,
        files: FilesystemStore,
        origins: OriginPolicy,
    ) -> None:
        self._retention_days = config.storage.retention_days
        self._snapshots = snapshots
        self._events = events
        self._files = files
        self._origins = origins

    async def check_status(self, request: web.Request) -> web.StreamResponse:
        """`GET /checkStatus/{requestId}`"""
        query = options.query(StatusQuery, request)
        accept = ",".join(request.headers.getall("Accept", []))
        form = query.format or wanted_format(accept)
        variant = self._variant(form, query, request)
        request_id = request.match_info["request_id"]
        known = await self._snapshots.request(request_id)
        seen = ",".join(request.headers.getall("If-None-Match", []))
        if query.wait and known.finished_at is None:
            known = await self._changed(known, variant, seen, query.wait)
        if seen and matches(seen, _etag(known, variant)):
            return web.Response(status=304, headers=_headers(known, variant))
        if form is StatusFormat.JSON and not query.products:
            return json_response(self.without_products(known), headers=_headers(known, variant))
        async with Spool(self._files) as spool:
            async with self._snapshots.open(request_id) as snapshot:
                headers = _headers(snapshot.request, variant) | _type(form, snapshot.request)
                if request.method != "HEAD":
                    async for part in self._parts(snapshot, form, query, request):
                        await spool.write(part)
            return await send(request, spool, headers)

    async def answer(
        self, request: web.Request, request_id: str, *, status: int
    ) -> web.StreamResponse:
        """Answer with a request's status JSON, its first products included."""
        query = StatusQuery()
        async with Spool(self._files) as spool:
            async with self._snapshots.open(request_id) as snapshot:
                variant = self._variant(StatusFormat.JSON, query, request)
                headers = _headers(snapshot.request, variant)
                headers |= _type(StatusFormat.JSON, snapshot.request)
                async for part in self._parts(snapshot, StatusFormat.JSON, query, request):
                    await spool.write(part)
            return await send(request, spool, headers, status=status)

    def without_products(self, request: Request) -> Json:
        """A request's status JSON without its products."""
        return status_json(request, time.time(), self._retention_days)

    def _variant(self, form: StatusFormat, query: StatusQuery, request: web.Request) -> str:
        """Tell the forms apart in which one version of a request may be answered."""
        base_url = self._origins.base_url(request)
        parts: list[object] = [__version__, form, query.only]
        if form is StatusFormat.CSV:
            parts += [query.bom, base_url]
        else:
            parts += [self._retention_days, query.products]
            if query.products:
                parts += [query.offset, query.limit, base_url]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    async def _changed(self, known: Request, variant: str, seen: str, wait: float) -> Request:
        """Wait for a change of what was seen, or where nothing was for the end, and look again."""
        if seen and not matches(seen, _etag(known, variant)):
            return known
        version = known.version if seen else None
        await self._events.wait_for_change(known.request_id, version, wait)
        return await self._snapshots.request(known.request_id)

    def _parts(
        self, snapshot: Snapshot, form: StatusFormat, query: StatusQuery, request: web.Request
    ) -> AsyncGenerator[bytes, None]:
        base_url = self._origins.base_url(request)
        if form is StatusFormat.JSON:
            return self._json(snapshot, query, base_url)
        return self._csv(snapshot, query, base_url)

    async def _csv(
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

    async def _json(
        self, snapshot: Snapshot, query: StatusQuery, base_url: str
    ) -> AsyncGenerator[bytes, None]:
        head = json.dumps(self.without_products(snapshot.request), separators=(",", ":"))
        yield f'{head[:-1]},"products":['.encode()
        total = 0 if query.only else snapshot.request.products
        pages: AsyncIterator[Sequence[ProductRow]] = _page(snapshot, query)
        if query.only:
            pages = snapshot.pages(PAGE_ROWS, only_failed=True)
        shown = 0
        async for products in _slices(pages):
            chosen = products
            if query.only:
                first = max(0, query.offset - total)
                total += len(products)
                chosen = products[first : first + query.limit - shown]
            if chosen:
                text = ",".join(
                    json.dumps(product_json(product, base_url), separators=(",", ":"))
                    for product in chosen
                )
                yield f"{',' if shown else ''}{text}".encode()
                shown += len(chosen)
        yield f'],"productsTotal":{total}}}'.encode()


async def send(
    request: web.Request, spool: Spool, headers: Mapping[str, str], *, status: int = 200
) -> web.StreamResponse:
    """Send what was spooled, at the reader's pace."""
    response = web.StreamResponse(status=status, headers=headers)
    if request.method != "HEAD":
        response.content_length = spool.size
    await response.prepare(request)
    if request.method != "HEAD":
        async for chunk in spool.chunks():
            await write(response, chunk)
    await response.write_eof()
    return response


async def _page(
    snapshot: Snapshot, query: StatusQuery
) -> AsyncGenerator[Sequence[ProductRow], None]:
    """The rows of one page, a few at a time: a row may have a thousand images, or be very long."""
    at, end = query.offset, query.offset + query.limit
    while at < end and (products := await snapshot.products(at, min(PAGE_ROWS, end - at))):
        yield products
        at += len(products)


async def _slices(
    pages: AsyncIterator[Sequence[ProductRow]],
) -> AsyncGenerator[Sequence[ProductRow], None]:
    """Cut pages so that rendering a slice holds up nobody, and pause between them."""
    async for page in pages:
        for products in _cut(page):
            yield products
            await asyncio.sleep(0)


def _cut(page: Sequence[ProductRow]) -> Iterator[Sequence[ProductRow]]:
    start = images = 0
    for at, product in enumerate(page):
        images += len(product.images)
        if images >= SLICE_IMAGES:
            yield page[start : at + 1]
            start, images = at + 1, 0
    if start < len(page):
        yield page[start:]


def _etag(request: Request, variant: str) -> str:
    # Weak: the JSON's etaSeconds moves while nothing else does.
    return f'W/"{request.version}-{variant}"'


def _headers(request: Request, variant: str) -> dict[str, str]:
    progress = request.progress
    headers = {
        "ETag": _etag(request, variant),
        "Vary": "Accept",
        "Cache-Control": "private, no-cache",
        "X-Request-Status": progress.status,
        "X-Progress": f"{progress.done}/{progress.total}",
    }
    if request.finished_at is None:
        headers["Retry-After"] = str(_retry_after(request))
    return headers


def _retry_after(request: Request) -> int:
    """When it is worth asking again: a tenth of what is left."""
    left = eta_seconds(request, time.time())
    return 2 if left is None else max(1, min(MOST_RETRY_SECONDS, left // 10))


def _type(form: StatusFormat, request: Request) -> dict[str, str]:
    if form is StatusFormat.JSON:
        return {"Content-Type": "application/json; charset=utf-8"}
    return {
        "Content-Type": "text/csv; charset=utf-8",
        "Content-Disposition": f'attachment; filename="{request.request_id}.csv"',
    }
