"""Uploads: reads a stream of bytes as a table and stores it, or raises the errors that it has."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from imgsvc.config import ServerConfig
from imgsvc.database.request_store import RequestStore
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.metrics import Metrics
from imgsvc.models import Product, Request, RequestOptions
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.table.reader import TableReader

log = logging.getLogger(__name__)

FEED_BYTES = 32 * 1024
"""Bytes parsed between two yields to the event loop, so that a large chunk does not delay responses."""


class Wakeable(Protocol):
    """A component that looks for new work when it is woken."""

    def wake(self) -> None:
        """Look for new work now."""


@dataclass(frozen=True, slots=True)
class StagingLimits:
    """The limits of a transaction that writes rows of an upload."""

    rows: int = 1_000
    """Maximum number of rows. They take a few milliseconds, so uploads do not delay other writes."""
    size: int = 128 * 1024
    """Rows are written after this many bytes of the table, even if they are fewer than `rows`. This
    limits the memory used by rows with many images or long cells."""


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """The options of an upload.

    `requested` is the text of the options that the caller set. It identifies a repeated upload even if
    the service's default settings have changed since.
    """

    request_options: RequestOptions
    dry_run: bool = False
    requested: str = ""


@dataclass(frozen=True, slots=True)
class UploadResult:
    """The result of an upload. `request` is None for a dry run, which stores nothing."""

    request: Request | None
    products: int
    images: int
    replayed: bool = False


class Intake:
    """Accepts uploads.

    It wakes `scheduler` after a request is accepted, and `maintenance` after a rejected upload whose
    staged rows have to be deleted.
    """

    def __init__(
        self,
        request_store: RequestStore,
        config: ServerConfig,
        metrics: Metrics,
        disk_space: DiskSpace,
        *,
        scheduler: Wakeable,
        maintenance: Wakeable,
        limits: StagingLimits = StagingLimits(),
    ) -> None:
        self._request_store = request_store
        self._config = config
        self._metrics = metrics
        self._disk_space = disk_space
        self._scheduler = scheduler
        self._maintenance = maintenance
        self._limits = limits
        self._keys_in_progress: set[str] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._stopping = False

    async def upload(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        *,
        idempotency_key: str | None = None,
    ) -> UploadResult:
        """Read an upload to its end and accept it, or raise `ProblemError`.

        `options` returns the options received so far; once `chunks` has ended, these are all options.
        An accepted request is on disk. Nothing is stored of a rejected one.
        """
        self._check_open()
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            result = await self._upload_with_key(chunks, options, idempotency_key)
        except asyncio.CancelledError:
            if not self._stopping or task is None or task.uncancel():
                raise
            raise _stopping() from None
        except ProblemError as error:
            self._metrics.uploads.labels(error.code).inc()
            raise
        finally:
            if task is not None:
                self._tasks.discard(task)
        self._metrics.uploads.labels(_outcome(result)).inc()
        if result.request is not None and not result.replayed:
            self._scheduler.wake()
        return result

    def stop(self) -> None:
        """Reject new uploads and those still being read. Uploads being committed are completed."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()

    def _check_open(self) -> None:
        if self._stopping:
            raise _stopping()
        if not self._disk_space.has_free_space():
            raise ProblemError(
                ProblemCode.STORAGE_FULL,
                "The storage is full. Free disk space on the server, then upload again.",
                retry_after=60,
            )

    async def _upload_with_key(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        idempotency_key: str | None,
    ) -> UploadResult:
        if idempotency_key is None:
            return await self._new_upload(chunks, options, None)
        if idempotency_key in self._keys_in_progress:
            raise ProblemError(
                ProblemCode.IDEMPOTENCY_KEY_BUSY,
                "An upload with this Idempotency-Key is still in progress. Wait for its response.",
                retry_after=1,
            )
        self._keys_in_progress.add(idempotency_key)
        try:
            bound = await self._request_store.find_idempotent(idempotency_key)
            if bound is None:
                return await self._new_upload(chunks, options, idempotency_key)
        finally:
            self._keys_in_progress.discard(idempotency_key)
        return await self._replay(chunks, options, *bound)

    async def _replay(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        fingerprint: str,
        request: Request,
    ) -> UploadResult:
        digest = hashlib.sha256()
        async for chunk in chunks:
            digest.update(chunk)
        repeated = _fingerprint(digest.digest(), options())
        # Requests of older versions have only one hash.
        pairs = zip(repeated.split(), fingerprint.split(), strict=False)
        if not any(one == other for one, other in pairs):
            raise ProblemError(
                ProblemCode.IDEMPOTENCY_KEY_REUSED,
                "This Idempotency-Key was already used with a different file or different options. "
                "Use a new key for a new upload.",
            )
        return UploadResult(request, request.products, request.progress.total, replayed=True)

    async def _new_upload(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        idempotency_key: str | None,
    ) -> UploadResult:
        upload = _Upload(self._request_store, self._config, self._limits)
        accepted = False
        try:
            await upload.read(chunks, store=not options().dry_run)
            final_options = options()
            upload.check()
            if final_options.dry_run:
                return upload.result(None)
            # A commit that has begun always completes. If a stop cancelled the task now, the response
            # would wrongly say that the upload was rejected.
            if (task := asyncio.current_task()) is not None:
                self._tasks.discard(task)
            request = await upload.accept(final_options, idempotency_key)
            accepted = True
        finally:
            if not accepted and upload.staged:
                await asyncio.shield(self._discard(upload))
        return upload.result(request)

    async def _discard(self, upload: _Upload) -> None:
        try:
            await upload.discard()
        finally:
            self._maintenance.wake()


class _Upload:
    """One upload. Its rows are staged under a request that stays hidden until it is accepted."""

    def __init__(
        self, request_store: RequestStore, config: ServerConfig, limits: StagingLimits
    ) -> None:
        self._request_store = request_store
        self._config = config
        self._limits = limits
        self._reader = TableReader(max_images=config.max_images_per_request)
        self._digest = hashlib.sha256()
        self._rows: list[Product] = []
        self._unstaged_bytes = 0
        self._begin_task: asyncio.Task[int] | None = None
        self._staging_task: asyncio.Task[None] | None = None

    @property
    def staged(self) -> bool:
        """Whether rows have been staged, or are being staged."""
        return self._begin_task is not None

    def result(self, request: Request | None) -> UploadResult:
        """Return the result of this upload."""
        return UploadResult(request, self._reader.products, self._reader.images)

    async def read(self, chunks: AsyncIterator[bytes], *, store: bool) -> None:
        """Read the table to its end, and stage its rows if `store` is set."""
        async for chunk in chunks:
            self._digest.update(chunk)
            for start in range(0, len(chunk), FEED_BYTES):
                piece = chunk[start : start + FEED_BYTES]
                self._unstaged_bytes += len(piece)
                await self._add_rows(self._reader.feed(piece), store=store)
        await self._add_rows(self._reader.close(), store=store, last=True)
        await self._wait_for_staging()

    async def _add_rows(self, rows: list[Product], *, store: bool, last: bool = False) -> None:
        if self._reader.images > self._config.max_images_per_request:
            raise ProblemError(
                ProblemCode.TOO_MANY_IMAGES,
                f"The file has more than {self._config.max_images_per_request:,} images "
                "(server.max_images_per_request). Split it into several uploads.",
            )
        if not store or self._reader.error_count:
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
            self._begin_task = asyncio.create_task(self._request_store.begin())
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
        """Raise `ProblemError` with all errors of the table, if it has any."""
        count = self._reader.error_count
        if count:
            raise ProblemError(
                ProblemCode.INVALID_CSV,
                f"{count:,} problem{'s' if count > 1 else ''} found; nothing was saved. "
                f"Fix {'them' if count > 1 else 'it'} and upload again.",
                errors=self._reader.errors,
                error_count=count,
                columns=self._reader.shown_columns,
            )

    async def accept(self, options: UploadOptions, idempotency_key: str | None) -> Request:
        """Accept the request with all its rows, in one transaction."""
        columns = self._reader.columns
        assert columns is not None, "a valid table has columns"  # noqa: S101
        assert self._begin_task is not None, "a valid table has rows"  # noqa: S101
        idempotency = None
        if idempotency_key is not None:
            idempotency = (idempotency_key, _fingerprint(self._digest.digest(), options))
        request = await self._request_store.accept(
            self._begin_task.result(),
            columns,
            options.request_options,
            max_waiting=self._config.max_waiting_images,
            idempotency=idempotency,
        )
        log.info(
            "accepted",
            extra={
                "request": request.request_id,
                "products": request.products,
                "images": request.progress.total,
            },
        )
        return request


def _fingerprint(digest: bytes, options: UploadOptions) -> str:
    """Return two hashes that identify the table's bytes and the options' values.

    The first hash is of the requested options, the second of the effective ones, which include the
    service's defaults. A repeated upload shares at least one hash with the first upload, even if the
    defaults have changed, or if it sets options explicitly that it left to the defaults before.
    """
    effective_options = options.request_options
    effective = f"{effective_options.settings} {effective_options.webhook_url} {options.dry_run}"
    if effective_options.fresh:
        effective += " fresh"
    return " ".join(
        hashlib.sha256(digest + text.encode()).hexdigest()
        for text in (options.requested, effective)
    )


def _outcome(result: UploadResult) -> str:
    if result.request is None:
        return "dry-run"
    return "replayed" if result.replayed else "accepted"


def _stopping() -> ProblemError:
    return ProblemError(
        ProblemCode.UNAVAILABLE, "The service is stopping. Try again in a moment.", retry_after=5
    )
