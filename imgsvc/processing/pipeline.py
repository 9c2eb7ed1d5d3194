"""One image: fetch → compress → store → outcome."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from imgsvc.database.job_store import JobStore
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import EXTENSIONS, CompressionSettings, StoredFile
from imgsvc.metrics import Metrics
from imgsvc.models import Claim, Completed
from imgsvc.network.fetch import Fetcher, describe_non_image
from imgsvc.processing.host_limiter import HostLimiter
from imgsvc.storage.filesystem import FilesystemStore, StorageFullError
from imgsvc.workers.pool import WorkerPool

_Content = tuple[bytes, CompressionSettings]


class CircuitOpenError(Exception):
    """The image's origin is not to be asked now: it has failed too often."""


@dataclass(slots=True, eq=False)
class ImageJob:
    """A claim on its way. Until it has been fetched, it may be cut short without loss.

    `file` is the name its output has, or will have, on the disk; `committed` is set once its outcome is
    committed.
    """

    claim: Claim
    host_key: int
    probe: bool = False
    fetching: bool = True
    fetched: bool = False
    cancelled: bool = False
    content: _Content | None = None
    file: str | None = None
    committed: asyncio.Event = field(default_factory=asyncio.Event)


class Pipeline:
    """Takes one image after the other from its URL to its stored output.

    The same source bytes under the same settings are compressed once: an image whose twin is under
    way waits until the twin's row is committed, and one whose twin was ever stored uses its file.
    """

    def __init__(
        self,
        work: JobStore,
        fetcher: Fetcher,
        pool: WorkerPool,
        files: FilesystemStore,
        *,
        host_limiter: HostLimiter,
        metrics: Metrics,
        has_free_space: Callable[[], bool],
        may_fetch: Callable[[int], bool],
    ) -> None:
        self._work = work
        self._fetcher = fetcher
        self._pool = pool
        self._files = files
        self._host_limiter = host_limiter
        self._metrics = metrics
        self._has_free_space = has_free_space
        self._may_fetch = may_fetch
        self._duplicates: dict[_Content, asyncio.Future[StoredFile | None]] = {}

    async def process(self, job: ImageJob, fetched: Callable[[ImageJob], None]) -> Completed:
        """Take the flight's image all the way; `fetched` is called when its slot is free again.

        Raises `ImageError`, `CircuitOpenError`, or `StorageFullError` where the disk has no room.
        """
        claim = job.claim
        async with AsyncExitStack() as stack:
            waiting = time.monotonic()
            async with self._host_limiter.acquire(claim.host_url):
                if not job.probe and not self._may_fetch(job.host_key):
                    raise CircuitOpenError
                begun = time.monotonic()
                self._metrics.wait_seconds.observe(begun - waiting)
                body = await stack.enter_async_context(self._fetcher.fetch(claim.url))
            self._metrics.fetch_seconds.observe(time.monotonic() - begun)
            self._metrics.bytes_in.inc(len(body.data))
            job.fetched = True
            fetched(job)
            digest = hashlib.sha256(body.data).digest()
            stored = await self._find_duplicate(job, (digest, claim.settings))
            if stored is None:
                stored = await self._compress(job, body.data, body.content_type)
            else:
                self._metrics.reused.inc()
        return Completed(claim, digest, stored.name, stored.info)

    def on_committed(self, job: ImageJob, completed: Completed | None) -> None:
        """Say that the flight's outcome is committed, or that it came to nothing."""
        if job.content is not None:
            stored = StoredFile(completed.file, completed.info) if completed else None
            self._duplicates.pop(job.content).set_result(stored)
            job.content = None

    async def _find_duplicate(self, job: ImageJob, content: _Content) -> StoredFile | None:
        """Find the stored output of the same content, or make this flight the one that makes it."""
        while (twin := self._duplicates.get(content)) is not None:
            stored = await asyncio.shield(twin)
            if stored is not None:
                return stored
        self._duplicates[content] = asyncio.get_running_loop().create_future()
        job.content = content
        return await self._work.find_file(*content)

    async def _compress(self, job: ImageJob, data: bytes, content_type: str) -> StoredFile:
        claim = job.claim
        begun = time.monotonic()
        try:
            compressed = await self._pool.compress(data, claim.settings, owner=claim.request_key)
        except ImageError as error:
            if error.code is ImageErrorCode.NOT_AN_IMAGE:
                raise ImageError(error.code, describe_non_image(content_type, data)) from None
            raise
        stored = time.monotonic()
        self._metrics.compress_seconds.observe(stored - begun)
        if not self._has_free_space():
            raise StorageFullError("less than storage.min_free_bytes is left")
        info = compressed.info
        job.file = f"{claim.token}.{EXTENSIONS[info.output_format]}"
        await self._files.put(job.file, compressed.data)
        self._metrics.store_seconds.observe(time.monotonic() - stored)
        self._metrics.bytes_out.inc(info.output_bytes)
        return StoredFile(job.file, info)
