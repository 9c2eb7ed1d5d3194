"""The pipeline of one image: fetch → compress → store → outcome."""

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
"""The SHA-256 of a source, and the settings to compress it with."""


class CircuitOpenError(Exception):
    """The image's host has failed too often, so nothing is fetched from it for now."""


@dataclass(slots=True, eq=False)
class ImageJob:
    """The work for one claim, from the claim to the commit.

    Until the source has been fetched, the job may be cancelled without loss.

    `probe`: its fetch tests whether a host with an open circuit works again.
    `fetching`: it counts towards the limits of its host.
    `content`: set while this job produces the output for this content.
    `file`: the name that its output has, or will have, in the store.
    `committed`: set when its outcome is committed.
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
    """Turns an image's URL into a stored output.

    The same source bytes with the same settings are compressed once. If another job is compressing
    the same content, a job waits until that one is committed; if the output is stored already, the
    job uses its file.
    """

    def __init__(
        self,
        job_store: JobStore,
        fetcher: Fetcher,
        pool: WorkerPool,
        files: FilesystemStore,
        *,
        host_limiter: HostLimiter,
        metrics: Metrics,
        has_free_space: Callable[[], bool],
        may_fetch: Callable[[int], bool],
    ) -> None:
        self._job_store = job_store
        self._fetcher = fetcher
        self._pool = pool
        self._files = files
        self._host_limiter = host_limiter
        self._metrics = metrics
        self._has_free_space = has_free_space
        self._may_fetch = may_fetch
        self._producing: dict[_Content, asyncio.Future[StoredFile | None]] = {}

    async def process(self, job: ImageJob, on_fetched: Callable[[ImageJob], None]) -> Completed:
        """Fetch, compress and store the job's image.

        `on_fetched` is called when the source is fetched and the host's slot is free again.
        Raise `ImageError`, `CircuitOpenError`, or `StorageFullError` if there is no free space.
        """
        claim = job.claim
        async with AsyncExitStack() as stack:
            waiting_since = time.monotonic()
            async with self._host_limiter.acquire(claim.host_url):
                if not job.probe and not self._may_fetch(job.host_key):
                    raise CircuitOpenError
                started = time.monotonic()
                self._metrics.wait_seconds.observe(started - waiting_since)
                body = await stack.enter_async_context(self._fetcher.fetch(claim.url))
            self._metrics.fetch_seconds.observe(time.monotonic() - started)
            self._metrics.bytes_in.inc(len(body.data))
            job.fetched = True
            on_fetched(job)
            digest = hashlib.sha256(body.data).digest()
            stored = await self._find_duplicate(job, (digest, claim.settings))
            if stored is None:
                stored = await self._compress(job, body.data, body.content_type)
            else:
                self._metrics.reused.inc()
        return Completed(claim, digest, stored.name, stored.info)

    def on_committed(self, job: ImageJob, completed: Completed | None) -> None:
        """Pass the job's committed output to the jobs that wait for it; None if it has no output."""
        if job.content is not None:
            stored = StoredFile(completed.file, completed.info) if completed else None
            self._producing.pop(job.content).set_result(stored)
            job.content = None

    async def _find_duplicate(self, job: ImageJob, content: _Content) -> StoredFile | None:
        """Return the stored output of the same content.

        Wait if another job is producing it. Otherwise this job becomes the producer; then return
        the output of an earlier process or request, or None.
        """
        while (duplicate := self._producing.get(content)) is not None:
            stored = await asyncio.shield(duplicate)
            if stored is not None:
                return stored
        self._producing[content] = asyncio.get_running_loop().create_future()
        job.content = content
        return await self._job_store.find_file(*content)

    async def _compress(self, job: ImageJob, data: bytes, content_type: str) -> StoredFile:
        claim = job.claim
        started = time.monotonic()
        try:
            compressed = await self._pool.compress(data, claim.settings, owner=claim.request_key)
        except ImageError as error:
            if error.code is ImageErrorCode.NOT_AN_IMAGE:
                raise ImageError(error.code, describe_non_image(content_type, data)) from None
            raise
        compressed_at = time.monotonic()
        self._metrics.compress_seconds.observe(compressed_at - started)
        if not self._has_free_space():
            raise StorageFullError("free disk space is below storage.min_free_bytes")
        info = compressed.info
        job.file = f"{claim.token}.{EXTENSIONS[info.output_format]}"
        await self._files.put(job.file, compressed.data)
        self._metrics.store_seconds.observe(time.monotonic() - compressed_at)
        self._metrics.bytes_out.inc(info.output_bytes)
        return StoredFile(job.file, info)
