"""Uploads: accepts a table with its options, under an idempotency key, or raises the errors it has."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from imgsvc.config import ServerConfig
from imgsvc.database.request_store import RequestStore
from imgsvc.errors import FileError, ProblemCode, ProblemError
from imgsvc.metrics import Metrics
from imgsvc.models import Request, RequestOptions
from imgsvc.spreadsheets import Spreadsheets
from imgsvc.staged_upload import StagedUpload, StagingLimits
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.scratch import Scratch
from imgsvc.storage.spool import Spool
from imgsvc.table.file_errors import MAX_FILE_ERRORS
from imgsvc.table_types import InputTable, Product, TableOptions

log = logging.getLogger(__name__)


class Wakeable(Protocol):
    """A component that looks for new work when it is woken."""

    def wake(self) -> None:
        """Look for new work now."""


@dataclass(frozen=True, slots=True)
class UploadResources:
    """The local resources that uploads use."""

    disk_space: DiskSpace
    scratch: Scratch
    spreadsheets: Spreadsheets


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """The options of an upload.

    `requested` is the text of the options that the caller set. It identifies a repeated upload even if
    the service's default settings have changed since. `file_name` is the request's name unless
    `request_options` has one.
    """

    request_options: RequestOptions
    dry_run: bool = False
    requested: str = ""
    table: TableOptions = TableOptions()
    file_name: str | None = None

    @property
    def name(self) -> str | None:
        """The display name of the request."""
        return self.request_options.name or self.file_name


@dataclass(frozen=True, slots=True)
class UploadResult:
    """The result of an upload. `request` is None for a dry run, which stores nothing.

    `errors` are the first 100 errors of the skipped rows, `error_count` is the number of all. A dry run
    has the first products in `preview`.
    """

    request: Request | None
    name: str | None
    products: int
    images: int
    table: InputTable
    skipped: int = 0
    errors: tuple[FileError, ...] = ()
    error_count: int = 0
    preview: tuple[Product, ...] = ()
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
        resources: UploadResources,
        *,
        scheduler: Wakeable,
        maintenance: Wakeable,
        limits: StagingLimits = StagingLimits(),
    ) -> None:
        self._request_store = request_store
        self._config = config
        self._metrics = metrics
        self._resources = resources
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
        options_follow: bool = False,
    ) -> UploadResult:
        """Read an upload to its end and accept it, or raise `ProblemError`.

        `options` returns the options received so far; once `chunks` has ended, these are all options.
        `options_follow` is whether more options may come while `chunks` is read.
        An accepted request is on disk. Nothing is stored of a rejected one.
        """
        self._check_open()
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            result = await self._upload_with_key(
                chunks, options, idempotency_key, options_follow=options_follow
            )
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
        if not self._resources.disk_space.has_free_space():
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
        *,
        options_follow: bool,
    ) -> UploadResult:
        if idempotency_key is None:
            return await self._new_upload(chunks, options, None, options_follow=options_follow)
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
                return await self._new_upload(
                    chunks, options, idempotency_key, options_follow=options_follow
                )
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
        errors = await self._request_store.skipped_errors(request.key, MAX_FILE_ERRORS)
        return UploadResult(
            request,
            request.options.name,
            request.products,
            request.progress.total,
            request.table,
            request.skipped,
            errors,
            request.error_count,
            replayed=True,
        )

    async def _new_upload(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        idempotency_key: str | None,
        *,
        options_follow: bool,
    ) -> UploadResult:
        first = await _first_chunk(chunks)
        upload = self._begin(options())
        accepted = False
        async with Spool(self._resources.scratch) as body:
            try:
                file = _file_chunks(first, chunks, body if options_follow else None)
                await upload.read(file, store=not options().dry_run)
                final_options = options()
                if final_options.table != upload.table_options:
                    # Options that follow the file in a form change how it is read: read it again.
                    if upload.staged:
                        await asyncio.shield(self._discard(upload))
                    upload = self._begin(final_options)
                    await upload.read(body.chunks(), store=not final_options.dry_run)
                upload.check()
                request = None
                if not final_options.dry_run:
                    # A commit that has begun always completes. If a stop cancelled the task now, the
                    # response would wrongly say that the upload was rejected.
                    if (task := asyncio.current_task()) is not None:
                        self._tasks.discard(task)
                    request = await self._accept(upload, final_options, idempotency_key)
                    accepted = True
            finally:
                if not accepted and upload.staged:
                    await asyncio.shield(self._discard(upload))
        return _result(upload, request, final_options.name)

    def _begin(self, options: UploadOptions) -> StagedUpload:
        return StagedUpload(
            self._request_store,
            self._config,
            self._resources.spreadsheets,
            options.table,
            self._limits,
        )

    async def _accept(
        self, upload: StagedUpload, options: UploadOptions, idempotency_key: str | None
    ) -> Request:
        idempotency = None
        if idempotency_key is not None:
            idempotency = (idempotency_key, _fingerprint(upload.digest, options))
        request = await upload.accept(
            replace(options.request_options, name=options.name), idempotency
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

    async def _discard(self, upload: StagedUpload) -> None:
        try:
            await upload.discard()
        finally:
            self._maintenance.wake()


async def _first_chunk(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the first bytes of a file. The options of a form that precede it have been received."""
    async for chunk in chunks:
        if chunk:
            return chunk
    return b""


async def _file_chunks(
    first: bytes, chunks: AsyncIterator[bytes], copy: Spool | None
) -> AsyncGenerator[bytes, None]:
    """Yield the first chunk and the others. Write them to `copy` too."""
    if copy is not None:
        await copy.write(first)
    yield first
    async for chunk in chunks:
        if copy is not None:
            await copy.write(chunk)
        yield chunk


def _result(upload: StagedUpload, request: Request | None, name: str | None) -> UploadResult:
    reader = upload.reader
    return UploadResult(
        request,
        name,
        reader.products,
        reader.images,
        upload.table,
        reader.skipped,
        tuple(reader.errors),
        reader.error_count,
        tuple(upload.preview),
    )


def _fingerprint(digest: bytes, options: UploadOptions) -> str:
    """Return two hashes that identify the table's bytes and the options' values.

    The first hash is of the requested options, the second of the effective ones, which include the
    service's defaults. A repeated upload shares at least one hash with the first upload, even if the
    defaults have changed, or if it sets options explicitly that it left to the defaults before.
    """
    effective_options = options.request_options
    effective = f"{effective_options.settings} {effective_options.webhook_url} {options.dry_run}"
    # Nothing is added for defaults, so that keys bound by version 1.0 stay valid.
    if options.table != TableOptions() or effective_options.name is not None:
        effective += f" {options.table} {effective_options.name}"
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
