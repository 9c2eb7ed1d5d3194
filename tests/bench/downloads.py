"""Downloads alone: aiohttp with as many connections as the service, and nothing else.

python -m tests.bench.downloads BASE MIX PER_HOST   prints {"seconds": …, "bytes": 0}
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp

from tests.bench.corpus import MIXES


async def main(base: str, mix: str, per_host: int) -> None:
    names = MIXES[mix].names()
    connector = aiohttp.TCPConnector(limit=per_host)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def download() -> None:
            for name in names:
                async with session.get(f"{base}/{name}") as response:
                    response.raise_for_status()
                    await response.read()

        started = time.perf_counter()
        await asyncio.gather(*(download() for _ in range(per_host)))
        print(json.dumps({"seconds": time.perf_counter() - started, "bytes": 0}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
