"""An executor without connections and workers: the second implementation of `Executor`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.execution.base import ExecutionInterruptedError
from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.models import Claim, Conditions, Validators
from imgsvc.storage.base import ImageStore, output_name


class FakeExecutor:
    """An `Executor` for tests.

    `sources`: the bytes behind each URL; any other URL is `http_status` 404. The validator of a source
    is its digest. The output is the first half of the source. A source that contains `hang` is never
    compressed, `refuse` is corrupt. `held`: the number of fetched sources that are not dropped.
    `compressed`: the sources compressed. `thumbnails`: the outputs whose thumbnails were made, which
    are their first bytes.
    """

    workers = 2
    busy = 0
    healthy = True

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self.sources: dict[str, bytes] = {}
        self.held = 0
        self.missing_layers: list[str] = []
        self.worker_seconds: dict[int, float] = {}
        self.compressed: list[bytes] = []
        self.thumbnails: list[bytes] = []
        self.closed = asyncio.Event()

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self, grace: float) -> None:
        self.closed.set()

    async def make_thumbnail(self, data: bytes) -> bytes:
        if b"hang" in data:
            await self.closed.wait()
        if self.closed.is_set():
            raise ExecutionInterruptedError
        if b"refuse" in data:
            raise ImageError(ImageErrorCode.CORRUPT_IMAGE, "It is damaged.")
        self.thumbnails.append(data)
        return data[:1]

    @asynccontextmanager
    async def fetch(
        self, claim: Claim, conditions: Conditions | None
    ) -> AsyncIterator[FakeFetched | None]:
        await asyncio.sleep(0)
        if claim.url not in self.sources:
            raise ImageError(ImageErrorCode.HTTP_STATUS, "404 Not Found", http_status=404)
        fetched = FakeFetched(self, self.sources[claim.url])
        if conditions is not None and conditions.validators == fetched.validators:
            yield None
            return
        self.held += 1
        try:
            yield fetched
        finally:
            self.held -= 1
            fetched.dropped = True


class FakeFetched:
    """A fetched source."""

    def __init__(self, executor: FakeExecutor, data: bytes) -> None:
        self.digest = hashlib.sha256(data).digest()
        self.size = len(data)
        self.validators = Validators(b"", etag=self.digest.hex())
        self.dropped = False
        self._executor = executor
        self._data = data

    async def compress(self, token: str, settings: CompressionSettings, owner: int) -> ImageInfo:
        executor, data = self._executor, self._data
        if b"hang" in data:
            await executor.closed.wait()
        if self.dropped or executor.closed.is_set():
            raise ExecutionInterruptedError
        if b"refuse" in data:
            raise ImageError(ImageErrorCode.CORRUPT_IMAGE, "it is cut off")
        executor.compressed.append(data)
        output = data[: len(data) // 2]
        await executor.store.put(output_name(token, "jpeg"), output)
        return ImageInfo(len(data), len(output), 1, 1, "jpeg", "jpeg", 90, 45, kept=False)
