"""The executor of this process: its own connections, worker processes and store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.execution.base import ExecutionInterruptedError
from imgsvc.image_types import CompressedImage, CompressionSettings, ImageInfo, ThumbnailSettings
from imgsvc.metrics import Metrics
from imgsvc.models import Claim, Conditions
from imgsvc.network.fetch import Fetcher, ResponseBody, describe_non_image
from imgsvc.storage.base import ImageStore, output_name
from imgsvc.workers.pool import PoolClosedError, WorkerPool

THUMBNAIL_OWNER = -1
"""The owner of all thumbnails in the fair queue of the workers. Other owners are requests."""


class LocalExecutor:
    """An `Executor` in this process. Closing it closes the pool, and not the fetcher or the store."""

    def __init__(
        self, fetcher: Fetcher, pool: WorkerPool, store: ImageStore, metrics: Metrics
    ) -> None:
        self._fetcher = fetcher
        self._pool = pool
        self._store = store
        self._metrics = metrics

    @property
    def workers(self) -> int:
        """The number of worker processes."""
        return self._pool.workers

    @property
    def busy(self) -> int:
        """The number of worker processes that have images."""
        return self._pool.busy

    @property
    def healthy(self) -> bool:
        """False if no worker process is running and starting one fails."""
        return self._pool.healthy

    @property
    def worker_seconds(self) -> dict[int, float]:
        """The worker time that owners have used, beyond that of an owner that starts now."""
        return self._pool.worker_seconds

    @property
    def missing_layers(self) -> list[str]:
        """The layers of confinement that the worker processes lack."""
        return self._pool.missing_layers

    async def make_thumbnail(self, data: bytes) -> bytes:
        """Return the thumbnail of an output. A worker process makes it."""
        try:
            made = await self._pool.compress(data, ThumbnailSettings(), owner=THUMBNAIL_OWNER)
        except PoolClosedError:
            raise ExecutionInterruptedError from None
        return made.data

    async def start(self) -> None:
        """Start the worker processes."""
        await self._pool.start()

    async def close(self, grace: float) -> None:
        """Close the pool of worker processes."""
        await self._pool.close(grace)

    @asynccontextmanager
    async def fetch(
        self, claim: Claim, conditions: Conditions | None
    ) -> AsyncIterator[LocalFetched | None]:
        """Fetch the source. Its bytes count against the fetcher's budget until the block ends."""
        validators = None if conditions is None else conditions.validators
        async with self._fetcher.fetch(claim.url, validators) as body:
            if body is None:
                yield None
                return
            fetched = LocalFetched(body, self._pool, self._store, self._metrics)
            try:
                yield fetched
            finally:
                fetched.drop()


class LocalFetched:
    """A fetched source in the memory of this process."""

    def __init__(
        self, body: ResponseBody, pool: WorkerPool, store: ImageStore, metrics: Metrics
    ) -> None:
        self.digest = hashlib.sha256(body.data).digest()
        self.size = len(body.data)
        self.validators = body.validators
        self._body: ResponseBody | None = body
        self._pool = pool
        self._store = store
        self._metrics = metrics

    def drop(self) -> None:
        """Release the source's bytes."""
        self._body = None

    async def compress(self, token: str, settings: CompressionSettings, owner: int) -> ImageInfo:
        """Compress the source in a worker process, and store the output."""
        if self._body is None:
            raise ExecutionInterruptedError
        started = time.monotonic()
        compressed = await self._compress(self._body, settings, owner)
        compressed_at = time.monotonic()
        self._metrics.compress_seconds.observe(compressed_at - started)
        await self._store.put(output_name(token, compressed.info.output_format), compressed.data)
        self._metrics.store_seconds.observe(time.monotonic() - compressed_at)
        return compressed.info

    async def _compress(
        self, body: ResponseBody, settings: CompressionSettings, owner: int
    ) -> CompressedImage:
        try:
            return await self._pool.compress(body.data, settings, owner=owner)
        except PoolClosedError:
            raise ExecutionInterruptedError from None
        except ImageError as error:
            if error.code is ImageErrorCode.NOT_AN_IMAGE:
                message = describe_non_image(body.content_type, body.data)
                raise ImageError(error.code, message) from None
            raise
