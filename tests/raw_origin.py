"""An origin server in the test's event loop. The test decides every byte of its responses."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""A function that takes a request's head and writes the response. The connection then closes."""


class RawOrigin:
    """Listens on one loopback address, and records the heads and bodies of requests."""

    def __init__(self, handler: Handler, host: str) -> None:
        self._handler = handler
        self.host = host
        self.port = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    @property
    def base(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def targets(self) -> list[str]:
        """Return the target of each request line, unchanged."""
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            for line in head.lower().split("\r\n"):
                if line.startswith("content-length:"):
                    self.bodies.append(await reader.readexactly(int(line.split(":")[1])))
            self.heads.append(head)
            await self._handler(head, writer)
            await writer.drain()


@asynccontextmanager
async def raw_origin(
    handler: Handler | bytes, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawOrigin]:
    """Run an origin server that sends these bytes for every request, or calls a handler."""

    async def send_bytes(head: str, writer: asyncio.StreamWriter) -> None:
        assert isinstance(handler, bytes)
        writer.write(handler)

    origin = RawOrigin(send_bytes if isinstance(handler, bytes) else handler, host)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await origin.serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (asyncio.CancelledError, OSError):
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(connected, host, 0, ssl=tls, backlog=256)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()
        for task in [*tasks]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # so that the transports can close
        await server.wait_closed()


def http_response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a response with the correct Content-Length. The connection closes after it."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return http_response(b"", f"Location: {location}", status=status)
