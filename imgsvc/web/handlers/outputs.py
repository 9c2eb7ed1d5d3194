"""Downloads of outputs: one by its public URL, or all outputs of a request as a ZIP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import zlib
from collections.abc import AsyncGenerator, Iterator, Sequence

from aiohttp import web

from imgsvc.database.queries import Queries
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.image_types import MEDIA_TYPES, ThumbnailSettings
from imgsvc.models import ProductRow, Request
from imgsvc.processing.thumbnails import Thumbnails
from imgsvc.storage.base import ImageStore
from imgsvc.storage.scratch import Scratch
from imgsvc.storage.spool import SPOOL_CHUNK_BYTES, Spool
from imgsvc.table.writer import encode_rows
from imgsvc.web.http.conditional import RangeNotSatisfiableError, etag_matches, parse_range
from imgsvc.web.http.file_names import attachment
from imgsvc.web.http.problems import HttpProblemError
from imgsvc.web.http.stream import write_chunk
from imgsvc.web.http.zip_stream import UniqueNames, ZipBuilder, ZipSizer
from imgsvc.web.schema import options
from imgsvc.web.schema.options import NoOptions

log = logging.getLogger(__name__)

ERRORS_HEADER = ("S. No.", "Product Name", "Image", "Input Image Url", "Code", "Error")
ERRORS_NAME = "errors.csv"
PAGE_ROWS = 500
"""Number of rows that are read from the database at once."""


class OutputsHandler:
    """Handles `/images/…` and `/downloadImages/{requestId}`."""

    def __init__(
        self, queries: Queries, store: ImageStore, thumbnails: Thumbnails, scratch: Scratch
    ) -> None:
        self._queries = queries
        self._store = store
        self._thumbnails = thumbnails
        self._scratch = scratch

    async def image(self, request: web.Request) -> web.StreamResponse:
        """`GET /images/{token}/{slug}.{ext}` and `GET /images/{file}`. Any slug is accepted."""
        path = request.match_info
        name = path.get("file") or f"{path['token']}.{path['ext']}"
        stored = await self._queries.public_file(name)
        if stored is None:
            raise _no_such_image()
        headers = _immutable_headers(stored.name) | {"Accept-Ranges": "bytes"}
        etag = headers["ETag"]
        if _has_version(request, etag):
            return web.Response(status=304, headers=headers)
        if (url := await self._store.direct_url(stored.name, request.method)) is not None:
            # Without an ETag: a 304 would make clients keep a redirect whose URL expires.
            headers = {"Location": url, "Cache-Control": "private, max-age=60"}
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
            return web.Response(status=302, headers=headers)
        headers["Content-Type"] = MEDIA_TYPES[name.rpartition(".")[2]]
        size = stored.info.output_bytes
        offset, count = 0, size
        if (byte_range := _requested_range(request, etag, size)) is not None:
            offset, count = byte_range
            headers["Content-Range"] = f"bytes {offset}-{offset + count - 1}/{size}"
        is_head = request.method == "HEAD"
        data = await self._first_chunk(stored.name, offset, 0 if is_head else count)
        response = web.StreamResponse(status=206 if byte_range else 200, headers=headers)
        response.content_length = count
        await response.prepare(request)
        if not is_head:
            await write_chunk(response, data)
            rest = self._chunks(stored.name, offset + len(data), count - len(data))
            async for chunk in rest:
                await write_chunk(response, chunk)
        await response.write_eof()
        return response

    async def thumbnail(self, request: web.Request) -> web.Response:
        """`GET /images/{token}/thumbnail`"""
        token = request.match_info["token"]
        stored = await self._queries.public_output(token)
        if stored is None:
            raise _no_such_image()
        headers = _immutable_headers(f"{stored.name} {ThumbnailSettings()}")
        if _has_version(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        try:
            body = await self._thumbnails.get(token, stored)
        except FileNotFoundError:
            raise _missing_output(stored.name) from None
        return web.Response(body=body, content_type="image/webp", headers=headers)

    async def download_images(self, request: web.Request) -> web.StreamResponse:
        """`GET /downloadImages/{requestId}`"""
        options.parse_query(NoOptions, request)
        request_id = request.match_info["requestId"]
        if request.method == "HEAD":
            return web.Response(headers=_zip_headers(await self._queries.request(request_id)))
        async with Spool(self._scratch) as plan, Spool(self._scratch) as errors:
            async with self._queries.open(request_id) as snapshot:
                planner = _ZipPlanner(plan, errors)
                async for products in snapshot.pages(PAGE_ROWS):
                    await planner.add(products)
                    await asyncio.sleep(0)
            size = planner.total_bytes()
            response = web.StreamResponse(headers=_zip_headers(snapshot.request))
            response.content_length = size
            await response.prepare(request)
            async for chunk in self._zip_chunks(snapshot.request, plan, errors):
                await write_chunk(response, chunk)
            await response.write_eof()
        return response

    async def _zip_chunks(
        self, request: Request, plan: Spool, errors: Spool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the ZIP. Raise an error if an output has been deleted since the plan."""
        builder = ZipBuilder(request.created_at)
        async with Spool(self._scratch) as directory:
            async for line in _spooled_lines(plan):
                name, file, size = json.loads(line)
                stored = await self._queries.public_file(file)
                if stored is None:
                    raise _no_such_image()
                data, crc = await self._first_chunk_and_checksum(stored.name, size)
                local, central = builder.entry(name, size, crc)
                await directory.write(central)
                yield local + data
                async for chunk in self._chunks(stored.name, len(data), size - len(data)):
                    yield chunk
            if errors.size:
                crc = 0
                async for chunk in errors.chunks():
                    crc = zlib.crc32(chunk, crc)
                local, central = builder.entry(ERRORS_NAME, errors.size, crc)
                await directory.write(central)
                yield local
                async for chunk in errors.chunks():
                    yield chunk
            async for chunk in directory.chunks():
                yield chunk
        yield builder.end()

    async def _first_chunk(self, name: str, offset: int, count: int) -> bytes:
        """Return up to a chunk of the requested bytes.

        It is read before the response starts, so that a missing output gives a 404.
        """
        try:
            return await self._read(name, offset, min(count, SPOOL_CHUNK_BYTES))
        except FileNotFoundError:
            raise _missing_output(name) from None

    async def _chunks(self, name: str, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        """Yield `count` bytes of an output. Raise `OSError` if it has fewer."""
        while count > 0:
            chunk = await self._read(name, offset, min(count, SPOOL_CHUNK_BYTES))
            offset += len(chunk)
            count -= len(chunk)
            yield chunk

    async def _read(self, name: str, offset: int, count: int) -> bytes:
        data = await self._store.read(name, offset, count)
        if len(data) < count:
            raise OSError(f"{name} is shorter than recorded")
        return data

    async def _first_chunk_and_checksum(self, name: str, size: int) -> tuple[bytes, int]:
        """Return the first chunk of an output and the CRC-32 of the whole output.

        Raise `OSError` if the output cannot be read or does not have `size` bytes.
        """
        first = chunk = await self._store.read(name, 0, SPOOL_CHUNK_BYTES)
        crc, count = zlib.crc32(chunk), len(chunk)
        while len(chunk) == SPOOL_CHUNK_BYTES:
            chunk = await self._store.read(name, count, SPOOL_CHUNK_BYTES)
            crc = zlib.crc32(chunk, crc)
            count += len(chunk)
        if count != size:
            raise OSError(f"{name} has {count} bytes instead of {size}")
        return first, crc


class _ZipPlanner:
    """Plans an archive: spools its entries' names, files and sizes, and the rows of `errors.csv`."""

    def __init__(self, plan: Spool, errors: Spool) -> None:
        self._plan = plan
        self._errors = errors
        self._names = UniqueNames()
        self._sizer = ZipSizer()

    async def add(self, products: Sequence[ProductRow]) -> None:
        """Add the outputs and the failed images of these products."""
        lines: list[str] = []
        error_rows: list[Sequence[str]] = []
        for product in products:
            lines += self._entries(product)
            error_rows += _error_rows(product)
        await self._plan.write("".join(lines).encode())
        if error_rows:
            header = [] if self._errors.size else [ERRORS_HEADER]
            await self._errors.write(encode_rows([*header, *error_rows]))

    def total_bytes(self) -> int:
        """Return the size of the archive. Call it once, after all products have been added."""
        if self._errors.size:
            self._sizer.add(ERRORS_NAME, self._errors.size)
        return self._sizer.total_bytes()

    def _entries(self, product: ProductRow) -> Iterator[str]:
        stem = None
        for position, image in enumerate(product.images, 1):
            if image.file is None or image.info is None:
                continue
            stem = stem or self._names.unique_stem(product.name, product.number + 1)
            name = f"{stem}-{position}.{image.file.rpartition('.')[2]}"
            size = image.info.output_bytes
            self._sizer.add(name, size)
            yield json.dumps([name, image.file, size]) + "\n"


def _immutable_headers(version: str) -> dict[str, str]:
    """Return the headers of an image that never changes. `version` names its content."""
    return {
        "ETag": f'"{hashlib.sha256(version.encode()).hexdigest()[:24]}"',
        "Cache-Control": "public, max-age=31536000, immutable",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }


def _has_version(request: web.Request, etag: str) -> bool:
    """Return whether the client has this version already."""
    return etag_matches(",".join(request.headers.getall("If-None-Match", [])), etag)


def _zip_headers(request: Request) -> dict[str, str]:
    return {
        "Content-Type": "application/zip",
        "Content-Disposition": attachment(request, "images", "zip"),
    }


def _error_rows(product: ProductRow) -> Iterator[Sequence[str]]:
    for position, image in enumerate(product.images, 1):
        if image.error_code:
            yield (
                product.serial_number,
                product.name,
                str(position),
                image.url,
                image.error_code,
                image.error_message or "",
            )


async def _spooled_lines(spool: Spool) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in spool.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _requested_range(request: web.Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return the requested range's offset and length, or None for the whole file.

    Raise `ProblemError` if the range lies outside the file.
    """
    if request.method != "GET" or "Range" not in request.headers:
        return None
    if request.headers.get("If-Range", etag) != etag:
        return None
    try:
        return parse_range(request.headers["Range"], size)
    except RangeNotSatisfiableError:
        raise HttpProblemError(
            ProblemCode.RANGE_NOT_SATISFIABLE,
            f"The range is outside the output, which has {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        ) from None


def _missing_output(name: str) -> ProblemError:
    """Log that the database has an output that the store has not, and return the problem."""
    log.error("stored output missing", extra={"file": name})
    return _no_such_image()


def _no_such_image() -> ProblemError:
    return ProblemError(
        ProblemCode.NOT_FOUND,
        "There is no image at this URL. Its request may have been deleted.",
    )
