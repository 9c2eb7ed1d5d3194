"""A service under hostile or excessive load keeps its promises."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.conftest import StartService
from tests.image_assertions import encode_image
from tests.origin import Origin
from tests.service_process import Service, table


def scan_bomb(number: int) -> bytes:
    """Return a small JPEG of 16 million pixels that takes a minute to decode."""
    data = encode_image(Image.new("L", (4_000, 4_000), number), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 5_000 + data[-2:]


def test_scan_bombs_fail_at_once_and_beside_them_small_images_complete(
    service: Service, origin: Origin
) -> None:
    bombs = [origin.serve(f"/bomb/{number}.jpg", scan_bomb(number)) for number in range(12)]
    bad = service.upload(table((n, f"Bomb {n}", [url]) for n, url in enumerate(bombs)))
    good = service.upload(table((n, f"Lamp {n}", [origin.photo(n)]) for n in range(10)))
    assert service.finished(good)["status"] == "completed"
    status = service.finished(bad)
    assert [(f["code"], f["count"]) for f in status["failures"]] == [("too_many_pixels", 12)]
    assert status["bytes"]["output"] == 0


@pytest.mark.parametrize(
    "case", [(128, 150, 500, 16), (128, 150, 500, 64), (1_024, 1_100, 600, 16)]
)
def test_idle_clients_that_use_up_the_descriptors_cost_no_image_and_few_log_lines(
    start_service: StartService, origin: Origin, case: tuple[int, int, int, int]
) -> None:
    files, idle, images, per_host = case
    limited = start_service(fetch={"per_host": per_host}, log={"level": "info"}, max_files=files)
    urls = [origin.photo(number, query="?w=32&h=24") for number in range(images)]
    request_id = limited.upload(table((n, f"Lamp {n}", [url]) for n, url in enumerate(urls)))
    clients = [connect(limited) for _ in range(idle)]
    status = limited.finished(request_id, 300)
    assert [(f["code"], f["count"]) for f in status["failures"]] == []
    assert status["progress"]["completed"] == images
    for client in clients:
        client.close()
    assert len(limited.log().splitlines()) < 100


def connect(service: Service) -> socket.socket:
    """Open a connection to the service that sends nothing."""
    address = urlsplit(service.url)
    return socket.create_connection((address.hostname, address.port), 60)


def test_slow_uploads_within_large_cells_need_bounded_memory(start_service: StartService) -> None:
    """Each of 40 uploads sends as much of a cell of 15 MiB as the service takes, and then stops."""
    slow = start_service(server={"max_uploads": 64})
    cell = b'1,"' + b"x" * 15 * 2**20
    body = b"S. No.,Product Name,Input Image Urls,Text\n1,Lamp,http://127.0.0.1/a.jpg," + cell[2:]
    head = b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    before = resident_bytes(slow)
    clients = [connect(slow) for _ in range(40)]
    unsent = dict.fromkeys(clients, memoryview(head % (len(body) + 2) + body))
    while writable := select.select([], list(unsent), [], 3)[1]:
        for client in writable:
            unsent[client] = unsent[client][client.send(unsent[client][: 2**18]) :]
            if not unsent[client]:
                del unsent[client]
    assert resident_bytes(slow) - before < 64_000_000
    completed = next(client for client in clients if client not in unsent)
    completed.send(b'"\n')
    assert completed.recv(100).startswith(b"HTTP/1.1 201 ")
    for client in clients:
        client.close()


def resident_bytes(service: Service) -> int:
    """Return the memory of the main process."""
    assert service.process is not None
    pages = Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")
