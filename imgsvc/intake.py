"""Uploads: accepts a table with its options, under an idempotency key, or raises the errors it has.

A request can be repeated without its table, under the same rules.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from imgsvc.config import ServerConfig
from imgsvc.database.request_store import RequestStore
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.metrics import Metrics
from imgsvc.models import Request
from imgsvc.spreadsheets import Spreadsheets
from imgsvc.staged_repeat import StagedRepeat
from imgsvc.staged_upload import StagedUpload, StagingLimits
from imgsvc.storage.scratch import Scratch
from imgsvc.storage.spool import Spool
from imgsvc.storage.state import DISK_FULL, StorageState
from imgsvc.table.file_errors import MAX_FILE_ERRORS
from imgsvc.upload_chunks import file_chunks, first_chunk
from imgsvc.upload_limits import RowMemory, UploadSlots
from imgsvc.upload_types import RepeatOptions, UploadOptions, UploadResult

log = logging.getLogger(__name__)


class Wakeable(Protocol):
    """A component that looks for new work when it is woken."""

    def wake(self) -> None:
        """Look for new work now."""


@dataclass(frozen=True, slots=True)
class UploadResources:
    """The local resources that uploads use."""

    storage: StorageState
    scratch: Scratch
    spreadsheets: Spreadsheets


class Submission(NamedTuple):
    """The owner of a new request, or None, and the Idempotency-Key of its API call, or None."""

    owner: str | None
    idempotency_key: str | None

    def bound_to(self, fingerprint: str) -> tuple[str, str] | None:
        """Return the Idempotency-Key with the fingerprint of its upload, or None without a key."""
        return None if self.idempotency_key is None else (self.idempotency_key, fingerprint)


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
        self._row_memory = RowMemory(config)
        self._upload_slots = UploadSlots(config)
        self._keys_in_progress: set[Submission] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._stopping = False

    async def upload(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        *,
        owner: str | None = None,
        idempotency_key: str | None = None,
        options_follow: bool = False,
    ) -> UploadResult:
        """Read an upload to its end and accept it, or raise `ProblemError`.

        `options` returns the options received so far; once `chunks` has ended, these are all options.
        `options_follow` is whether more options may come while `chunks` is read.
        An accepted request is on disk. Nothing is stored of a rejected one.
        """
        self._check_open()
        submission = Submission(owner, idempotency_key)
        with self._upload_slots.slot():
            return await self._run(
                self._upload_with_key(chunks, options, submission, options_follow=options_follow)
            )

    async def repeat(
        self,
        request_id: str,
        options: RepeatOptions,
        *,
        owner: str | None = None,
        idempotency_key: str | None = None,
    ) -> UploadResult:
        """Accept a new request with the rows and the options of another one, or raise `ProblemError`.

        `options` replace those of the other request. An accepted request is on disk.
        """
        self._check_open()
        submission = Submission(owner, idempotency_key)
        return await self._run(self._repeat_with_key(request_id, options, submission))

    async def _run(self, upload: Coroutine[object, object, UploadResult]) -> UploadResult:
        """Run an upload so that `stop` can cancel it, count its result, and wake the scheduler."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            result = await upload
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
        problem = self._resources.storage.problem
        if problem == DISK_FULL:
            raise ProblemError(
                ProblemCode.STORAGE_FULL,
                "The storage is full. Free disk space on the server, then upload again.",
                retry_after=60,
            )
        if problem is not None:
            raise ProblemError(
                ProblemCode.UNAVAILABLE,
                f"Images cannot be stored: {problem}. Try again later.",
                retry_after=30,
            )

    async def _upload_with_key(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        submission: Submission,
        *,
        options_follow: bool,
    ) -> UploadResult:
        async with self._reserved(submission) as bound:
            if bound is None:
                return await self._new_upload(
                    chunks, options, submission, options_follow=options_follow
                )
        digest = hashlib.sha256()
        async for chunk in chunks:
            digest.update(chunk)
        return await self._replay(options().fingerprint(digest.digest()), *bound)

    async def _repeat_with_key(
        self, request_id: str, options: RepeatOptions, submission: Submission
    ) -> UploadResult:
        fingerprint = options.fingerprint(request_id)
        async with self._reserved(submission) as bound:
            if bound is None:
                return await self._new_repeat(request_id, options, submission, fingerprint)
        return await self._replay(fingerprint, *bound)

    @asynccontextmanager
    async def _reserved(
        self, submission: Submission
    ) -> AsyncGenerator[tuple[str, Request] | None, None]:
        """Reserve an Idempotency-Key. Yield the fingerprint and the request that it is bound to."""
        owner, idempotency_key = submission
        if idempotency_key is None:
            yield None
            return
        if submission in self._keys_in_progress:
            raise ProblemError(
                ProblemCode.IDEMPOTENCY_KEY_BUSY,
                "An upload with this Idempotency-Key is still in progress. Wait for its response.",
                retry_after=1,
            )
        self._keys_in_progress.add(submission)
        try:
            yield await self._request_store.find_idempotent(idempotency_key, owner)
        finally:
            self._keys_in_progress.discard(submission)

    async def _replay(self, repeated: str, fingerprint: str, request: Request) -> UploadResult:
        # Requests of older versions, and repeated requests, have only one hash.
        pairs = zip(repeated.split(), fingerprint.split(), strict=False)
        if not any(one == other for one, other in pairs):
            raise ProblemError(
                ProblemCode.IDEMPOTENCY_KEY_REUSED,
                "This Idempotency-Key was already used with a different file or different options. "
                "Use a new key for a new upload.",
            )
        return replace(await self._result_of(request), replayed=True)

    async def _result_of(self, request: Request) -> UploadResult:
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
        )

    async def _new_repeat(
        self, request_id: str, options: RepeatOptions, submission: Submission, fingerprint: str
    ) -> UploadResult:
        source = await self._request_store.find_repeatable(request_id)
        copy = StagedRepeat(self._request_store, source, submission.owner)
        idempotency = submission.bound_to(fingerprint)
        accepted = False
        try:
            await copy.stage()
            self._begin_commit()
            request = await copy.accept(
                options.applied_to(source.options),
                idempotency,
                max_waiting=self._config.max_waiting_images,
            )
            accepted = True
        finally:
            if not accepted:
                await asyncio.shield(self._discard(copy))
        _log_accepted(request, submission.owner)
        return await self._result_of(request)

    async def _new_upload(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        submission: Submission,
        *,
        options_follow: bool,
    ) -> UploadResult:
        first = await first_chunk(chunks)
        upload = self._begin(options(), submission.owner)
        accepted = False
        async with Spool(self._resources.scratch) as body:
            try:
                file = file_chunks(first, chunks, body if options_follow else None)
                await upload.read(file, store=not options().dry_run)
                final_options = options()
                if final_options.table != upload.table_options:
                    # Options that follow the file in a form change how it is read: read it again.
                    if upload.staged:
                        await asyncio.shield(self._discard(upload))
                    upload = self._begin(final_options, submission.owner)
                    await upload.read(body.chunks(), store=not final_options.dry_run)
                upload.check()
                request = None
                if not final_options.dry_run:
                    self._begin_commit()
                    request = await self._accept(upload, final_options, submission)
                    accepted = True
            finally:
                if not accepted and upload.staged:
                    await asyncio.shield(self._discard(upload))
        return _result(upload, request, final_options.name)

    def _begin(self, options: UploadOptions, owner: str | None) -> StagedUpload:
        return StagedUpload(
            self._request_store,
            self._config,
            self._resources.spreadsheets,
            self._row_memory,
            options.table,
            limits=self._limits,
            owner=owner,
        )

    async def _accept(
        self, upload: StagedUpload, options: UploadOptions, submission: Submission
    ) -> Request:
        idempotency = submission.bound_to(options.fingerprint(upload.digest))
        request = await upload.accept(
            replace(options.request_options, name=options.name), idempotency
        )
        _log_accepted(request, submission.owner)
        return request

    def _begin_commit(self) -> None:
        """Protect the current upload from `stop`: a commit that has begun always completes.

        If a stop cancelled its task now, the response would wrongly say that the upload was rejected.
        """
        if (task := asyncio.current_task()) is not None:
            self._tasks.discard(task)

    async def _discard(self, upload: StagedUpload | StagedRepeat) -> None:
        try:
            await upload.discard()
        finally:
            self._maintenance.wake()


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


def _log_accepted(request: Request, owner: str | None) -> None:
    fields = {
        "request": request.request_id,
        "products": request.products,
        "images": request.progress.total,
    }
    log.info("accepted", extra=fields if owner is None else fields | {"owner": owner})


def _outcome(result: UploadResult) -> str:
    if result.request is None:
        return "dry-run"
    return "replayed" if result.replayed else "accepted"


def _stopping() -> ProblemError:
    return ProblemError(
        ProblemCode.UNAVAILABLE, "The service is stopping. Try again in a moment.", retry_after=5
    )
