"""The receivers of webhooks in the documents, with webhooks of a real service."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsvc.network.webhooks import sign
from tests.conftest import StartService
from tests.e2e.test_snippets import blocks
from tests.origin import Origin
from tests.service_process import table
from tests.waiting import block_until

KEY = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
PROGRAMS = {
    "python": [sys.executable, "receiver.py"],
    "javascript": ["node", "receiver.mjs"],
    "php": ["php", "-S", "127.0.0.1:{port}", "receiver.php"],
}


class Receiver:
    """A receiver of the page about webhooks as a process. `output` has what it prints."""

    def __init__(self, language: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        self._address = ("127.0.0.1", port)
        self._file = folder / "output"
        command = [part.replace("{port}", str(port)) for part in PROGRAMS[language]]
        found = dict(blocks("docs/how-to/webhooks.md"))[language]
        (folder / command[-1]).write_text(found)
        with self._file.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "WEBHOOK_SECRET": SECRET, "PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        block_until(self._listens, f"the receiver in {language}", 30)

    def _listens(self) -> bool:
        assert self._process.poll() is None, self.output
        try:
            socket.create_connection(self._address).close()
        except OSError:
            return False
        return True

    @property
    def output(self) -> str:
        return self._file.read_text()

    def send(self, body: bytes, headers: dict[str, str]) -> int:
        """Send a webhook, and return the status of the response."""
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)


@pytest.fixture(
    params=[
        "python",
        pytest.param("javascript", marks=pytest.mark.external),
        pytest.param("php", marks=pytest.mark.external),
    ]
)
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    assert shutil.which(PROGRAMS[request.param][0]), f"install {PROGRAMS[request.param][0]}"
    receiver = Receiver(request.param, tmp_path)
    yield receiver
    receiver.close()


def test_receiver_accepts_webhooks_of_the_service(
    receiver: Receiver, start_service: StartService, origin: Origin
) -> None:
    service = start_service(webhook={"secret": SECRET})
    body = table([[1, "Lamp", [origin.photo(1)]]])
    request_id = service.upload(body, f"?webhookUrl={receiver.url}")
    block_until(lambda: f"{request_id} completed" in receiver.output, "the webhook")
    block_until(
        lambda: service.status(request_id)["webhook"]["status"] == "delivered", "the delivery"
    )


def test_receiver_refuses_forged_and_old_webhooks(receiver: Receiver) -> None:
    body = b'{"type": "request.finished", "requestId": "forged", "status": "completed"}'
    now = int(time.time())
    assert receiver.send(body, sign(bytes(24), "msg_1", now, body)) == 401
    assert receiver.send(body, sign(None, "msg_1", now, body)) == 401
    assert receiver.send(body, sign(KEY, "msg_1", now - 3600, body)) == 401
    assert receiver.send(body + b" ", sign(KEY, "msg_1", now, body)) == 401
    assert "forged completed" not in receiver.output
    assert receiver.send(body, sign(KEY, "msg_1", now, body)) == 204
    block_until(lambda: "forged completed" in receiver.output, "the valid webhook")
