"""An upload's way in: stream of bytes → table → database, or a refusal that says why."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from imgsvc.config import ServerConfig
from imgsvc.database.request_store import RequestStore
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.metrics import Metrics
from imgsvc.models import Product, Request, RequestOptions
from imgsvc.table.reader import TableReader

log = logging.getLogger(__name__)

STAGED_ROWS = 1_000
"""Rows in one transaction: few milliseconds, so that an upload holds up nobody's writes."""
STAGED_BYTES = 128 * 1024
"""Bytes of a table whose rows are staged together, however few: they may have many images, or long
cells, and none of them is to wait in memory for a thousand others."""
FEED_BYTES = 32 * 1024
"""Bytes that are parsed without a pause, so that a large chunk holds up nobody's answers."""


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """What came with the upload beside the table.

    `asked` are the options as the caller named them: an upload that is sent again is known by them,
    whatever the service's own settings are by then.
    """

    options: RequestOptions
    dry_run: bool = False
    asked: str = ""


@dataclass(frozen=True, slots=True)
class UploadResult:
    """What became of an upload. `request` is None for a dry run, which stores nothing."""

    request: Request | None
    products: int
    images: int
    replayed: bool = False


class Intake:
    """Takes uploads.

    `has_free_space` says whether the disk has room for more; `accepted` is called after each request that
    was accepted, `discarded` after each that left something to clean up.
    """

    def __init__(
        self,
        uploads: RequestStore,
        config: ServerConfig,
        metrics: Metrics,
        *,
        has_free_space: Callable[[], bool],
        accepted: Callable[[], None],
        discarded: Callable[[], None],
    ) -> None:
        self._uploads = uploads
        self._config = config
        self._metrics = metrics
        self._has_free_space = has_free_space
        self._accepted = accepted
        self._discarded = discarded
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

        `options` gives what is known of the options so far, and all of them once `chunks` has ended.
        A request that was accepted is on disk; of one that was refused nothing stays.
        """
        self._check_open()
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            accepted = await self._keyed(chunks, options, idempotency_key)
        except asyncio.CancelledError:
            if not self._stopping or task is None or task.uncancel():
                raise
            raise _stopping() from None
        except ProblemError as refusal:
            self._metrics.uploads.labels(refusal.code).inc()
            raise
        finally:
            if task is not None:
                self._tasks.discard(task)
        self._metrics.uploads.labels(_outcome(accepted)).inc()
        if accepted.request is not None and not accepted.replayed:
            self._accepted()
        return accepted

    def stop(self) -> None:
        """Refuse what comes, and what is still being uploaded; what is being accepted is accepted."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()

    def _check_open(self) -> None:
        if self._stopping:
            raise _stopping()
        if not self._has_free_space():
            raise ProblemError(
                ProblemCode.STORAGE_FULL,
                "The storage has no room for more work. Try again when some has been freed.",
                retry_after=60,
            )

    async def _keyed(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        idempotency_key: str | None,
    ) -> UploadResult:
        if idempotency_key is None:
            return await self._upload().run(chunks, options, None)
        if idempotency_key in self._keys_in_progress:
            raise ProblemError(
                ProblemCode.IDEMPOTENCY_KEY_BUSY,
                "An upload with this Idempotency-Key is still in progress. Wait for its answer.",
                retry_after=1,
            )
        self._keys_in_progress.add(idempotency_key)
        try:
            bound = await self._uploads.find_idempotent(idempotency_key)
            if bound is None:
                return await self._upload().run(chunks, options, idempotency_key)
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
        again = _fingerprint(digest.digest(), options())
        pairs = zip(again.split(), fingerprint.split(), strict=False)  # an old request has but one
        if not any(one == other for one, other in pairs):
            raise ProblemError(
                ProblemCode.IDEMPOTENCY_KEY_REUSED,
                "This Idempotency-Key came before with another table or other options. "
                "Use a new key for a new upload.",
            )
        return UploadResult(request, request.products, request.progress.total, replayed=True)

    def _upload(self) -> _Upload:
        return _Upload(self._uploads, self._config, self._accepting, self._discarded)

    def _accepting(self) -> None:
        # Once begun the commit is made, whatever becomes of its caller, who would be told otherwise.
        if (task := asyncio.current_task()) is not None:
            self._tasks.discard(task)


class _Upload:
    """One upload on its way: rows are staged under a request that nobody sees until it is accepted."""

    def __init__(
        self,
        uploads: RequestStore,
        config: ServerConfig,
        accepting: Callable[[], None],
        discarded: Callable[[], None],
    ) -> None:
        self._uploads = uploads
        self._config = config
        self._accepting = accepting
        self._discarded = discarded
        self._reader = TableReader(max_images=config.max_images_per_request)
        self._digest = hashlib.sha256()
        self._rows: list[Product] = []
        self._unstaged_bytes = 0
        self._beginning: asyncio.Task[int] | None = None
        self._staging: asyncio.Task[None] | None = None

    async def run(
        self,
        chunks: AsyncIterator[bytes],
        options: Callable[[], UploadOptions],
        idempotency_key: str | None,
    ) -> UploadResult:
        accepted = False
        try:
            await self._read(chunks, store=not options().dry_run)
            given = options()
            self._check_table()
            if given.dry_run:
                return UploadResult(None, self._reader.products, self._reader.images)
            request = await self._accept(given, idempotency_key)
            accepted = True
        finally:
            if not accepted and self._beginning is not None:
                await asyncio.shield(self._discard(self._beginning))
        return UploadResult(request, self._reader.products, self._reader.images)

    async def _read(self, chunks: AsyncIterator[bytes], *, store: bool) -> None:
        async for chunk in chunks:
            self._digest.update(chunk)
            for start in range(0, len(chunk), FEED_BYTES):
                piece = chunk[start : start + FEED_BYTES]
                self._unstaged_bytes += len(piece)
                await self._take(self._reader.feed(piece), store=store)
        await self._take(self._reader.close(), store=store, last=True)
        await self._staged()

    async def _take(self, rows: list[Product], *, store: bool, last: bool = False) -> None:
        if self._reader.images > self._config.max_images_per_request:
            raise ProblemError(
                ProblemCode.TOO_MANY_IMAGES,
                f"The table has more than {self._config.max_images_per_request:,} images "
                "(server.max_images_per_request). Split it into several uploads.",
            )
        if not store or self._reader.error_count:
            self._rows.clear()
            await asyncio.sleep(0)
            return
        self._rows += rows
        while len(self._rows) >= STAGED_ROWS or (
            self._rows and (last or self._unstaged_bytes >= STAGED_BYTES)
        ):
            batch, self._rows = self._rows[:STAGED_ROWS], self._rows[STAGED_ROWS:]
            self._unstaged_bytes = 0
            await self._stage(batch)
        await asyncio.sleep(0)

    async def _stage(self, rows: list[Product]) -> None:
        if self._beginning is None:
            self._beginning = asyncio.create_task(self._uploads.begin())
        # Cut short here, the request is begun all the same, and its key is needed to discard it.
        request_key = await asyncio.shield(self._beginning)
        await self._staged()
        # The next rows are read meanwhile.
        self._staging = asyncio.create_task(self._uploads.stage(request_key, rows))

    async def _staged(self) -> None:
        staging, self._staging = self._staging, None
        if staging is not None:
            await staging

    async def _discard(self, beginning: asyncio.Task[int]) -> None:
        request_key = await beginning
        try:
            await self._staged()
        finally:
            await self._uploads.discard(request_key)
            self._discarded()

    def _check_table(self) -> None:
        count = self._reader.error_count
        if count:
            raise ProblemError(
                ProblemCode.INVALID_CSV,
                f"The table has {count:,} fault{'s' if count > 1 else ''}; nothing was stored. "
                "Mend what is listed and upload it again.",
                errors=self._reader.errors,
                error_count=count,
            )

    async def _accept(self, given: UploadOptions, idempotency_key: str | None) -> Request:
        columns = self._reader.columns
        assert columns is not None, "a good table has columns"  # noqa: S101
        assert self._beginning is not None, "and rows"  # noqa: S101
        idempotency = None
        if idempotency_key is not None:
            idempotency = (idempotency_key, _fingerprint(self._digest.digest(), given))
        self._accepting()
        request = await self._uploads.accept(
            self._beginning.result(),
            columns,
            given.options,
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


def _fingerprint(digest: bytes, given: UploadOptions) -> str:
    """Tell the table's bytes and the options' values apart from any others.

    Twice: by the options as they were named, and by what they came to with the service's settings. The
    same upload has one of the two in common with the first, though the settings have changed, or
    though it names what was left out.
    """
    options = given.options
    came_to = f"{options.settings} {options.webhook_url} {given.dry_run}"
    return " ".join(
        hashlib.sha256(digest + text.encode()).hexdigest() for text in (given.asked, came_to)
    )


def _outcome(accepted: UploadResult) -> str:
    if accepted.request is None:
        return "dry-run"
    return "replayed" if accepted.replayed else "accepted"


def _stopping() -> ProblemError:
    return ProblemError(
        ProblemCode.UNAVAILABLE, "The service is stopping. Try again in a moment.", retry_after=5
    )
