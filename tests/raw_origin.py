"""An origin inside the test's own loop that says byte for byte what the test wants it to say."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Talk = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Gets a request's head and writes the answer; the connection is closed when it returns."""


class RawOrigin:
    """Listens on one loopback address; keeps the heads of requests, and the bodies of posts."""

    def __init__(self, talk: Talk, host: str) -> None:
        self._talk = talk
        self.host = host
        self.port = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    @property
    def base(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def targets(self) -> list[str]:
        """The request lines' targets, as they came."""
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            for line in head.lower().split("\r\n"):
                if line.startswith("content-length:"):
                    self.bodies.append(await reader.readexactly(int(line.split(":")[1])))
            self.heads.append(head)
            await self._talk(head, writer)
            await writer.drain()


@asynccontextmanager
async def raw_origin(
    talk: Talk | bytes, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawOrigin]:
    """Run an origin that answers every request with these bytes, or as `talk` does."""

    async def say(head: str, writer: asyncio.StreamWriter) -> None:
        assert isinstance(talk, bytes)
        writer.write(talk)

    origin = RawOrigin(say if isinstance(talk, bytes) else talk, host)
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
        await asyncio.sleep(0.01)  # for transports to say goodbye
        await server.wait_closed()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An answer with its right Content-Length that ends the connection."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(to: str, status: str = "302 Found") -> bytes:
    return answer(b"", f"Location: {to}", status=status)
