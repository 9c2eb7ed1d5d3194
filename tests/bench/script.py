"""The floor: the leanest script that does the job once, with none of the service's promises but fsync.

asyncio and aiohttp fetch, a tuned ProcessPoolExecutor encodes, files are synced and renamed, results
go to SQLite in batches. No validation, no retries, no recovery, no limits.

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


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tune() -> None:
    """Keep memory between pictures instead of giving it back and faulting it in again."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, 1 << 29)
    Image.core.set_blocks_max(16)  # type: ignore[attr-defined]


def halve(data: bytes, *, optimize: bool = True) -> bytes:
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
    ahead = asyncio.Semaphore(per_host + 32)
    done: list[tuple[str, bytes]] = []
    total = 0
    with ProcessPoolExecutor(cores(), initializer=tune) as pool, ThreadPoolExecutor(1) as disk:
        warm = io.BytesIO()
        Image.new("RGB", (64, 64)).save(warm, "JPEG")
        await asyncio.gather(
            *(loop.run_in_executor(pool, halve, warm.getvalue()) for _ in range(8))
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

            async def one(name: str) -> None:
                nonlocal total
                try:
                    async with slots, session.get(f"{base}/{name}") as answer:
                        data = await answer.read()
                    result = await loop.run_in_executor(pool, halve, data)
                    total += len(result)
                    done.append((name, result))
                    if len(done) >= BATCH:
                        await flush()
                finally:
                    ahead.release()

            begun = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for name in names:
                    await ahead.acquire()
                    group.create_task(one(name))
            await flush()
            print(json.dumps({"seconds": time.perf_counter() - begun, "bytes": total}))
    database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
