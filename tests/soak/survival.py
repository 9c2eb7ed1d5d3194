"""Soak tests with repeated crashes, killed workers and a full disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

from tests.origin import Origin
from tests.service_process import Service, table
from tests.soak.watch import children, is_worker
from tests.waiting import block_until

KILLS = 100
REQUESTS = 20
IMAGES = 60


def kills(folder: Path) -> list[str]:
    """Kill the process group with SIGKILL 100 times at random moments during 20 requests."""
    random_source = random.Random(1)
    origin, service = Origin(), Service(folder, {"compress": {"workers": 2}})
    service.start()
    ids: list[str] = []
    seen_completed: dict[str, int] = {}
    try:
        for kill in range(KILLS):
            while len(ids) < min(REQUESTS, 1 + kill // 4):
                first = len(ids) * IMAGES
                rows = [(n, f"P{n}", origin.photo(n)) for n in range(first, first + IMAGES)]
                ids.append(service.upload(table(rows)))
            time.sleep(random_source.uniform(0, 0.6))
            for url in completed(service, ids):
                seen_completed.setdefault(url, origin.hits("/photo/" + url.rpartition("/")[2]))
            assert service.process is not None
            os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()
            service.restart()
        problems = []
        for request_id in ids:
            status = service.finished(request_id, 300)
            if status["status"] != "completed":
                problems.append(f"{request_id} ended {status['status']}: {status['failures']}")
        for url, hits in seen_completed.items():
            if origin.hits("/photo/" + url.rpartition("/")[2]) != hits:
                problems.append(f"{url} was completed and then fetched again")
        problems += missing_files(service, ids)
        print(
            f"{KILLS} kills, {len(ids)} requests, "
            f"{len(seen_completed)} images seen completed before a kill"
        )
        return problems
    finally:
        service.close()
        origin.close()


def completed(service: Service, ids: list[str]) -> list[str]:
    return [
        image["inputUrl"]
        for request_id in ids
        for product in service.status(request_id)["products"]
        for image in product["images"]
        if image["status"] == "completed"
    ]


def missing_files(service: Service, ids: list[str]) -> list[str]:
    problems = []
    for request_id in ids:
        for product in service.status(request_id)["products"]:
            for image in product["images"]:
                response = service.get(image["outputUrl"])
                if response.status != 200 or len(response.body) != image["outputBytes"]:
                    problems.append(f"{image['outputUrl']} is missing or incomplete")
    with sqlite3.connect(service.data_dir / "imgsvc.db") as database:
        names = {name for (name,) in database.execute("SELECT name FROM files")}
    database.close()
    files = {p.name for p in (service.data_dir / "outputs").rglob("*") if p.is_file()}
    problems += [f"{name} is in no database row" for name in files - names]
    temporary_files = service.data_dir.rglob("*.tmp")
    problems += [f"{path} was not removed" for path in temporary_files]
    return problems


def killed_workers(folder: Path) -> list[str]:
    """Kill workers at random moments during 2,000 images."""
    random_source = random.Random(2)
    origin, service = Origin(), Service(folder)
    service.start()
    try:
        rows = [(n, f"P{n}", origin.photo(n)) for n in range(2_000)]
        request_id = service.upload(table(rows))
        killed = 0
        while service.status(request_id, "?products=false")["finishedAt"] is None:
            workers = [p for p in children(service) if is_worker(p)]
            if workers:
                random_source.choice(workers).kill()
                killed += 1
            time.sleep(random_source.uniform(0.05, 0.4))
        status = service.status(request_id, "?products=false")
        print(f"{killed} workers killed; {status['progress']}")
        return [] if status["status"] == "completed" else [f"failures: {status['failures']}"]
    finally:
        service.close()
        origin.close()


def full_disk(folder: Path) -> list[str]:
    """Fill a small tmpfs that is the data_dir, then free it. All images complete. Needs root."""
    mount = folder / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)], check=True)
    origin = Origin()
    service = Service(folder, {"storage": {"data_dir": str(mount), "min_free_bytes": "2 MiB"}})
    service.data_dir = mount
    try:
        service.start()
        rows = [(n, f"P{n}", origin.photo(n, query="?w=500&h=500")) for n in range(300)]
        request_id = service.upload(table(rows))
        filler = mount / "filler"
        block_until(
            lambda: service.status(request_id)["progress"]["completed"] > 10, "10 images", 60
        )
        with filler.open("wb") as file:
            while shutil.disk_usage(mount).free > 1_500_000:
                file.write(b"x" * 100_000)
                file.flush()
        block_until(lambda: service.get("/health/ready").status == 503, "not ready", 30)
        refused = service.post("/processImages", table(rows))
        paused_progress = service.status(request_id, "?products=false")["progress"]
        filler.unlink()
        block_until(lambda: service.get("/health/ready").status == 200, "ready again", 30)
        status = service.finished(request_id, 120)
        print(
            f"full: upload returned {refused.status}, {paused_progress}; freed: {status['progress']}"
        )
        problems = [] if status["status"] == "completed" else [f"{status['failures']}"]
        return problems + ([] if refused.status == 503 else [f"upload: {refused.status}"])
    finally:
        service.close()
        origin.close()
        subprocess.run(["umount", str(mount)], check=False)
