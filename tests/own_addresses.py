"""Fetches from public addresses of this machine: `unshare -rn python -m tests.own_addresses`.

The program needs a network namespace of its own, because it adds public addresses to its loopback
interface. It prints the results of its fetches as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess

from imgsvc.config import FetchConfig
from imgsvc.errors import ImageError
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from tests.raw_origin import http_response

ADDRESSES = (("93.184.216.34/32",), ("2a01:4f8:1:2::5/64", "nodad"))
"""The addresses that are added, with options of `ip`."""
HOSTS = ("93.184.216.34", "[2a01:4f8:1:2::5]", "[2a01:4f8:1:2::6]")
"""The hosts of the URLs. The last is another machine in the network of the second address."""


async def fetch_all(port: int) -> dict[str, str]:
    """Return for each fetch its body, or its error's code and message."""
    results = {}
    for entry in ("", f"93.184.216.34:{port}", f"[2a01:4f8:1:2::/64]:{port}"):
        config = FetchConfig(allowed_networks=(entry,) if entry else (), connect_seconds=2)
        async with open_session(config, AddressRules(config.allowed_networks)) as session:
            fetcher = Fetcher(session, config, ByteBudget(2**20))
            for host in HOSTS:
                for target in (port, 80):
                    try:
                        async with fetcher.fetch(f"http://{host}:{target}/") as body:
                            assert body is not None
                            result = body.data.decode()
                    except ImageError as error:
                        result = f"{error.code}: {error.message}"
                    results[f"{host}:{target}, allowed: {entry}"] = result
    return results


async def main() -> None:
    """Listen on all addresses, and fetch."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http_response(b"reached"))
        writer.close()

    servers = [await asyncio.start_server(answer, ["0.0.0.0", "::"], port) for port in (9_000, 80)]
    print(json.dumps(await fetch_all(9_000)))
    for server in servers:
        server.close()


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address, *options in ADDRESSES:
        subprocess.run(["ip", "address", "add", address, "dev", "lo", *options], check=True)
    asyncio.run(main())
