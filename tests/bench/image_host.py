"""An image host that uses little CPU: an asyncio protocol that serves the corpus from memory.

    python -m tests.bench.image_host FOLDER LATENCY_SECONDS   prints its port

`/…/N.jpg` serves the image N modulo the number of images. The number N follows the file, so that the
bytes of each URL are unique and a cache is of no use. N is also the `ETag`: a conditional request gets
a 304.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from tests.bench.corpus import DISTINCT

TYPES = {"jpg": b"image/jpeg", "png": b"image/png", "webp": b"image/webp"}


class Bodies:
    """The corpus in memory."""

    def __init__(self, root: Path) -> None:
        self._bodies = {
            f"{file.parent.name}/{file.name}": file.read_bytes()
            for file in root.glob("*/*")
            if file.suffix != ".partial"
        }

    def response(self, path: str, head: bytes) -> tuple[bytes, ...]:
        """Return the parts of the response to a request for a path, with this head."""
        kind, _, name = path.lstrip("/").partition("/")
        number, _, extension = name.partition(".")
        body = self._bodies.get(f"{kind}/{int(number) % DISTINCT}.{extension}")
        if body is None:
            return (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",)
        etag = b'"%d"' % int(number)
        if b"If-None-Match: " + etag in head:
            return (b"HTTP/1.1 304 Not Modified\r\nETag: %s\r\n\r\n" % etag,)
        tail = b"#%d" % int(number)
        lines = (
            b"HTTP/1.1 200 OK",
            b"Content-Type: " + TYPES[extension],
            b"Content-Length: %d" % (len(body) + len(tail)),
            b"ETag: " + etag,
        )
        return b"\r\n".join([*lines, b"", b""]), body, tail


class Connection(asyncio.Protocol):
    """One keep-alive connection. It responds in order, `latency` seconds after each request."""

    def __init__(self, bodies: Bodies, latency: float) -> None:
        self._bodies = bodies
        self._latency = latency
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
            path = head.split(b" ", 2)[1].decode()
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._send, path, head)
            else:
                self._send(path, head)

    def _send(self, path: str, head: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            for part in self._bodies.response(path, head):
                self._transport.write(part)


async def serve(root: Path, latency: float) -> None:
    bodies = Bodies(root)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(bodies, latency), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(sys.argv[1]), float(sys.argv[2])))
