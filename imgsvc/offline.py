"""Processing of a whole file without a running service: `imgsvc process products.csv -o out.csv`."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles

from imgsvc.atomic_write import atomic_write
from imgsvc.config import Config
from imgsvc.errors import StartupError
from imgsvc.image_folder import ImageFolder
from imgsvc.models import (
    ImageRow,
    ProductRow,
    Request,
    RequestOptions,
    StatusJson,
)
from imgsvc.serializers import status_json
from imgsvc.service import DATABASE, Service, running
from imgsvc.status_table import StatusTable
from imgsvc.table_types import TableOptions
from imgsvc.upload_types import UploadOptions

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader

FILE_CHUNK_BYTES = 2**18
"""Size of the chunks in which the file is read, in bytes."""
OLD_MARKER = ".process"
"""File by which version 1.0 marked an image folder that is a data folder too."""


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How `process` reads its file, and where and how it writes its results.

    `images` is the folder for the images. `replace`: images that it has from another run are removed.
    `name` is the request's display name.
    """

    images: Path
    replace: bool
    name: str | None = None
    table: TableOptions = TableOptions()
    output: StatusTable = StatusTable()


def working_folder(out: Path) -> Path:
    """Return the hidden folder with the working data for the CSV `out`."""
    return out.absolute().with_name(f".{out.name}.imgsvc")


async def process_file(
    config: Config,
    table: Path,
    out: Path,
    on_progress: Callable[[StatusJson], None],
    options: FileOptions,
) -> StatusJson:
    """Process the file `table`, and write the CSV to `out` and the images to `options.images`.

    `config.storage.data_dir` keeps the state: use `working_folder`. It is removed when every image is
    completed. Until then, processing the same file with the same settings continues where it stopped,
    and failed images are retried. Another file replaces the earlier one. `on_progress` is called with
    each new status.

    Return the status of the finished request. Raise `ProblemError`, `OSError` or `StartupError`.
    """
    folder = config.storage.data_dir
    _prepare_folder(folder, options.images)
    async with running(config, listen=False) as service:
        damage = service.stores.database.damage
        if damage.reason is not None:
            raise StartupError(_damaged(config.storage.data_dir))
        request = await _submit(service, config, table, options)
        options.output.check(request)
        await _delete_other_requests(service, request.request_id)
        finished = asyncio.create_task(
            _wait_until_finished(service, request.request_id, on_progress)
        )
        ended = asyncio.create_task(service.ended())
        damaged = asyncio.create_task(damage.found.wait())
        try:
            await asyncio.wait({finished, ended, damaged}, return_when=asyncio.FIRST_COMPLETED)
            if damaged.done():
                raise StartupError(_damaged(config.storage.data_dir))
            if not finished.done():
                raise StartupError("An internal task failed. See the log.")
            await finished
        finally:
            for task in (finished, ended, damaged):
                task.cancel()
        status = await _write_csv(service, request.request_id, out, options)
    if status["status"] == "completed":
        await asyncio.to_thread(shutil.rmtree, folder)
    return status


def _damaged(folder: Path) -> str:
    """Return the message for a damaged database. It only has what the same command makes again."""
    return f"The database in {folder} is damaged. Delete this folder, and run the command again."


def _prepare_folder(folder: Path, images: Path) -> None:
    """Create the folder of working data. Take over that of version 1.0, which is the image folder."""
    if (images / OLD_MARKER).exists() and not folder.exists():
        images.rename(folder)
    elif (images / DATABASE).exists():
        raise StartupError(
            f"{images} is the data folder of a service. Choose another folder with --images."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


async def _submit(service: Service, config: Config, table: Path, options: FileOptions) -> Request:
    """Submit the file, and return its request. Retry the failed images of a request that has finished.

    If the file was submitted before with the same settings, return that request.
    """
    upload_options = UploadOptions(
        RequestOptions(config.compress.settings), table=options.table, file_name=options.name
    )
    key_options = [str(config.compress.settings)]
    if options.table != TableOptions():
        key_options.append(str(options.table))
    async with aiofiles.open(table, "rb") as file:
        digest = hashlib.sha256()
        async for chunk in _chunks(file):
            digest.update(chunk)
        await file.seek(0)
        accepted = await service.intake.upload(
            _chunks(file),
            lambda: upload_options,
            idempotency_key=f"{digest.hexdigest()} {' '.join(key_options)}",
        )
    request = accepted.request
    if request is None:
        raise TypeError("the upload returned no request")
    if accepted.replayed and request.finished_at is not None and request.progress.failed:
        await service.actions.retry(request.request_id)
    return request


async def _chunks(file: AsyncBufferedReader) -> AsyncIterator[bytes]:
    while chunk := await file.read(FILE_CHUNK_BYTES):
        yield chunk


async def _delete_other_requests(service: Service, request_id: str) -> None:
    """Delete all requests but this one, with their images: the folder is for one file."""
    cursor = None
    while True:
        requests, cursor = await service.queries.list_requests(None, 100, cursor)
        for other in requests:
            if other.request_id == request_id:
                continue
            if other.finished_at is None:
                await service.actions.cancel(other.request_id)
                await _wait_until_finished(service, other.request_id, lambda _: None)
            await service.actions.delete(other.request_id)
        if cursor is None:
            return


async def _wait_until_finished(
    service: Service, request_id: str, on_progress: Callable[[StatusJson], None]
) -> None:
    """Call `on_progress` with each new status until the request has finished."""
    async with service.events.watch(request_id) as subscription:
        async for request in subscription:
            on_progress(status_json(request, time.time()))
            if request.finished_at is not None:
                return


async def _write_csv(
    service: Service, request_id: str, out: Path, options: FileOptions
) -> StatusJson:
    """Write the images and then the CSV, and return the request's status.

    The output URLs are relative to `out`. An existing CSV is replaced only after the whole CSV has been
    written.
    """
    data_dir = service.config.storage.data_dir
    folder = ImageFolder(options.images, data_dir, out)
    table = options.output
    with atomic_write(out) as partial:
        async with (
            service.queries.open(request_id) as snapshot,
            aiofiles.open(partial, "wb") as file,
        ):
            request = snapshot.request
            first_row = len(request.table.rows_above) + 2  # after the header
            csv_format = table.csv_format(request.table)
            await file.write(csv_format.mark + csv_format.encode(table.header(request)))
            async for products in snapshot.pages(whole=table.whole):
                urls = await asyncio.to_thread(_store_images, folder, products, first_row)
                url_of = urls.__getitem__
                await file.write(csv_format.encode(table.rows(products, request, url_of)))
    if options.replace:
        await asyncio.to_thread(folder.remove_others)
    return status_json(request, time.time())


def _store_images(
    folder: ImageFolder, products: Iterable[ProductRow], first_row: int
) -> dict[ImageRow, str]:
    """Store the outputs of products under readable names, and return the URL of each image.

    `first_row` is the number of the first product's row in the file.
    """
    return {
        image: folder.add(image, first_row + product.number)
        for product in products
        for image in product.images
    }
