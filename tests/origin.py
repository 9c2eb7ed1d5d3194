"""A scripted HTTP origin server in its own process.

    origin.url("/photo/7.jpg")            the URL of image 7 of tests/sample_images.py; also .png,
                                          .webp, …; ?w=640&h=480 for another size
    origin.script("/a.jpg", Reply(503), Reply(photo="/photo/7.jpg"))
                                          send a 503 first, then always the image
    origin.seen("/a.jpg")                 the requests for this path, in order
    origin.script("/b.jpg", Reply(gate="b"))  …  origin.open_gate("b")
                                          hold the response until the test opens the gate

It accepts POST too, so it is also the receiver of webhooks. It implements HTTP/1.1 itself, because
tests need responses that no correct server sends.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests import sample_images
from tests.waiting import block_until

ROOT = Path(__file__).parent.parent
CONTROL_PATH = "/_control"
"""The path of the requests with which the test controls the server."""


@dataclass(frozen=True)
class Reply:
    """One response. Without `body` and `photo`, a 200 sends the image that the request's path names.

    `delay` (in seconds) and `gate` hold back the complete response. `drip` is a number of bytes and a
    time in seconds: the body is sent in pieces of that size with that delay between them. `cut` closes
    the connection after that many bytes of the body. `length` sends a different Content-Length,
    `chunked` sends none. `raw` replaces the complete response with these bytes. With the header `ETag`
    or `Last-Modified`, a request with the matching condition gets a 304.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    photo: str | None = None
    delay: float = 0.0
    gate: str | None = None
    drip: tuple[int, float] | None = None
    cut: int | None = None
    length: int | None = None
    chunked: bool = False
    raw: bytes | None = None


@dataclass(frozen=True)
class ReceivedRequest:
    """One request. `target` is unchanged from the request line; header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    at: float


def _to_json(value: Any) -> str:
    def default(value: Any) -> Any:
        return {"base64": base64.b64encode(value).decode()}

    return json.dumps(value, default=default)


def _from_json(text: str | bytes) -> Any:
    def hook(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value

    return json.loads(text, object_hook=hook)


class Origin:
    """Starts and controls the process of an origin server."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.origin", host],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.host = host
        self.port = int(self._process.stdout.readline())
        self.base = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def url(self, path: str) -> str:
        return self.base + path

    def photo(self, number: int, extension: str = "jpg", query: str = "") -> str:
        """Return the URL of image `number`."""
        return self.url(f"/photo/{number}.{extension}{query}")

    def script(self, path: str, *replies: Reply) -> str:
        """Send these replies for `path` in order, and repeat the last one. Return its URL."""
        self._control("script", path=path, replies=[asdict(reply) for reply in replies])
        return self.url(path)

    def serve(self, path: str, body: bytes, content_type: str = "image/jpeg") -> str:
        """Send these bytes for `path`. Return its URL."""
        return self.script(path, Reply(headers={"Content-Type": content_type}, body=body))

    def open_gate(self, gate: str) -> None:
        self._control("open_gate", gate=gate)

    def seen(self, path: str | None = None) -> list[ReceivedRequest]:
        """Return the requests for `path` (compared without the query), or all requests."""
        return [ReceivedRequest(**request) for request in self._control("seen", path=path)]

    def hits(self, path: str | None = None) -> int:
        """Return the number of requests for `path`, or of all requests."""
        return int(self._control("hits", path=path))

    def peak(self) -> int:
        """Return the maximum number of requests that were in progress at the same time."""
        return int(self._control("peak"))

    def wait_for_hits(self, path: str | None, count: int, seconds: float = 30) -> None:
        block_until(lambda: self.hits(path) >= count, f"{count} requests for {path}", seconds)

    def reset(self) -> None:
        """Remove all scripts and recorded requests, and open all gates."""
        self._control("reset")

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)

    def _control(self, command: str, **arguments: Any) -> Any:
        connection = HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request("POST", CONTROL_PATH, _to_json({"command": command, **arguments}))
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            return _from_json(body)
        finally:
            connection.close()


class _Server:
    """The server in the process of the origin server."""

    def __init__(self) -> None:
        self._scripts: dict[str, list[Reply]] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._seen: list[ReceivedRequest] = []
        self._active = self._peak = 0
        self._photos: dict[str, tuple[bytes, str]] = {}

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._handle_request(reader, writer):
                pass
        writer.close()

    async def _handle_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if target == CONTROL_PATH:
            result = _to_json(self._run_command(**_from_json(body))).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(result), result))
            await writer.drain()
            return True
        self._seen.append(ReceivedRequest(method, target, headers, body, time.time()))
        self._active += 1
        self._peak = max(self._peak, self._active)
        try:
            return await self._respond(method, target, headers, writer)
        finally:
            self._active -= 1

    def _run_command(self, command: str, **arguments: Any) -> Any:
        path = arguments.get("path")
        match command:
            case "script":
                self._scripts[arguments["path"]] = [Reply(**r) for r in arguments["replies"]]
            case "open_gate":
                self._gate(arguments["gate"]).set()
            case "seen":
                return [asdict(s) for s in self._seen if path in (None, s.target.split("?")[0])]
            case "hits":
                return sum(path in (None, s.target.split("?")[0]) for s in self._seen)
            case "peak":
                return self._peak
            case "reset":
                for gate in self._gates.values():
                    gate.set()
                self._scripts, self._gates, self._seen, self._peak = {}, {}, [], 0
            case _:
                raise AssertionError(command)
        return None

    def _gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    async def _respond(
        self, method: str, target: str, headers: Mapping[str, str], writer: asyncio.StreamWriter
    ) -> bool:
        path = target.partition("?")[0]
        replies = self._scripts.get(path, [Reply()])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.gate is not None:
            await self._gate(reply.gate).wait()
        if reply.raw is not None:
            writer.write(reply.raw)
            await writer.drain()
            return False
        if _is_not_modified(reply, headers):
            reply = replace(reply, status=304, body=b"", length=None)
        reply, body = await self._resolve_body(reply, target)
        lines = [
            f"HTTP/1.1 {reply.status} Scripted",
            *(f"{k}: {v}" for k, v in reply.headers.items()),
        ]
        lines += (
            ["Transfer-Encoding: chunked"]
            if reply.chunked
            else [f"Content-Length: {len(body) if reply.length is None else reply.length}"]
        )
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if method == "HEAD" or reply.status in {204, 304}:
            await writer.drain()
            return True
        return await self._send_body(reply, body, writer)

    async def _send_body(self, reply: Reply, body: bytes, writer: asyncio.StreamWriter) -> bool:
        sent_body = body if reply.cut is None else body[: reply.cut]
        size, delay = reply.drip or (max(1, len(sent_body)), 0.0)
        for start in range(0, len(sent_body), size):
            piece = sent_body[start : start + size]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.chunked else piece)
            await writer.drain()
            if delay:
                await asyncio.sleep(delay)
        if reply.cut is not None or (reply.length or 0) > len(body):
            return False
        if reply.chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _resolve_body(self, reply: Reply, target: str) -> tuple[Reply, bytes]:
        """Return the reply with its content type, and its body. A path without an image is a 404."""
        if reply.body is not None or (reply.status != 200 and reply.photo is None):
            return reply, reply.body or b""
        try:
            body, content_type = await self._photo(reply.photo or target)
        except (ValueError, KeyError):
            return replace(reply, status=404), b"no such image"
        return replace(reply, headers={"Content-Type": content_type, **reply.headers}), body

    async def _photo(self, target: str) -> tuple[bytes, str]:
        if target not in self._photos:
            url = urlsplit(target)
            folder, _, name = url.path.removeprefix("/").partition("/")
            number, _, extension = name.partition(".")
            if folder != "photo":
                raise ValueError(target)
            query = parse_qs(url.query)
            size = int(query.get("w", ["320"])[0]), int(query.get("h", ["240"])[0])
            body = await asyncio.to_thread(sample_images.encoded, int(number), extension, *size)
            self._photos[target] = body, sample_images.media_type(extension)
        return self._photos[target]


def _is_not_modified(reply: Reply, headers: Mapping[str, str]) -> bool:
    """Return whether a request's conditions match the validators of the reply (RFC 9110, 13.2.2)."""
    if "if-none-match" in headers:
        return headers["if-none-match"] == reply.headers.get("ETag")
    since = headers.get("if-modified-since")
    return since is not None and since == reply.headers.get("Last-Modified")


async def _serve(host: str) -> None:
    server = await asyncio.start_server(
        _Server().serve_connection, host, 0, limit=2**20, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    # The test's process holds the other end of stdin, so this process ends with it.
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1]))
