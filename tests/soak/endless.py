"""Runs 64 origin servers on loopback that send endless bodies. Prints the port that they share."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

HOSTS = [f"127.0.1.{n}" for n in range(1, 65)]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\n\r\n\xff\xd8\xff\xe0"


async def send_endless_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
    writer.close()


async def main() -> None:
    first = await asyncio.start_server(send_endless_body, HOSTS[0], 0)
    port = first.sockets[0].getsockname()[1]
    servers = [
        first,
        *[await asyncio.start_server(send_endless_body, host, port) for host in HOSTS[1:]],
    ]
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        server.close()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
