"""A minimal script for comparison: it downloads, compresses and stores each image once.

asyncio and aiohttp download, a tuned ProcessPoolExecutor encodes, files are synced and renamed, and
results are written to SQLite in batches. There is no validation, retry, recovery or limit.

    python -m tests.bench.script BASE MIX PER_HOST OUT   prints {"seconds": …, "bytes": …}
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import json
import os
import sqlite3
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import aiohttp
from PIL import Image

from tests.bench.corpus import MIXES

QUALITY = 45
BATCH = 32


def cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tune_memory() -> None:
    """Make malloc and Pillow reuse memory instead of returning it to the system after each image."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 29)  # M_TRIM_THRESHOLD
    Image.core.set_blocks_max(16)  # type: ignore[attr-defined]


def compress(data: bytes, *, optimize: bool = True) -> bytes:
    """Return the image at about half its quality, like the service's default."""
    with Image.open(io.BytesIO(data)) as image:
        out = io.BytesIO()
        if image.format == "JPEG":
            image.save(out, "JPEG", quality=QUALITY, optimize=optimize)
        elif image.format == "PNG":
            image.quantize(128, Image.Quantize.FASTOCTREE).save(out, "PNG", optimize=optimize)
        else:
            image.save(out, image.format, quality=50)
        return out.getvalue()


def store(folder: Path, results: list[tuple[str, bytes]]) -> None:
    """Write files, and sync them and their folders to disk."""
    folders = set()
    for name, data in results:
        file = folder / name
        partial = file.with_suffix(".partial")
        with partial.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(file)
        folders.add(file.parent)
    for parent in folders:
        descriptor = os.open(parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


async def main(base: str, mix: str, per_host: int, out: Path) -> None:
    names = list(MIXES[mix].names())
    for kind in MIXES[mix].counts:
        (out / kind).mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(out / "results.db", check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE results (name TEXT PRIMARY KEY, bytes INTEGER)")
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(per_host)
    unfinished = asyncio.Semaphore(per_host + 32)
    done: list[tuple[str, bytes]] = []
    total = 0
    with (
        ProcessPoolExecutor(cpu_count(), initializer=tune_memory) as pool,
        ThreadPoolExecutor(1) as disk,
    ):
        warm_up_image = io.BytesIO()
        Image.new("RGB", (64, 64)).save(warm_up_image, "JPEG")
        await asyncio.gather(
            *(loop.run_in_executor(pool, compress, warm_up_image.getvalue()) for _ in range(8))
        )

        def commit(results: list[tuple[str, bytes]]) -> None:
            store(out, results)
            with database:
                database.executemany(
                    "INSERT INTO results VALUES (?, ?)", [(n, len(d)) for n, d in results]
                )

        async def flush() -> None:
            nonlocal done
            results, done = done, []
            await loop.run_in_executor(disk, commit, results)

        connector = aiohttp.TCPConnector(limit=per_host)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def process_image(name: str) -> None:
                nonlocal total
                try:
                    async with slots, session.get(f"{base}/{name}") as response:
                        data = await response.read()
                    result = await loop.run_in_executor(pool, compress, data)
                    total += len(result)
                    done.append((name, result))
                    if len(done) >= BATCH:
                        await flush()
                finally:
                    unfinished.release()

            started = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for name in names:
                    await unfinished.acquire()
                    group.create_task(process_image(name))
            await flush()
            print(json.dumps({"seconds": time.perf_counter() - started, "bytes": total}))
    database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
