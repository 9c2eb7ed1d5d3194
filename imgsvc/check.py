"""`imgsvc check`: compares the stored outputs with the database, and repairs the differences."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from imgsvc.adapters import create_store
from imgsvc.config import Config
from imgsvc.database import checking
from imgsvc.database.checking import RecordedOutput
from imgsvc.errors import StartupError
from imgsvc.service import DATABASE
from imgsvc.storage.base import ImageStore, StorageUnavailableError, name_pages
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.lock import lock_data_dir

CHUNK_BYTES = 2**20
"""Number of bytes that are hashed at once."""
READS_AT_ONCE = 16
"""Number of outputs that are read at the same time: a bucket takes a while to respond."""


@dataclass
class CheckReport:
    """The differences between the stored outputs and the database.

    `unused` are names of outputs without an image. `missing` and `damaged` are outputs of images.
    `images` counts the images that a repair has made failed.
    """

    outputs: int = 0
    unused: list[str] = field(default_factory=list)
    missing: list[RecordedOutput] = field(default_factory=list)
    damaged: list[RecordedOutput] = field(default_factory=list)
    images: int = 0

    @property
    def consistent(self) -> bool:
        """Whether there are no differences."""
        return not (self.unused or self.missing or self.damaged)


async def check_outputs(config: Config) -> CheckReport:
    """Compare the outputs with the database, beside a running service.

    Every output is read and hashed. Raise `StartupError` if there is no database of this version, if it
    is damaged, or if the store does not respond.
    """
    with _open_database(config.storage.data_dir) as c:
        checking.check_structure(c)
        async with _opened_store(config) as store:
            return await _compare(c, store)


async def repair_outputs(config: Config) -> CheckReport:
    """Check the outputs, remove unused ones, and make images without a whole output failed.

    Return what was found. Raise `StartupError` if the service is running, or as `check_outputs`.
    """
    data_dir = config.storage.data_dir
    with lock_data_dir(data_dir, DATABASE), _open_database(data_dir, write=True) as c:
        async with _opened_store(config) as store:
            await store.claim(*checking.claimant(c))
            report = await _compare(c, store)
            if report.unused:
                await store.delete(report.unused)
        for outputs, state in ((report.missing, "missing"), (report.damaged, "damaged")):
            message = f"The stored output is {state}. Retry the image to make it again."
            for output in outputs:
                report.images += checking.fail_images(c, output, message)
    return report


async def unused_outputs(
    c: sqlite3.Connection, store: ImageStore, listed: Sequence[str]
) -> list[str]:
    """Return which of the outputs that were listed before exist, and nothing uses them.

    A running service may have deleted an output since it was listed, and may have stored it again.
    """
    unused = checking.unused_outputs(c, listed)
    return checking.unused_outputs(c, [name for name in unused if await _exists(store, name)])


async def _exists(store: ImageStore, name: str) -> bool:
    try:
        await store.read(name, 0, 0)
    except FileNotFoundError:
        return False
    return True


async def _compare(c: sqlite3.Connection, store: ImageStore) -> CheckReport:
    report = CheckReport()
    outputs = checking.recorded_outputs(c)
    while batch := list(islice(outputs, READS_AT_ONCE)):
        report.outputs += len(batch)
        whole = await asyncio.gather(*(_is_whole(store, output) for output in batch))
        for output, state in zip(batch, whole, strict=True):
            # A running service may have deleted the output, the row first, and stored another one.
            if state is not True and checking.is_recorded(c, output):
                (report.missing if state is None else report.damaged).append(output)
    async for names in name_pages(store):
        report.unused += await unused_outputs(c, store, names)
    return report


@asynccontextmanager
async def _opened_store(config: Config) -> AsyncIterator[ImageStore]:
    storage = config.storage
    store = create_store(config, DiskSpace(storage.data_dir, storage.min_free_bytes))
    try:
        yield store
    except StorageUnavailableError as error:
        raise StartupError(f"Cannot read the images: {error}. Try again later.") from error
    finally:
        await store.close()


@contextmanager
def _open_database(data_dir: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the database. Raise `StartupError` instead of errors of SQLite, also in the block."""
    database = data_dir / DATABASE
    try:
        with checking.open_for_check(database, write=write) as c:
            yield c
    except sqlite3.Error as error:
        raise StartupError(
            f"Cannot check {database}: {error}. Check --data-dir. After an update of imgsvc, start the "
            "service once, so that it updates its database. If the file is damaged, restore the backup."
        ) from error


async def _is_whole(store: ImageStore, output: RecordedOutput) -> bool | None:
    """Return whether an output has its recorded size and digest. None: it is missing.

    The digest of outputs of version 1.0 is not known.
    """
    digest, size = hashlib.sha256(), 0
    try:
        while chunk := await store.read(output.name, size, CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if len(chunk) < CHUNK_BYTES:
                break
    except FileNotFoundError:
        return None
    return size == output.size and output.digest in {None, digest.digest()}
