"""One upload: reads a stream of bytes as a table, and stages its rows in the database."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from imgsvc.config import ServerConfig
from imgsvc.database.request_store import RequestStore
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.models import Request, RequestOptions
from imgsvc.spreadsheets import Spreadsheets
from imgsvc.table.reader import TableReader
from imgsvc.table.xlsx import XLSX_SIGNATURE
from imgsvc.table_types import InputTable, Product, TableOptions
from imgsvc.upload_limits import RowMemory

FEED_BYTES = 32 * 1024
"""Bytes parsed between two yields to the event loop, so that a large chunk does not delay responses."""
PREVIEW_PRODUCTS = 3
"""Number of products that a dry run shows."""


@dataclass(frozen=True, slots=True)
class StagingLimits:
    """The limits of a transaction that writes rows of an upload."""

    rows: int = 1_000
    """Maximum number of rows. They take a few milliseconds, so uploads do not delay other writes."""
    size: int = 128 * 1024
    """Rows are written after this many bytes of the table, even if they are fewer than `rows`. This
    limits the memory used by rows with many images or long cells."""


class StagedUpload:
    """One upload. Its rows are staged under a request that stays hidden until it is accepted.

    `preview` are the first valid products. `owner` is the name of the API key that made the upload.
    """

    def __init__(
        self,
        request_store: RequestStore,
        config: ServerConfig,
        spreadsheets: Spreadsheets,
        row_memory: RowMemory,
        table_options: TableOptions,
        *,
        limits: StagingLimits,
        owner: str | None = None,
    ) -> None:
        self._request_store = request_store
        self._config = config
        self._spreadsheets = spreadsheets
        self._row_memory = row_memory
        self._limits = limits
        self._owner = owner
        self.table_options = table_options
        self.reader = TableReader(table_options, max_images=config.max_images_per_request)
        self.preview: list[Product] = []
        self._digest = hashlib.sha256()
        self._rows: list[Product] = []
        self._unstaged_bytes = 0
        self._begin_task: asyncio.Task[int] | None = None
        self._staging_task: asyncio.Task[None] | None = None

    @property
    def staged(self) -> bool:
        """Whether rows have been staged, or are being staged."""
        return self._begin_task is not None

    @property
    def table(self) -> InputTable:
        """The table of a valid upload, once it has been read."""
        assert self.reader.table is not None, "a valid table has columns"  # noqa: S101
        return self.reader.table

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the bytes so far."""
        return self._digest.digest()

    async def read(self, chunks: AsyncIterator[bytes], *, store: bool) -> None:
        """Read the table to its end, and stage its rows if `store` is set."""
        async for products in self._products(chunks):
            await self._add_rows(products, store=store)
        await self._add_rows(self.reader.close(), store=store, last=True)
        await self._wait_for_staging()

    async def _products(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[list[Product], None]:
        """Feed the file to the reader. Yield its products, often, also if there are none.

        The first bytes decide whether the file is .xlsx.
        """
        start = b""
        async for chunk in chunks:
            start += chunk
            if len(start) >= len(XLSX_SIGNATURE):
                break
        file = self._hashed(start, chunks)
        if start.startswith(XLSX_SIGNATURE):
            self.reader.feed_rows(1, [])
            async with aclosing(self._spreadsheets.rows(file)) as batches:
                async for first_row, rows in batches:
                    self._unstaged_bytes += sum(len(cell) for row in rows for cell in row)
                    yield self.reader.feed_rows(first_row, rows)
            return
        with self._row_memory.share() as share:
            async for chunk in file:
                for first in range(0, len(chunk), FEED_BYTES):
                    piece = chunk[first : first + FEED_BYTES]
                    self._unstaged_bytes += len(piece)
                    yield self.reader.feed(piece)
                    await share.resize(self.reader.buffered_bytes)

    async def _hashed(
        self, start: bytes, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the start and the rest of the file, and add them to the digest."""
        self._digest.update(start)
        yield start
        async for chunk in chunks:
            self._digest.update(chunk)
            yield chunk

    async def _add_rows(self, rows: list[Product], *, store: bool, last: bool = False) -> None:
        if self.reader.images > self._config.max_images_per_request:
            raise ProblemError(
                ProblemCode.TOO_MANY_IMAGES,
                f"The file has more than {self._config.max_images_per_request:,} images "
                "(server.max_images_per_request). Split it into several uploads.",
            )
        if len(self.preview) < PREVIEW_PRODUCTS:
            valid = [product for product in rows if not product.errors]
            self.preview += valid[: PREVIEW_PRODUCTS - len(self.preview)]
        if not store or self.reader.refused:
            self._rows.clear()
            await asyncio.sleep(0)
            return
        self._rows += rows
        count = self._limits.rows
        while len(self._rows) >= count or (
            self._rows and (last or self._unstaged_bytes >= self._limits.size)
        ):
            batch, self._rows = self._rows[:count], self._rows[count:]
            self._unstaged_bytes = 0
            await self._stage(batch)
        await asyncio.sleep(0)

    async def _stage(self, rows: list[Product]) -> None:
        if self._begin_task is None:
            self._begin_task = asyncio.create_task(self._request_store.begin(self._owner))
        # If this task is cancelled here, the request still begins, and its key is needed to discard it.
        request_key = await asyncio.shield(self._begin_task)
        await self._wait_for_staging()
        # Read the next rows while these are written.
        self._staging_task = asyncio.create_task(self._request_store.stage(request_key, rows))

    async def _wait_for_staging(self) -> None:
        staging_task, self._staging_task = self._staging_task, None
        if staging_task is not None:
            await staging_task

    async def discard(self) -> None:
        """Mark the staged rows for deletion. Call this only if rows have been staged."""
        assert self._begin_task is not None, "rows are staged"  # noqa: S101
        request_key = await self._begin_task
        try:
            await self._wait_for_staging()
        finally:
            await self._request_store.discard(request_key)

    def check(self) -> None:
        """Raise `ProblemError` with all errors of the table, if they refuse it."""
        if not self.reader.refused:
            return
        count = self.reader.error_count
        raise ProblemError(
            ProblemCode.INVALID_CSV,
            f"{count:,} problem{'s' if count > 1 else ''} found; nothing was saved. "
            f"Fix {'them' if count > 1 else 'it'} and upload again.",
            errors=self.reader.errors,
            error_count=count,
            columns=self.reader.shown_columns,
        )

    async def accept(self, options: RequestOptions, idempotency: tuple[str, str] | None) -> Request:
        """Accept the request with all its rows, in one transaction.

        `idempotency` is an Idempotency-Key and the fingerprint of the upload.
        """
        assert self._begin_task is not None, "a valid table has rows"  # noqa: S101
        return await self._request_store.accept(
            self._begin_task.result(),
            self.table,
            options,
            max_waiting=self._config.max_waiting_images,
            error_count=self.reader.error_count,
            idempotency=idempotency,
        )
