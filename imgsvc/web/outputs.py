"""The stored outputs: one by its public URL, or all of a request as a ZIP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import zlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

from aiohttp import web

from imgsvc.database.queries import Queries
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.image_types import MEDIA_TYPES
from imgsvc.models import ProductRow, Request
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.table.writer import encode_rows
from imgsvc.web import options
from imgsvc.web.conditional import RangeNotSatisfiableError, matches, wanted_range
from imgsvc.web.options import NoOptions
from imgsvc.web.problems import HttpProblemError
from imgsvc.web.spool import CHUNK_BYTES, Spool, write
from imgsvc.web.zip_stream import Archive, Measure, Names

log = logging.getLogger(__name__)

ERRORS_HEADER = ("S. No.", "Product Name", "Image", "Input Image Url", "Code", "Error")
ERRORS_NAME = "errors.csv"
PAGE_ROWS = 500


class OutputsHandler:
    """Serves outputs."""

    def __init__(self, snapshots: Queries, files: FilesystemStore) -> None:
        self._snapshots = snapshots
        self._files = files

    async def image(self, request: web.Request) -> web.StreamResponse:
        """`GET /images/{file}`"""
        name = request.match_info["file"]
        stored = await self._snapshots.public_file(name)
        if stored is None:
            raise _no_such_image()
        etag = f'"{hashlib.sha256(stored.name.encode()).hexdigest()[:24]}"'
        headers = {
            "ETag": etag,
            "Cache-Control": "public, max-age=31536000, immutable",
            "Accept-Ranges": "bytes",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        if matches(",".join(request.headers.getall("If-None-Match", [])), etag):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = MEDIA_TYPES[name.rpartition(".")[2]]
        path = self._files.path(stored.name)
        size = stored.info.output_bytes
        first, count = 0, size
        if (part := _range(request, etag, size)) is not None:
            first, count = part
            headers["Content-Range"] = f"bytes {first}-{first + count - 1}/{size}"
        if request.method == "HEAD":
            data = b""
        else:
            data = await _opened(path, first, count)
        response = web.StreamResponse(status=206 if part else 200, headers=headers)
        response.content_length = count
        await response.prepare(request)
        if request.method != "HEAD":
            await write(response, data)
            async for chunk in _rest(path, first + len(data), count - len(data)):
                await write(response, chunk)
        await response.write_eof()
        return response

    async def download_images(self, request: web.Request) -> web.StreamResponse:
        """`GET /downloadImages/{requestId}`"""
        options.query(NoOptions, request)
        request_id = request.match_info["request_id"]
        headers = {
            "Content-Type": "application/zip",
            "Content-Disposition": f'attachment; filename="{request_id}.zip"',
        }
        if request.method == "HEAD":
            await self._snapshots.request(request_id)
            return web.Response(headers=headers)
        async with Spool(self._files) as plan, Spool(self._files) as errors:
            async with self._snapshots.open(request_id) as snapshot:
                planner = _Planner(plan, errors)
                async for products in snapshot.pages(PAGE_ROWS):
                    await planner.take(products)
                    await asyncio.sleep(0)
            size = planner.total()
            response = web.StreamResponse(headers=headers)
            response.content_length = size
            await response.prepare(request)
            async for chunk in self._archive(snapshot.request, plan, errors):
                await write(response, chunk)
            await response.write_eof()
        return response

    async def _archive(
        self, request: Request, plan: Spool, errors: Spool
    ) -> AsyncGenerator[bytes, None]:
        """Give the ZIP's bytes. An output that is gone meanwhile ends it in an error."""
        archive = Archive(request.created_at)
        async with Spool(self._files) as directory:
            async for line in _lines(plan):
                name, file, size = json.loads(line)
                stored = await self._snapshots.public_file(file)
                if stored is None:
                    raise _no_such_image()
                path = self._files.path(stored.name)
                data, crc = await asyncio.to_thread(_checked, path, size)
                local, central = archive.entry(name, size, crc)
                await directory.write(central)
                yield local + data
                async for chunk in _rest(path, len(data), size - len(data)):
                    yield chunk
            if errors.size:
                crc = 0
                async for chunk in errors.chunks():
                    crc = zlib.crc32(chunk, crc)
                local, central = archive.entry(ERRORS_NAME, errors.size, crc)
                await directory.write(central)
                yield local
                async for chunk in errors.chunks():
                    yield chunk
            async for chunk in directory.chunks():
                yield chunk
        yield archive.end()


class _Planner:
    """Notes what goes into an archive, under which names, and what failed."""

    def __init__(self, plan: Spool, errors: Spool) -> None:
        self._plan = plan
        self._errors = errors
        self._names = Names()
        self._measure = Measure()

    async def take(self, products: Sequence[ProductRow]) -> None:
        lines: list[str] = []
        failed: list[Sequence[str]] = []
        for product in products:
            lines += self._entries(product)
            failed += _failed(product)
        await self._plan.write("".join(lines).encode())
        if failed:
            header = [] if self._errors.size else [ERRORS_HEADER]
            await self._errors.write(encode_rows([*header, *failed]))

    def total(self) -> int:
        """The archive's size."""
        if self._errors.size:
            self._measure.add(ERRORS_NAME, self._errors.size)
        return self._measure.total()

    def _entries(self, product: ProductRow) -> Iterator[str]:
        stem = None
        for place, image in enumerate(product.images, 1):
            if image.file is None or image.info is None:
                continue
            stem = stem or self._names.stem(product.name, product.number + 1)
            name = f"{stem}-{place}.{image.file.rpartition('.')[2]}"
            size = image.info.output_bytes
            self._measure.add(name, size)
            yield json.dumps([name, image.file, size]) + "\n"


def _failed(product: ProductRow) -> Iterator[Sequence[str]]:
    for place, image in enumerate(product.images, 1):
        if image.error_code:
            yield (
                product.serial_number,
                product.name,
                str(place),
                image.url,
                image.error_code,
                image.error_message or "",
            )


async def _lines(spool: Spool) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in spool.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _range(request: web.Request, etag: str, size: int) -> tuple[int, int] | None:
    """The range that is asked for. Raises `ProblemError` where it lies outside."""
    if request.method != "GET" or "Range" not in request.headers:
        return None
    if request.headers.get("If-Range", etag) != etag:
        return None
    try:
        return wanted_range(request.headers["Range"], size)
    except RangeNotSatisfiableError:
        raise HttpProblemError(
            ProblemCode.RANGE_NOT_SATISFIABLE,
            f"The image has {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        ) from None


async def _opened(path: Path, first: int, count: int) -> bytes:
    """Give the first bytes of what is asked for, so that a missing file is known before the answer."""
    try:
        return await asyncio.to_thread(_read, path, first, min(count, CHUNK_BYTES))
    except FileNotFoundError:
        log.error("a stored output is missing", extra={"file": path.name})  # noqa: TRY400
        raise _no_such_image() from None


async def _rest(path: Path, first: int, count: int) -> AsyncGenerator[bytes, None]:
    """Give `count` bytes of a file. Raises `OSError` where it has fewer."""
    while count > 0:
        chunk = await asyncio.to_thread(_read, path, first, min(count, CHUNK_BYTES))
        first += len(chunk)
        count -= len(chunk)
        yield chunk


def _read(path: Path, first: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(first)
        data = file.read(count)
    if len(data) < count:
        raise OSError(f"{path.name} is shorter than it was")
    return data


def _checked(path: Path, size: int) -> tuple[bytes, int]:
    """Give a file's first bytes and the checksum of all of it. Raises `OSError`."""
    crc = count = 0
    first = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            first = first or chunk
            crc = zlib.crc32(chunk, crc)
            count += len(chunk)
    if count != size:
        raise OSError(f"{path.name} has {count} bytes instead of {size}")
    return first, crc


def _no_such_image() -> ProblemError:
    return ProblemError(
        ProblemCode.NOT_FOUND,
        "There is no image at this address. Its request may have been deleted.",
    )
