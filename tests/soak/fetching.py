"""Soak tests with slow, dead and hostile hosts."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.corpus import MIXES
from tests.bench.corpus import folder as corpus
from tests.origin import ROOT, Origin
from tests.service_process import Service, table
from tests.soak.endless import HOSTS
from tests.soak.watch import Peak

MB = 1_000_000


def _seconds(
    folder: Path, name: str, fetch: dict[str, object], urls: list[str], other: str = ""
) -> float:
    """Return the time that a request takes, in seconds.

    `other` is a URL prefix. If it is set, a request for 200 images there is uploaded first.
    """
    service_folder = folder / name
    service_folder.mkdir()
    service = Service(
        service_folder,
        {"log": {"level": "info"}, "fetch": {"allowed_networks": ["127.0.0.0/8"], **fetch}},
    )
    service.start()
    try:
        service.finished(service.upload(table([(1, "warm", urls[-1] + "?warm")])))
        if other:
            service.upload(table([(n, "other", f"{other}/{n}.jpg") for n in range(200)]))
        started_at = time.perf_counter()
        status = service.finished(
            service.upload(table([(n, f"P{n}", u) for n, u in enumerate(urls)])), 600
        )
        seconds = time.perf_counter() - started_at
        assert status["status"] == "completed", status["failures"]
        return seconds
    finally:
        service.close()


@contextmanager
def _benchmark_origin(latency: float) -> Iterator[str]:
    """Run the origin server of the benchmark. Yield its base URL."""
    corpus(MIXES["mix"])
    origin = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.image_host", str(corpus(MIXES["s"])), str(latency)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert origin.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(origin.stdout.readline())}"
    finally:
        origin.terminate()
        origin.communicate()


def fair_scheduling(folder: Path) -> list[str]:
    """Compare 10 images alone with 10 images behind 50,000 others of an earlier request."""
    with _benchmark_origin(0.0) as base:
        service = Service(folder, {"log": {"level": "info"}})
        service.start()
        try:
            alone = [_time_small_request(service, base, n) for n in range(5)]
            rows = [(n, f"P{n}", f"{base}/{'sml'[n % 3]}/{n}.jpg") for n in range(50_000)]
            large = service.upload(table(rows))
            behind = [_time_small_request(service, base, n) for n in range(5, 15)]
            progress = service.status(large, "?products=false")["progress"]
        finally:
            service.close()
    worst, median = max(behind), statistics.median(alone)
    print(f"alone {median:.2f} s, behind {sorted(behind)}; {progress['pending']} pending")
    return [f"{worst:.2f} s"] if worst > 2 * median + 1 else []


def _time_small_request(service: Service, base: str, number: int) -> float:
    rows = [(n, "small", f"{base}/m/{1_000_000 + number * 10 + n}.jpg") for n in range(10)]
    started_at = time.perf_counter()
    path = f"/checkStatus/{service.upload(table(rows))}?format=json&products=false&wait=60"
    assert service.get(path).json()["status"] == "completed"
    return time.perf_counter() - started_at


def latency(folder: Path) -> list[str]:
    """2,000 images from a host with 100 ms of latency: compare 64 at a time with one at a time."""
    with _benchmark_origin(0.1) as base:
        urls = [f"{base}/s/{n}.jpg" for n in range(2_000)]
        many = _seconds(folder, "many", {"per_host": 64, "concurrency": 64}, urls)
        one = _seconds(folder, "one", {"per_host": 64, "concurrency": 1}, urls[:200]) * 10
    print(
        f"64 at once {many:.1f} s, one at a time {one:.1f} s (200 of them × 10): {one / many:.1f} ×"
    )
    return [f"only {one / many:.1f} ×"] if one / many < 8 else []


def dead_host(folder: Path) -> list[str]:
    """Measure how one host that accepts connections and never responds slows down 19 other hosts."""
    origins = [Origin(f"127.0.0.{n}") for n in range(2, 21)]
    silent = socket.create_server(("127.0.0.30", 0), backlog=512)
    dead = f"http://127.0.0.30:{silent.getsockname()[1]}"
    try:
        urls = [
            origin.photo(40 * index + n, query="?w=500&h=500")
            for n in range(40)
            for index, origin in enumerate(origins)
        ]
        for origin in origins:  # so that the images exist before the measurement
            _seconds(
                folder, f"warm-{origin.host}", {}, [u for u in urls if u.startswith(origin.base)]
            )
        fetch: dict[str, object] = {"timeout_seconds": 20, "read_timeout_seconds": 10}
        pairs = [
            (
                _seconds(folder, f"without-{n}", fetch, urls),
                _seconds(folder, f"with-{n}", fetch, urls, dead),
            )
            for n in range(5)
        ]
        without_dead, with_dead = zip(*pairs, strict=True)
        ratio = statistics.median(with_dead) / statistics.median(without_dead)
        print(f"with a dead host {ratio:.2f} × the time: {without_dead} {with_dead}")
        return [f"{ratio:.2f} ×"] if ratio > 1.2 else []
    finally:
        silent.close()
        for origin in origins:
            origin.close()


def endless_bodies(folder: Path) -> list[str]:
    """Measure the peak memory of the main process with 64 hosts that send endless bodies."""
    origin = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.endless"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert origin.stdout is not None
    port = int(origin.stdout.readline())
    service = Service(folder, {"log": {"level": "info"}})
    service.start()
    try:
        rows = [(n, "endless", f"http://{host}:{port}/{n}.jpg") for n, host in enumerate(HOSTS)]
        with Peak(service) as peak:
            status = service.finished(service.upload(table(rows)), 300)
        print(f"{peak.above / MB:.0f} MB above idle; {status['failures'][:1]}")
        return ["memory"] if peak.above > 150 * MB else []
    finally:
        service.close()
        origin.terminate()
        origin.communicate()
