"""Measures how hostile hosts delay the service: `python -m tests.bench.floods [SECONDS]`.

One process downloads and answers `/health/live`, in one event loop as in the service. Two processes are
image hosts, an honest and a hostile one. This process asks for `/health/live` every few milliseconds.
The program prints, for 64 honest large downloads and for 64 connections of each flood, the median and
the longest response time, and the rate of 8 honest downloads beside them.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection

import aiohttp.web

from imgsvc.config import FetchConfig
from imgsvc.errors import ImageError
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from tests.origin import ROOT

FLOODING = 64
"""The number of concurrent downloads that are measured."""
HONEST = 8
"""The number of honest downloads beside them whose rate is measured."""
LARGE_BYTES = 8 * 2**20
"""The size of a large image."""
PACED_BYTES = 2**18
"""The size of an honest image beside the others. It is small, because only whole images are counted."""
RATE_BYTES_PER_SECOND = 4 * 2**20
"""The rate at which a host sends the honest downloads beside the others."""
BODIES = {
    "large": (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES, bytes(65_536)),
    "paced": (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % PACED_BYTES, bytes(16_384)),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
    "early-hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2_500),
}
"""For each kind of response its start, and a piece that is repeated."""
SIZES = {"large": LARGE_BYTES, "paced": PACED_BYTES}
"""For each kind of honest response its size. The others have no end."""
FLOODS = ("large", "chunks", "early-hints")
"""The kinds of the measured responses. The first is not hostile."""


async def serve_images() -> None:
    """Answer the paths `/large`, `/chunks`, `/early-hints` and `/paced`. Print the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began, total = time.perf_counter(), 0
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                kind = head.split(b" ")[1].decode().strip("/")
                start, piece = BODIES[kind]
                writer.write(start)
                sent = 0
                while sent < SIZES.get(kind, sys.maxsize):
                    writer.write(piece)
                    await writer.drain()
                    sent += len(piece)
                    if kind == "paced":
                        total += len(piece)
                        ahead = total / RATE_BYTES_PER_SECOND - (time.perf_counter() - began)
                        await asyncio.sleep(max(0.0, ahead))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def serve_health() -> None:
    """Run downloads as `/run` asks for, and answer `/health/live`. Print the port."""
    config = FetchConfig(allowed_networks=("127.0.0.0/8",))
    received = 0
    failures: dict[str, int] = {}
    tasks: list[asyncio.Task[None]] = []

    async def download(fetcher: Fetcher, url: str, counts: bool) -> None:
        nonlocal received
        while True:
            try:
                async with fetcher.fetch(url) as body:
                    assert body is not None
                    received += len(body.data) if counts else 0
            except ImageError as error:
                failures[error.code] = failures.get(error.code, 0) + 1

    async def run(request: aiohttp.web.Request) -> aiohttp.web.Response:
        nonlocal received
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        result = json.dumps({"received": received, "failures": failures})
        received = 0
        failures.clear()
        plan = await request.json()
        tasks[:] = [
            asyncio.create_task(download(fetcher, url, counts))
            for url, number, counts in plan
            for _ in range(number)
        ]
        return aiohttp.web.Response(text=result)

    async def live(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text="ok")

    app = aiohttp.web.Application()
    app.router.add_post("/run", run)
    app.router.add_get("/health/live", live)
    runner = aiohttp.web.AppRunner(app, access_log=None)
    await runner.setup()
    async with open_session(config, AddressRules(config.allowed_networks)) as session:
        fetcher = Fetcher(session, config, ByteBudget(2 * FLOODING * LARGE_BYTES))
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await runner.cleanup()


@contextmanager
def process(name: str) -> Iterator[int]:
    """Run a part of this program in a process. Yield its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.floods", name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as started:
        assert started.stdout is not None
        try:
            yield int(started.stdout.readline())
        finally:
            started.terminate()


def post(port: int, plan: list[tuple[str, int, bool]]) -> dict[str, object]:
    """Start downloads instead of the earlier ones, and return what the earlier ones have done."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/run", json.dumps(plan))
    result: dict[str, object] = json.loads(connection.getresponse().read())
    connection.close()
    return result


def health_times(port: int, seconds: float) -> list[float]:
    """Return the response times of `/health/live` in milliseconds, one every 5 ms."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    times = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        times.append((time.perf_counter() - start) * 1_000)
        time.sleep(0.005)
    connection.close()
    return times


def main(seconds: float) -> None:
    """Measure and print every case."""
    with process("images") as honest, process("images") as hostile, process("health") as port:
        paced = (f"http://127.0.0.1:{honest}/paced", HONEST, True)
        for kind in ("", *FLOODS):
            flood = [(f"http://127.0.0.1:{hostile}/{kind}", FLOODING, False)] if kind else []
            post(port, flood)
            times = health_times(port, seconds)
            failures = post(port, [*flood, paced])["failures"]
            time.sleep(seconds)
            received = post(port, [])["received"]
            assert isinstance(received, int)
            print(
                f"{kind or 'idle':12} median {statistics.median(times):6.1f} ms, "
                f"longest {max(times):6.1f} ms, honest {received / seconds / 2**20:6.1f} MiB/s, "
                f"failures {failures}"
            )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["images"]:
            asyncio.run(serve_images())
        case ["health"]:
            asyncio.run(serve_health())
        case arguments:
            main(float(arguments[0]) if arguments else 10.0)
