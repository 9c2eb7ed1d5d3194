"""A whole file without a service: `imgsvc process products.csv -o out.csv`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from imgsvc.config import Config
from imgsvc.errors import StartupError
from imgsvc.intake import UploadOptions
from imgsvc.models import ProductRow, Request, RequestOptions
from imgsvc.serializers import STATUS_COLUMNS, csv_header, csv_rows, status_json
from imgsvc.service import DATABASE, Service, running
from imgsvc.storage.filesystem import output_path
from imgsvc.table.writer import encode_rows

CHUNK_BYTES = 2**18
MARK = ".process"
"""The file that tells a folder of ours from a service's, whose requests are not ours to drop."""

Status = Mapping[str, Any]


async def process_file(
    config: Config, table: Path, out: Path, show: Callable[[Status], None]
) -> Status:
    """Process the file `table` in the folder `config.storage.data_dir`, and write the CSV to `out`.

    The folder remembers: the same file, with the same settings, goes on where it stopped, and what
    failed is tried again; another file takes the place of the earlier one. A folder that a service
    made is refused. `show` is told of progress.
    Returns the finished request's status. Raises `ProblemError`, `StartupError`, `OSError`.
    """
    _claim(config.storage.data_dir)
    async with running(config, listen=False) as service:
        request = await _accept(service, config, table)
        await _forget_others(service, request.request_id)
        work = asyncio.create_task(_finish(service, request.request_id, show))
        broken = asyncio.create_task(service.ended())
        try:
            await asyncio.wait({work, broken}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise StartupError("a component of the service has failed; see the log")
            await work
        finally:
            work.cancel()
            broken.cancel()
        return await _write(service, request.request_id, out)


def _claim(folder: Path) -> None:
    mark = folder / MARK
    if (folder / DATABASE).exists() and not mark.exists():
        raise StartupError(f"{folder} is a service's data folder. Name another by --images.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark.touch()


async def _accept(service: Service, config: Config, table: Path) -> Request:
    """Take the file in, or find the request that it was taken in as."""
    options = UploadOptions(RequestOptions(config.compress.settings))
    with table.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        accepted = await service.intake.upload(
            _chunks(file),
            lambda: options,
            idempotency_key=f"{digest} {config.compress.settings}",
        )
    request = accepted.request
    if request is None:
        raise TypeError("this was no dry run")
    if accepted.replayed and request.finished_at is not None and request.progress.failed:
        await service.actions.retry(request.request_id)
    return request


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk


async def _forget_others(service: Service, request_id: str) -> None:
    """The folder is one table's: drop what an earlier one left."""
    cursor = None
    while True:
        requests, cursor = await service.snapshots.list_requests(None, 100, cursor)
        for other in requests:
            if other.request_id == request_id:
                continue
            if other.finished_at is None:
                await service.actions.cancel(other.request_id)
                await _finish(service, other.request_id, lambda _: None)
            await service.actions.delete(other.request_id)
        if cursor is None:
            return


async def _finish(service: Service, request_id: str, show: Callable[[Status], None]) -> None:
    async with service.events.watch(request_id) as feed:
        async for request in feed:
            show(status_json(request, time.time()))
            if request.finished_at is not None:
                return


async def _write(service: Service, request_id: str, out: Path) -> Status:
    """Write the CSV, whole or not at all; its output URLs are relative to it."""
    partial = out.with_name(f".{out.name}.partial")
    folder = _seen_from(out, service.config.storage.data_dir)
    try:
        async with service.snapshots.open(request_id) as snapshot:
            request = snapshot.request
            with partial.open("wb") as file:
                file.write(encode_rows([csv_header(request.columns)]))
                async for products in snapshot.pages():
                    urls = [await _output_urls(service, folder, each) for each in products]
                    rows = csv_rows(products, request_id, "")
                    file.write(encode_rows(_with_urls(rows, urls)))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return status_json(request, time.time())


def _seen_from(out: Path, folder: Path) -> Path:
    return Path(os.path.relpath(folder, out.absolute().parent))


async def _output_urls(service: Service, folder: Path, product: ProductRow) -> str:
    """The row's output cell: where each stored file lies, seen from the CSV."""
    paths = []
    for image in product.images:
        stored = image.file and await service.snapshots.public_file(image.file)
        paths.append(quote(output_path(folder, stored.name).as_posix()) if stored else "")
    return ",".join(paths)


def _with_urls(rows: Iterable[Sequence[str]], urls: Sequence[str]) -> Iterator[Sequence[str]]:
    place = STATUS_COLUMNS.index("Output Image Urls")
    for row, cell in zip(rows, urls, strict=True):
        yield (*row[:place], cell, *row[place + 1 :])
