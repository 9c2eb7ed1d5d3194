"""A real service in its own process, used over HTTP."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.origin import ROOT
from tests.waiting import block_until

HEADER = ("S. No.", "Product Name", "Input Image Urls")


def stored_name(output_url: str) -> str:
    """Return the name of the stored output that a URL `…/TOKEN/SLUG.EXT` is served from."""
    token, name = output_url.rsplit("/", 2)[1:]
    return f"{token}.{name.rpartition('.')[2]}"


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = HEADER) -> bytes:
    """Return a CSV to upload. A cell that is a list is joined by commas."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    for row in rows:
        writer.writerow([",".join(cell) if isinstance(cell, list) else cell for cell in row])
    return out.getvalue().encode()


@dataclass(frozen=True)
class Response:
    """An HTTP response of the service."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of the CSV in the body, each as a dictionary."""
        return list(csv.DictReader(io.StringIO(self.body.decode(), newline="")))


class Service:
    """One service and its folder. `settings` are the sections of config.toml.

    The service may download from loopback, listens on a free port, and logs JSON to `log_file`.
    `max_files` is its limit of open files.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        environ: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        max_files: int | None = None,
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.log_file = folder / "service.log"
        self.arguments = list(arguments)
        self.max_files = max_files
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("IMGSVC_")}
        self.environ |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", **(environ or {})}
        self.settings: dict[str, dict[str, object]] = {
            "server": {"port": 0},
            "fetch": {"allowed_networks": ["127.0.0.0/8", "::1/128"]},
            "compress": {"workers": 2},
            "log": {"format": "json", "level": "debug"},
        }
        for section, keys in (settings or {}).items():
            self.settings.setdefault(section, {}).update(keys)
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, *, ready: bool = True) -> None:
        """Start the service, and wait until it listens and, if `ready`, until it is ready."""
        assert self.process is None or self.process.poll() is not None, (
            "the service is already running"
        )
        config = self.folder / "config.toml"
        config.write_text(as_toml(self.settings))
        before = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix(), "serve", "--config", str(config), *self.arguments],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        block_until(lambda: self._find_url(before), "the service to listen", 60)
        if ready:
            block_until(self.is_ready, "the service to be ready", 60)

    def _prefix(self) -> list[str]:
        """Return the start of the command line: the program, with a limit of open files."""
        program = [sys.executable, "-m", "imgsvc"]
        if self.max_files is None:
            return program
        return ["sh", "-c", f'ulimit -n {self.max_files} && exec "$@"', "sh", *program]

    def _find_url(self, offset: int) -> bool:
        """Set `url` from the log after `offset`. Return whether the service listens."""
        assert self.process is not None
        assert self.process.poll() is None, f"the service ended: {self.log()[-2000:]}"
        lines = self.log_file.read_bytes()[offset:].decode().splitlines()
        for record in records(lines):
            if record.get("message") == "listening":
                self.url = str(record["url"]).rstrip("/")
                return True
        return False

    def is_ready(self) -> bool:
        try:
            return self.get("/health/ready").status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """Send SIGKILL to the main process only."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Send a signal, wait until the process has ended, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def restart(self) -> None:
        """Start the service again on the same folder, after `kill` or `stop`."""
        self.start()

    def close(self) -> None:
        """Kill the service and its workers if they run."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)

    def log(self) -> str:
        """Return the log so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the log so far."""
        return records(self.log().splitlines())

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Make one API call. `path` can also be an absolute URL from a response."""
        url = path if urlsplit(path).scheme else self.url + path
        request = urllib.request.Request(url, body, dict(headers or {}), method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=90) as response:
                return Response(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Response(error.code, error.headers, error.read())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return self.call("GET", path, headers=headers)

    def post(
        self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        return self.call("POST", path, body, {"Content-Type": "text/csv", **(headers or {})})

    def upload(self, body: bytes, query: str = "") -> str:
        """Upload a CSV that must be accepted, and return its request id."""
        response = self.post(f"/processImages{query}", body)
        assert response.status == 201, response.body
        return str(response.json()["requestId"])

    def status(self, request_id: str, query: str = "?limit=1000") -> Any:
        """Return the request's status as JSON."""
        path = f"/checkStatus/{request_id}{query}"
        response = self.get(path, {"Accept": "application/json"})
        assert response.status == 200, response.body
        return response.json()

    def finished(self, request_id: str, seconds: float = 90) -> Any:
        """Wait until the request has finished, and return its status as JSON."""

        def has_finished() -> bool:
            response = self.get(f"/checkStatus/{request_id}?format=json&products=false&wait=5")
            return response.json()["finishedAt"] is not None

        block_until(has_finished, f"{request_id} to finish", seconds)
        return self.status(request_id)


def records(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the log records in the lines. Lines that are not JSON are skipped."""
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def as_toml(settings: Mapping[str, Mapping[str, object]]) -> str:
    """Return the settings as TOML. The JSON of each value must also be valid TOML, but for tables."""
    lines = []
    for section, keys in settings.items():
        lines.append(f"[{section}]")
        for key, value in keys.items():
            # In TOML, the keys of a table have equals signs.
            lines.append(f"{key} = {json.dumps(value, separators=(', ', ' = '))}")
    return "\n".join(lines) + "\n"
