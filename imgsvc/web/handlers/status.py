"""The Status API: `GET /checkStatus/{requestId}`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import astuple
from functools import partial

from aiohttp import web

from imgsvc import __version__
from imgsvc.config import Config
from imgsvc.database.queries import Queries, Snapshot
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.models import ImageRow, ProductRow, Request
from imgsvc.processing.events import Events
from imgsvc.serializers import Json, eta_seconds, product_json, reused_json, status_json
from imgsvc.status_table import StatusTable, UrlOf
from imgsvc.storage.scratch import Scratch
from imgsvc.table.xlsx_writer import XLSX_MEDIA_TYPE, WorksheetLimitError, XlsxWriter
from imgsvc.web.http.conditional import etag_matches, negotiate_format
from imgsvc.web.http.file_names import attachment
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.http.stream import StreamedResponse
from imgsvc.web.schema import options
from imgsvc.web.schema.options import StatusFormat, StatusQuery
from imgsvc.web.schema.responses import json_response

PAGE_ROWS = 500
"""Number of rows that are read from the database at once."""
SLICE_IMAGES = 500
"""Number of images (rows, if they have none) that are rendered without a pause: some milliseconds."""
FIRST_SLICE_IMAGES = 50
"""The same for the first page of rows."""
MAX_POLL_SECONDS = 30
"""Maximum of the `Retry-After` header."""


class StatusHandler:
    """Returns the status of a request as CSV or JSON, each response from one database snapshot.

    Responses are sent while they are rendered. A slow client delays neither the rendering nor the end
    of the snapshot.
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
        self._public_url = config.storage.public_url.replace(",", "%2C")
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
        if status_format is not StatusFormat.JSON:
            query.table.check(current)
        if_none_match = ",".join(request.headers.getall("If-None-Match", []))
        if query.wait and current.finished_at is None:
            current = await self._wait_for_change(current, variant, if_none_match, query.wait)
        if if_none_match and etag_matches(if_none_match, _etag(current, variant)):
            return web.Response(status=304, headers=_headers(current, variant))
        if status_format is StatusFormat.JSON and not query.products:
            status = self.status_without_products(current)
            return json_response(status, headers=_headers(current, variant))
        return await self._send(request, request_id, status_format, query)

    async def send_status(
        self, request: web.Request, request_id: str, *, status: int
    ) -> web.StreamResponse:
        """Send a request's status as JSON, with the first page of products."""
        query = StatusQuery()
        return await self._send(request, request_id, StatusFormat.JSON, query, status=status)

    async def _send(
        self,
        request: web.Request,
        request_id: str,
        status_format: StatusFormat,
        query: StatusQuery,
        *,
        status: int = 200,
    ) -> web.StreamResponse:
        variant = self._variant(status_format, query, request)
        async with StreamedResponse(request, self._scratch) as response:
            async with self._queries.open(request_id) as snapshot:
                headers = _headers(snapshot.request, variant)
                headers |= _content_headers(status_format, query, snapshot.request)
                # Any row can exceed a limit of worksheets, so .xlsx is rendered before it is sent.
                if status_format is not StatusFormat.XLSX:
                    response.start(headers, status=status)
                if request.method != "HEAD":
                    async for chunk in self._render(snapshot, status_format, query, request):
                        await response.write(chunk)
            if status_format is StatusFormat.XLSX:
                response.start(headers, status=status)
            return await response.finish()

    def status_without_products(self, request: Request) -> Json:
        """Return the status JSON of a request without its products."""
        return status_json(request, time.time(), self._retention_days)

    def _variant(
        self, status_format: StatusFormat, query: StatusQuery, request: web.Request
    ) -> str:
        """Return a hash of everything but the request's version that changes the response body."""
        base_url = self._origin_policy.base_url(request)
        parts: list[object] = [__version__, status_format, query.only, self._public_url]
        if status_format is not StatusFormat.JSON:
            parts += [astuple(query.table), base_url]
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
        url_of = _urls_below(self._origin_policy.base_url(request), self._public_url)
        if status_format is StatusFormat.JSON:
            return self._render_json(snapshot, query, url_of)
        if status_format is StatusFormat.XLSX:
            return _render_xlsx(snapshot, query.table, url_of, self._scratch)
        return _render_csv(snapshot, query.table, url_of)

    async def _render_json(
        self, snapshot: Snapshot, query: StatusQuery, url_of: UrlOf
    ) -> AsyncGenerator[bytes, None]:
        head = json.dumps(self.status_without_products(snapshot.request), separators=(",", ":"))
        yield f'{head[:-1]},"products":['.encode()
        total = 0 if query.only else snapshot.request.products + snapshot.request.skipped
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
                    json.dumps(product_json(product, url_of), separators=(",", ":"))
                    for product in selected
                )
                yield f"{',' if written else ''}{text}".encode()
                written += len(selected)
        yield f'],"productsTotal":{total}}}'.encode()


async def _render_csv(
    snapshot: Snapshot, table: StatusTable, url_of: UrlOf
) -> AsyncGenerator[bytes, None]:
    request = snapshot.request
    csv_format = table.csv_format(request.table)
    yield csv_format.mark + csv_format.encode(table.header(request))
    pages = snapshot.pages(PAGE_ROWS, only_failed=table.only_failed, whole=table.whole)
    async for products in _slices(pages):
        yield csv_format.encode(table.rows(products, request, url_of))


async def _render_xlsx(
    snapshot: Snapshot, table: StatusTable, url_of: UrlOf, scratch: Scratch
) -> AsyncGenerator[bytes, None]:
    request = snapshot.request
    pages = snapshot.pages(PAGE_ROWS, only_failed=table.only_failed, whole=table.whole)
    try:
        with XlsxWriter() as writer:
            yield await scratch.run(partial(writer.write, table.header(request)))
            async for products in _slices(pages):
                rows = table.rows(products, request, url_of)
                yield await scratch.run(partial(writer.write, rows))
            yield await scratch.run(writer.close)
    except WorksheetLimitError as error:
        raise ProblemError(ProblemCode.INVALID_OPTION, str(error)) from None


def _urls_below(base_url: str, public_url: str) -> UrlOf:
    """Return a function for the URLs of outputs. The service and the bucket are at these URLs.

    `public_url` is empty if the bucket is not public. Outputs of version 1.0 have names of their own in
    it, so their URLs are always those of the service.
    """

    def url_of(image: ImageRow) -> str:
        if public_url and image.file and image.slug is not None:
            return f"{public_url}/{image.file[:2]}/{image.file}"
        return f"{base_url}/images/{image.public_path}"

    return url_of


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
    """Yield the rows in slices that render quickly, and let other tasks run in between.

    The first slices are smaller, so that the response starts early.
    """
    slice_images = FIRST_SLICE_IMAGES
    async for page in pages:
        for products in _split(page, slice_images):
            yield products
            await asyncio.sleep(0)
        slice_images = SLICE_IMAGES


def _split(page: Sequence[ProductRow], slice_images: int) -> Iterator[Sequence[ProductRow]]:
    start = images = 0
    for index, product in enumerate(page):
        images += max(1, len(product.images))
        if images >= slice_images:
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


def _content_headers(
    status_format: StatusFormat, query: StatusQuery, request: Request
) -> dict[str, str]:
    if status_format is StatusFormat.JSON:
        return {"Content-Type": "application/json; charset=utf-8"}
    suffix = "failed" if query.only else "compressed"
    if status_format is StatusFormat.XLSX:
        return {
            "Content-Type": XLSX_MEDIA_TYPE,
            "Content-Disposition": attachment(request, suffix, "xlsx"),
        }
    codec = query.table.csv_format(request.table).encoding
    return {
        "Content-Type": f"text/csv; charset={codec}",
        "Content-Disposition": attachment(request, suffix, "csv"),
    }
