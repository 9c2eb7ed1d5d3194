"""Tests of crashes, signals and killed workers: no image is lost, stuck, or processed twice."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table
from tests.waiting import block_until


def photo_rows(origin: Origin, numbers: Iterable[int]) -> list[tuple[object, ...]]:
    return [(n, f"Product {n}", origin.photo(n)) for n in numbers]


def stored_files(service: Service) -> set[str]:
    return {p.name for p in (service.data_dir / "outputs").rglob("*") if p.is_file()}


def children(service: Service) -> list[psutil.Process]:
    assert service.process is not None
    return psutil.Process(service.process.pid).children(recursive=True)


def check_complete(service: Service, request_id: str) -> None:
    """Assert that all images are completed with whole files, and that no other files exist."""
    status = service.status(request_id)
    images = [image for product in status["products"] for image in product["images"]]
    assert {image["status"] for image in images} == {"completed"}
    for image in images:
        response = service.get(image["outputUrl"])
        assert response.status == 200
        assert len(response.body) == image["outputBytes"]
    with sqlite3.connect(service.data_dir / "imgsvc.db") as database:
        names = {name for (name,) in database.execute("SELECT name FROM files")}
    database.close()
    assert stored_files(service) == names


@pytest.mark.parametrize("seed", range(3))
def test_kill_during_processing_loses_nothing_and_repeats_no_completed_image(
    start_service: StartService, origin: Origin, seed: int
) -> None:
    service = start_service()
    request_id = service.upload(table(photo_rows(origin, range(120))))
    completed: set[str] = set()
    goal = random.Random(seed).randrange(5, 100)
    while len(completed) < goal:
        status = service.status(request_id)
        completed |= {
            image["inputUrl"]
            for product in status["products"]
            for image in product["images"]
            if image["status"] == "completed"
        }
    workers = children(service)
    service.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "workers end with the main process"
    before = {url: origin.hits("/" + url.split("/", 3)[3]) for url in completed}
    service.restart()
    assert service.finished(request_id)["status"] == "completed"
    check_complete(service, request_id)
    after = {url: origin.hits("/" + url.split("/", 3)[3]) for url in completed}
    assert after == before, "an image that was shown as completed is never fetched again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_process_group_stops_service_and_restart_completes_request(
    start_service: StartService, origin: Origin, number: signal.Signals
) -> None:
    service = start_service(server={"shutdown_seconds": 20})
    held = [origin.script(f"/held-{n}.jpg", Reply(gate="held")) for n in range(4)]
    rows = [*photo_rows(origin, range(40)), *((n, "held", url) for n, url in enumerate(held))]
    request_id = service.upload(table(rows))
    block_until(lambda: service.status(request_id)["progress"]["completed"] > 3, "some images", 30)
    workers = children(service)
    assert service.process is not None
    os.killpg(service.process.pid, number)
    assert service.process.wait(30) == 0
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    origin.open_gate("held")
    for n in range(4):
        origin.script(f"/held-{n}.jpg", Reply(photo=f"/photo/{200 + n}.jpg"))
    service.restart()
    status = service.finished(request_id)
    assert status["status"] == "completed"
    assert {i["attempts"] for p in status["products"] for i in p["images"]} == {1}
    check_complete(service, request_id)


def test_stop_answers_503_and_waits_for_active_downloads(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    url = origin.script("/late.jpg", Reply(gate="late", photo="/photo/1.jpg"))
    request_id = service.upload(table([(1, "p", url)]))
    origin.wait_for_hits("/late.jpg", 1)
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    block_until(lambda: not service.is_ready(), "the service to stop", 30)
    responses = [
        service.get("/health/ready"),
        service.get(f"/checkStatus/{request_id}"),
        service.post("/processImages", table(photo_rows(origin, range(1)))),
    ]
    assert [response.status for response in responses] == [503, 503, 503]
    assert all(response.headers["Retry-After"] for response in responses)
    origin.open_gate("late")
    assert service.process.wait(30) == 0
    service.restart()
    assert service.finished(request_id)["status"] == "completed"
    assert origin.hits("/late.jpg") == 1


def test_stop_ends_in_time_despite_hanging_download_and_client(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service(server={"shutdown_seconds": 5})
    rows = [(n, "p", origin.photo(n, query="?w=1600&h=1200")) for n in range(24)]
    done = service.upload(table(rows), "?quality=100")
    assert service.finished(done)["bytes"]["output"] > 2 * 2**20
    service.upload(table([(1, "p", origin.script("/hung.jpg", Reply(gate="hung")))]))
    origin.wait_for_hits("/hung.jpg", 1)
    address = urlsplit(service.url)
    assert service.process is not None
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((address.hostname, address.port))
        reader.sendall(f"GET /downloadImages/{done} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert reader.recv(1)
        # Longer than a stop may take, because the machine may be busy, but shorter than the hang.
        assert service.stop(seconds=30) == 0


def test_signal_stops_start_that_waits_for_locked_database(start_service: StartService) -> None:
    service = start_service()
    service.stop()
    with sqlite3.connect(service.data_dir / "imgsvc.db", isolation_level=None) as database:
        database.execute("BEGIN IMMEDIATE")
        service.start(ready=False)
        assert not service.is_ready()
        assert service.stop(seconds=20) == 0
        database.execute("ROLLBACK")
    database.close()
    service.restart()


def test_second_signal_exits_at_once(start_service: StartService, origin: Origin) -> None:
    service = start_service(compress={"timeout_seconds": 600})
    stuck = origin.script("/stuck.jpg", Reply(gate="stuck"))
    service.upload(table([(1, "p", stuck)]))
    origin.wait_for_hits("/stuck.jpg", 1)
    workers = children(service)
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_second_process_on_same_folder_does_not_start(start_service: StartService) -> None:
    service = start_service()
    with pytest.raises(AssertionError, match=r"another|already"):
        start_service(storage={"data_dir": str(service.data_dir)})
    assert service.is_ready()


def test_start_without_database_in_folder_with_outputs_fails(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    service.finished(service.upload(table(photo_rows(origin, range(3)))))
    assert service.stop() == 0
    kept = stored_files(service)
    for file in service.data_dir.glob("imgsvc.db*"):
        file.unlink()
    with pytest.raises(AssertionError, match="contains images"):
        service.start()
    assert stored_files(service) == kept


def test_start_keeps_files_that_it_does_not_know(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    request_id = service.upload(table(photo_rows(origin, range(3))))
    service.finished(request_id)
    service.kill()
    foreign = service.data_dir / "outputs" / "ab" / "my-own.jpg"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"mine")
    unknown = service.data_dir / "outputs" / "ab" / ("ab" + "0" * 30 + ".jpg")
    unknown.write_bytes(b"an output that this database does not know")
    service.restart()
    assert foreign.read_bytes() == b"mine"
    assert unknown.exists()
    assert service.finished(request_id)["status"] == "completed"


def test_start_removes_uncommitted_file_after_earlier_start_failed(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    service.upload(table([(1, "p", origin.script("/stuck.jpg", Reply(gate="stuck")))]))
    origin.wait_for_hits("/stuck.jpg", 1)
    service.kill()
    token = "ab" * 16
    with sqlite3.connect(service.data_dir / "imgsvc.db") as database:
        database.execute("INSERT INTO reservations VALUES (?, 99)", (bytes.fromhex(token),))
    database.close()
    stored = service.data_dir / "outputs" / token[:2] / f"{token}.jpg"
    stored.parent.mkdir(exist_ok=True)
    stored.write_bytes(b"stored but not committed")
    obstacle = service.data_dir / "outputs" / "tmp" / f"{token}.jpg.{'0' * 16}.tmp"
    obstacle.mkdir()
    with suppress(AssertionError):  # the process may end before the test sees it listen
        service.start(ready=False)
    assert service.process is not None
    assert service.process.wait(30) == 1
    obstacle.rmdir()
    service.restart()
    block_until(lambda: not stored.exists(), "the leftover to be deleted", 30)


def test_killed_workers_fail_no_image(start_service: StartService, origin: Origin) -> None:
    service = start_service()
    request_id = service.upload(table(photo_rows(origin, range(300))))
    chance = random.Random(7)
    kills = 0
    while service.status(request_id, "?products=false")["finishedAt"] is None and kills < 12:
        workers = [p for p in children(service) if is_worker(p)]
        if workers:
            chance.choice(workers).kill()
            kills += 1
        time.sleep(0.1)  # only spreads the kills over time
    assert kills
    assert service.finished(request_id)["status"] == "completed"
    check_complete(service, request_id)


def is_worker(process: psutil.Process) -> bool:
    """Return whether a child is a worker: only workers lower their priority and have no children."""
    try:
        return process.nice() > 0 and not process.children()
    except psutil.NoSuchProcess:
        return False


def test_small_request_does_not_wait_for_large_one(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    large = service.upload(table(photo_rows(origin, range(1_000))))
    block_until(lambda: service.status(large)["progress"]["completed"] > 0, "the first image", 30)
    small = service.upload(table(photo_rows(origin, range(2_000, 2_005))))
    assert service.finished(small)["status"] == "completed"
    progress = service.status(large, "?products=false")["progress"]
    assert progress["pending"] > 0, "the large request is unfinished when the small one is done"


def test_refused_upload_leaves_no_rows(start_service: StartService, tmp_path: Path) -> None:
    service = start_service()
    rows = [(n, f"Product {n}", f"http://192.0.2.1/{n}.jpg") for n in range(20_000)]
    response = service.post("/processImages", table([*rows, (1, "", "http://192.0.2.1/a.jpg")]))
    assert response.status == 400
    assert response.json()["errors"][0]["row"] == 20_002

    def count_rows() -> int:
        with sqlite3.connect(service.data_dir / "imgsvc.db") as database:
            count: int = database.execute(
                "SELECT (SELECT count(*) FROM images) + (SELECT count(*) FROM requests)"
            ).fetchone()[0]
        database.close()
        return count

    block_until(lambda: count_rows() == 0, "the staged rows to be removed", 30)
