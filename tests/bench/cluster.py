"""Measure what an image costs the coordinator of a cluster, and how work that waits scales."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from distributed.security import Security

from imgsvc.execution.cluster.dask_coordinator import DaskMembership
from imgsvc.execution.cluster.executor import ClusterExecutor
from imgsvc.metrics import Metrics
from tests.bench.null_node import WORKERS, NullExecutor
from tests.harness.cluster import WELCOME
from tests.harness.database import completed, open_database
from tests.harness.service import SchedulerHarness, open_scheduler
from tests.memory_store import MemoryStore
from tests.origin import ROOT
from tests.waiting import wait_until

IMAGES = 10_000
HOSTS = 50
BATCH = 128
"""Images that one claim, and one commit, has in the comparison."""
DELAY_SECONDS = 0.2
IMAGES_PER_NODE = 400


def _urls(count: int) -> list[list[str]]:
    return [[f"http://host-{n % HOSTS}.example/{n}.jpg"] for n in range(count)]


@asynccontextmanager
async def _cluster(folder: Path, nodes: int, delay: float) -> AsyncIterator[SchedulerHarness]:
    """Run a coordinator in this process, and null nodes in their own."""
    metrics = Metrics()
    membership = DaskMembership("tcp://127.0.0.1:0", Security(), WELCOME, metrics=metrics)
    executor = ClusterExecutor(NullExecutor(), membership, metrics, local_node=False)
    processes: list[asyncio.subprocess.Process] = []
    try:
        async with open_scheduler(
            folder,
            start=False,
            store=MemoryStore(),
            executor=executor,
            concurrency=512,
            per_host=64,
        ) as harness:
            for number in range(nodes):
                command = [sys.executable, "-P", "-m", "tests.bench.null_node"]
                command += [membership.address, f"node-{number}", str(delay)]
                environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
                processes.append(await asyncio.create_subprocess_exec(*command, env=environ))
            await wait_until(lambda: executor.workers == WORKERS * nodes, "the nodes")
            yield harness
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def _run(harness: SchedulerHarness, images: int) -> tuple[float, float]:
    """Process images. Return the CPU time of this process and the time, in seconds."""
    request = await harness.db.accept(_urls(images))
    cpu, started = time.process_time(), time.perf_counter()
    harness.start()

    async def has_finished() -> bool:
        return (await harness.snapshot(request)).finished_at is not None

    await wait_until(has_finished, "the request to finish", 600)
    return time.process_time() - cpu, time.perf_counter() - started


async def _claim_and_finish(folder: Path, images: int) -> float:
    """Return the CPU seconds of claiming images and committing their outcomes, and no more."""
    async with open_database(folder) as db:
        await db.accept(_urls(images))
        started = time.process_time()
        while claims := await db.claim(BATCH, BATCH):
            await db.job_store.finish([completed(claim) for claim in claims])
        return time.process_time() - started


async def _measure(work: Path) -> None:
    alone = await _claim_and_finish(work / "alone", IMAGES) / IMAGES
    async with _cluster(work / "cost", 2, 0.0) as harness:
        cpu, _ = await _run(harness, IMAGES)
    cost = cpu / IMAGES
    print(
        f"\ncoordinator, {IMAGES:,} images, 2 null nodes: {1e3 * cost:.2f} ms of CPU per image; claim "
        f"and finish alone: {1e3 * alone:.2f} ms; {cost / alone:.1f} × (at most 5)\n"
    )
    print("| nodes | images/s, each takes 0.2 s of a worker | |\n|---|---|---|")
    first = 0.0
    for nodes in (1, 2, 4):
        images = nodes * IMAGES_PER_NODE
        async with _cluster(work / f"scale-{nodes}", nodes, DELAY_SECONDS) as harness:
            _, seconds = await _run(harness, images)
        rate = images / seconds
        first = first or rate
        print(f"| {nodes} | {rate:.1f} | {rate / first:.2f} × |", flush=True)


def coordinator(work: Path) -> None:
    """Print the CPU time of the coordinator per image, and the speed with 1, 2 and 4 nodes."""
    for name in ("alone", "cost", "scale-1", "scale-2", "scale-4"):
        (work / name).mkdir()
    asyncio.run(_measure(work))
