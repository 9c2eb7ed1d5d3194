"""A node that fetches and compresses nothing: each image has other bytes, and is compressed at once.

python -m tests.bench.null_node COORDINATOR NAME DELAY_SECONDS
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from distributed.security import Security

from imgsvc.execution.cluster.dask_node import create_worker, quiet_dask
from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.node_jobs import Contact, NodeJobs
from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.models import Claim, Conditions, Validators
from tests.memory_store import MemoryStore

INFO = ImageInfo(70_000, 30_000, 800, 600, "jpeg", "jpeg", 90, 45, kept=False)
WORKERS = 4


class NullFetched:
    """A source that was never fetched. To compress it takes `delay` seconds of a worker."""

    size = 70_000

    def __init__(self, url: str, workers: asyncio.Semaphore, delay: float) -> None:
        self.digest = hashlib.sha256(url.encode()).digest()
        self.validators = Validators(self.digest)
        self._workers = workers
        self._delay = delay

    async def compress(self, token: str, settings: CompressionSettings, owner: int) -> ImageInfo:
        if self._delay:
            async with self._workers:
                await asyncio.sleep(self._delay)
        return INFO


class NullExecutor:
    """An `Executor` without connections and workers."""

    workers = WORKERS
    busy = 0
    healthy = True

    def __init__(self, delay: float = 0.0) -> None:
        self.worker_seconds: dict[int, float] = {}
        self.missing_layers: list[str] = []
        self._delay = delay
        self._workers = asyncio.Semaphore(WORKERS)

    @asynccontextmanager
    async def fetch(
        self, claim: Claim, conditions: Conditions | None
    ) -> AsyncIterator[NullFetched | None]:
        yield NullFetched(claim.url, self._workers, self._delay)

    async def make_thumbnail(self, data: bytes) -> bytes:
        return data

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self, grace: float) -> None:
        """Nothing to close."""


async def main(address: str, name: str, delay: float) -> None:
    quiet_dask()
    limits = ClusterLimits()
    jobs = NodeJobs(NullExecutor(delay), MemoryStore(), Contact(limits.fence_seconds), limits)
    with tempfile.TemporaryDirectory() as scratch:
        worker = create_worker(address, Security(), name, jobs, scratch)
        await worker
        await worker.finished()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
