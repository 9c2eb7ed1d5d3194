"""The real service, as a process of its own, driven over HTTP."""

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


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = HEADER) -> bytes:
    """A CSV of those rows, as an upload takes it. A cell that is a list is joined by commas."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    for row in rows:
        writer.writerow([",".join(cell) if isinstance(cell, list) else cell for cell in row])
    return out.getvalue().encode()


@dataclass(frozen=True)
class Answer:
    """What the service answered."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def rows(self) -> list[dict[str, str]]:
        """The body's CSV, a dictionary for each row."""
        return list(csv.DictReader(io.StringIO(self.body.decode(), newline="")))


class Service:
    """One service and its folder. `settings` are config.toml's sections.

    It may fetch from loopback, listens on a free port, and logs JSON to `log_file`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        environ: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.log_file = folder / "service.log"
        self.arguments = list(arguments)
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
        """Start it, and wait until it listens, and (unless told not to) is ready."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        config = self.folder / "config.toml"
        config.write_text(as_toml(self.settings))
        before = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "imgsvc", "serve", "--config", str(config), *self.arguments],
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

    def _find_url(self, offset: int) -> bool:
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
        """kill -9, the main process alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Send a signal, wait for the end, return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def restart(self) -> None:
        """Start again on the same folder, after `kill` or `stop`."""
        self.start()

    def close(self) -> None:
        """End it however it is, workers included."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def records(self) -> list[dict[str, Any]]:
        """Its log so far, parsed."""
        return records(self.log().splitlines())

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call; `path` may also be an absolute URL that the service gave."""
        url = path if urlsplit(path).scheme else self.url + path
        request = urllib.request.Request(url, body, dict(headers or {}), method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=90) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.call("GET", path, headers=headers)

    def post(
        self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        return self.call("POST", path, body, {"Content-Type": "text/csv", **(headers or {})})

    def upload(self, body: bytes, query: str = "") -> str:
        """Upload a CSV that is to be accepted; return its request id."""
        answer = self.post(f"/processImages{query}", body)
        assert answer.status == 201, answer.body
        return str(answer.json()["requestId"])

    def status(self, request_id: str, query: str = "?limit=1000") -> Any:
        """The request's status as JSON."""
        path = f"/checkStatus/{request_id}{query}"
        answer = self.get(path, {"Accept": "application/json"})
        assert answer.status == 200, answer.body
        return answer.json()

    def finished(self, request_id: str, seconds: float = 90) -> Any:
        """Wait until the request has finished; return its status as JSON."""

        def has_finished() -> bool:
            answer = self.get(f"/checkStatus/{request_id}?format=json&products=false&wait=5")
            return answer.json()["finishedAt"] is not None

        block_until(has_finished, f"{request_id} to finish", seconds)
        return self.status(request_id)


def records(lines: Iterable[str]) -> list[dict[str, Any]]:
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
    """Enough TOML for our settings: each value's JSON is TOML as well."""
    lines = []
    for section, keys in settings.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"
