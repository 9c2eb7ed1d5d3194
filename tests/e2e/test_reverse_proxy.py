"""The configurations of reverse proxies in the documents, with a real service behind them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.e2e.test_snippets import blocks
from tests.origin import Origin
from tests.service_process import Service, table
from tests.waiting import block_until

pytestmark = pytest.mark.external
HOST = {"Host": "images.example"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def nginx_command(text: str, port: int, folder: Path) -> list[str]:
    """Write the configuration of nginx without TLS, and return the command that uses it."""
    for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        directive = "client_body" if name == "body" else name
        text = f"{directive}_temp_path {folder}/{name};\n{text}"
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    file = folder / "nginx.conf"
    file.write_text(
        f"user root;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{text}}}\n"
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(file), "-g", "daemon off;"]


def caddy_command(text: str, port: int, folder: Path) -> list[str]:
    """Write the configuration of Caddy without TLS, and return the command that uses it."""
    text = text.replace("images.example {", f"http://images.example:{port} {{")
    file = folder / "Caddyfile"
    file.write_text("{\n\tadmin off\n}\n" + text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


PROXIES = {"nginx": nginx_command, "caddyfile": caddy_command}


@pytest.fixture(params=PROXIES)
def proxied(
    request: pytest.FixtureRequest, start_service: StartService, tmp_path: Path
) -> Iterator[tuple[Service, str]]:
    """Provide a service, and the URL of a proxy before it."""
    service = start_service(server={"public_url": "https://images.example"})
    port, folder = free_port(), tmp_path / "proxy"
    folder.mkdir()
    text = dict(blocks("docs/how-to/reverse-proxy.md"))[request.param]
    own = service.url.removeprefix("http://")
    command = PROXIES[request.param](text.replace("127.0.0.1:8080", own), port, folder)
    assert shutil.which(command[0]), f"install {command[0]}"
    proxy = subprocess.Popen(
        command,
        env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"

    def responds() -> bool:
        assert proxy.poll() is None
        try:
            return service.get(f"{url}/health/live", HOST).status == 200
        except OSError:
            return False

    block_until(responds, command[0])
    yield service, url
    os.killpg(proxy.pid, signal.SIGKILL)
    proxy.wait(30)


def test_proxy_passes_large_uploads_events_and_outputs(
    proxied: tuple[Service, str], origin: Origin
) -> None:
    service, url = proxied
    notes = [f"Note {number}" for number in range(20)]
    header = ("S. No.", "Product Name", "Input Image Urls", *notes)
    body = table([[1, "Lamp", [origin.photo(1)], *("x" * 100_000 for _ in notes)]], header)
    accepted = service.post(f"{url}/processImages", body, HOST)
    assert accepted.status == 201, accepted.body
    request_id = accepted.json()["requestId"]
    assert accepted.json()["statusUrl"].startswith("https://images.example/checkStatus/")
    events = service.get(f"{url}/watchStatus/{request_id}", HOST).body.decode()
    assert "event: finished" in events
    (row,) = service.get(f"{url}/checkStatus/{request_id}", HOST).rows()
    output = row["Output Image Urls"].removeprefix("https://images.example")
    image = service.get(f"{url}{output}", HOST)
    assert (image.status, image.headers["Content-Type"]) == (200, "image/jpeg")
