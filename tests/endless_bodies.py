"""Measures the memory that endless bodies use: `python -m tests.endless_bodies [TOTAL_MIB]`.

64 origin servers send endless bodies as fast as they can. The program downloads from all of them until
five downloads have reached `max_image_bytes` (64 MiB) and failed. It prints the peak of its resident
memory in bytes above its idle level.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from imgsvc.config import FetchConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from tests.origin import ROOT

ORIGINS = 64
"""The number of origin servers."""
FAILED_DOWNLOADS = 5
"""The number of downloads that must fail before the measurement ends."""


async def serve() -> None:
    """Send endless bodies on `ORIGINS` ports of loopback. Print the ports."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n")
            while True:
                writer.write(chunk)
                await writer.drain()

    chunk = bytes(2**18)
    servers = [await asyncio.start_server(endless, "127.0.0.1", 0) for _ in range(ORIGINS)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


async def measure(ports: list[str], total: int) -> int:
    """Return the peak of the resident memory in bytes above the idle level."""
    config = FetchConfig(allowed_networks=("127.0.0.0/8",))
    rules = AddressRules(config.allowed_networks)
    failed, enough, peak, done = 0, asyncio.Event(), 0, False

    def watch() -> None:
        nonlocal peak
        while not done:
            peak = max(peak, resident())
            time.sleep(0.002)

    async with open_session(config, rules) as session:
        fetcher = Fetcher(session, config, ByteBudget(total))

        async def get(port: str) -> None:
            nonlocal failed
            while True:
                try:
                    async with fetcher.fetch(f"http://127.0.0.1:{port}/"):
                        raise AssertionError("an endless body has no end")
                except ImageError as error:
                    if error.code != ImageErrorCode.TOO_LARGE:
                        raise
                    failed += 1
                    if failed == FAILED_DOWNLOADS:
                        enough.set()

        idle = resident()
        watcher = threading.Thread(target=watch)
        watcher.start()
        tasks = [asyncio.create_task(get(port)) for port in ports]
        await enough.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        done = True
        await asyncio.to_thread(watcher.join)
    return peak - idle


def main(total: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.endless_bodies", "serve"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        ports = server.stdout.readline().decode().split()
        try:
            print(asyncio.run(measure(ports, total)))
        finally:
            server.terminate()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main(int(sys.argv[1]) * 2**20 if sys.argv[1:] else 40 * 2**20)
