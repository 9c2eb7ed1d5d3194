"""Measure the second run of an unchanged catalogue, relative to the first one and to bare aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import psutil

from tests.bench.compare import ImageHost
from tests.bench.corpus import MIXES, Mix, folder
from tests.bench.report import LATENCY_SECONDS
from tests.service_process import Service, table

COUNT = 2_000
CATALOGUES = (MIXES["l"], MIXES["mix"], MIXES["s"])
CONNECTIONS = 64


def second_run(work: Path) -> None:
    """Print the time of the second run, and the main process's CPU time, relative to the first run."""
    print(
        f"\n| {COUNT:,} images | images/s, first run | second run | time | CPU of the main process |\n"
        "|---|---|---|---|---|"
    )
    for mix in CATALOGUES:
        host = ImageHost(folder(mix), 0)
        first, second = _run_twice(work / mix.name, host, mix)
        host.close()
        print(
            f"| {mix.name} | {COUNT / first[0]:,.0f} | {COUNT / second[0]:,.0f} "
            f"| {second[0] / first[0]:.3f} × | {second[1] / first[1]:.2f} × |",
            flush=True,
        )
    host = ImageHost(folder(MIXES["s"]), LATENCY_SECONDS)
    _, second = _run_twice(work / "distant", host, MIXES["s"])
    bare = asyncio.run(_bare_requests([host.base + path for path in _paths(MIXES["s"])]))
    host.close()
    print(f"\n100 ms of latency: {bare / second[0]:.2f} of the rate of bare aiohttp\n", flush=True)


def _paths(mix: Mix) -> list[str]:
    """Return `COUNT` paths of images, with the kinds of the mix in their shares."""
    kinds = {kind: round(COUNT * count / mix.total) for kind, count in mix.counts.items()}
    paths = [f"/{path}" for path in Mix(mix.name, kinds).names()]
    assert len(paths) == COUNT
    return paths


def _run_twice(work: Path, host: ImageHost, mix: Mix) -> list[tuple[float, float]]:
    """Return the seconds of two runs, and the CPU seconds of the main process in them."""
    work.mkdir()
    fetch = {
        "per_host": CONNECTIONS,
        "concurrency": CONNECTIONS,
        "allowed_networks": ["127.0.0.0/8"],
    }
    service = Service(work, {"fetch": fetch, "compress": {"workers": 0}})
    service.start()
    body = table((n, f"P{n}", host.base + path) for n, path in enumerate(_paths(mix)))
    runs = []
    try:
        for expected in (0, COUNT):
            assert service.process is not None
            process = psutil.Process(service.process.pid)
            cpu, started = sum(process.cpu_times()[:2]), time.perf_counter()
            status = service.finished(service.upload(body), seconds=600)
            seconds = time.perf_counter() - started
            assert status["progress"]["reused"]["notModified"] == expected
            runs.append((seconds, sum(process.cpu_times()[:2]) - cpu))
    finally:
        service.stop()
        service.close()
    return runs


async def _bare_requests(urls: Sequence[str]) -> float:
    """Return the seconds that as many conditional requests take with aiohttp alone."""
    left = iter(urls)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for url in left:
                number = url.rpartition("/")[2].partition(".")[0]
                async with session.get(url, headers={"If-None-Match": f'"{number}"'}) as response:
                    await response.read()
                    assert response.status == 304

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
        return time.perf_counter() - started
