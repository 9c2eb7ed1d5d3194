"""Soak tests under load: memory, response times and watchers."""

from __future__ import annotations

import csv
import io
import sqlite3
import statistics
import threading
import time
import urllib.request
from pathlib import Path

from tests.origin import Origin
from tests.service_process import Service, table
from tests.soak.watch import Peak, resident

MB = 1_000_000


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def memory(folder: Path) -> list[str]:
    """Measure how much memory the second half of 20,000 small images adds."""
    origin, service = (
        Origin(),
        Service(folder, {"log": {"level": "info"}, "fetch": {"per_host": 64}}),
    )
    service.start()
    try:
        url = origin.url("/photo/%d.jpg?w=64&h=64&n=%d")
        rows = [(n, f"P{n}", url % (n % 50, n)) for n in range(20_000)]
        request_id = service.upload(table(rows))
        half: tuple[int, int] | None = None
        while (status := service.status(request_id, "?products=false"))["finishedAt"] is None:
            if half is None and status["progress"]["completed"] >= 10_000:
                half = resident(service)
            time.sleep(0.2)
        end = resident(service)
        assert half is not None
        grown = [(after - before) / MB for before, after in zip(half, end, strict=True)]
        print(
            f"second half: main {grown[0]:+.1f} MB, others {grown[1]:+.1f} MB; {status['progress']}"
        )
        return [f"memory grew by {g:.1f} MB" for g in grown if g > 5]
    finally:
        service.close()
        origin.close()


def large_upload(folder: Path) -> list[str]:
    """Upload 1,000,000 rows, about 100 MB.

    Measure the speed relative to the baseline, the memory, and the response times of other API calls.
    """
    body = b"".join(
        [b"S. No.,Product Name,Input Image Urls\r\n"]
        + [
            b"%d,Product number %d of the shop,http://192.0.2.1/images/products/%08d/large.jpg?v=%d\r\n"
            % (n, n, n, n)
            for n in range(1_000_000)
        ]
    )
    baseline_seconds = _baseline_seconds(body, folder / "baseline.db")
    service = Service(folder, {"log": {"level": "info"}})
    service.start()
    try:
        live_times: list[float] = []
        with Peak(service) as peak, _Poller(service, "/health/live", live_times):
            started_at = time.perf_counter()
            request_id = service.upload(body)
            seconds = time.perf_counter() - started_at
        with Peak(service) as reading, _Poller(service, "/health/live", live_times):
            started_at = time.perf_counter()
            rows = _count_lines(f"{service.url}/checkStatus/{request_id}?format=csv")
            csv_seconds = time.perf_counter() - started_at
        times = [
            _request_seconds(service, f"/checkStatus/{request_id}?format=json&products=false")
            for _ in range(300)
        ]
        p99 = percentile(times, 0.99)
        print(
            f"{len(body) / MB:.0f} MB in {seconds:.1f} s (baseline {baseline_seconds:.1f} s, "
            f"{baseline_seconds / seconds:.2f} of the baseline's speed), "
            f"{peak.above / MB:.0f} MB above idle; "
            f"CSV of {rows} lines downloaded in {csv_seconds:.1f} s, "
            f"{reading.above / MB:.0f} MB above idle; "
            f"/health/live worst {max(live_times) * 1000:.0f} ms of {len(live_times)}; "
            f"JSON p99 {p99 * 1000:.1f} ms"
        )
        return [
            *(
                [f"only {baseline_seconds / seconds:.2f} of the baseline's speed"]
                if baseline_seconds / seconds < 0.25
                else []
            ),
            *(["memory"] if max(peak.above, reading.above) > 100 * MB else []),
            *(["health"] if max(live_times) > 0.1 else []),
            *(["p99"] if p99 > 0.05 else []),
            *([f"{rows} lines"] if rows != 1_000_001 else []),
        ]
    finally:
        service.close()


def _baseline_seconds(body: bytes, path: Path) -> float:
    """Return the time in seconds of csv.reader and executemany for the same rows and images."""
    started_at = time.perf_counter()
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE products (number INTEGER PRIMARY KEY, serial TEXT, name TEXT)")
    database.execute("CREATE TABLE images (number INTEGER PRIMARY KEY, product INTEGER, url TEXT)")
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(body), "utf-8", newline=""))
    next(reader)
    with database:
        while chunk := [row for _, row in zip(range(10_000), reader, strict=False)]:
            database.executemany(
                "INSERT INTO products (serial, name) VALUES (?, ?)", ((r[0], r[1]) for r in chunk)
            )
            database.executemany(
                "INSERT INTO images (product, url) VALUES (?, ?)", ((0, r[2]) for r in chunk)
            )
    database.close()
    return time.perf_counter() - started_at


def _count_lines(url: str) -> int:
    with urllib.request.urlopen(url, timeout=600) as response:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: response.read(1 << 20), b""))


def _request_seconds(service: Service, path: str) -> float:
    started_at = time.perf_counter()
    assert service.get(path).status == 200
    return time.perf_counter() - started_at


class _Poller:
    """Requests a path repeatedly from another thread while the `with` block runs."""

    def __init__(
        self, service: Service, path: str, seconds: list[float], interval: float = 0.02
    ) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, args=(service, path, seconds, interval))

    def _poll(self, service: Service, path: str, seconds: list[float], interval: float) -> None:
        while not self._stop.wait(interval):
            seconds.append(_request_seconds(service, path))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def response_times_under_load(folder: Path) -> list[str]:
    """Measure the p99 of the status and of a small upload while 5,000 images are processed."""
    origin, service = Origin(), Service(folder, {"log": {"level": "info"}})
    service.start()
    try:
        rows = [
            (n, f"P{n}", origin.photo(n % 200, query=f"?w=500&h=500&n={n}")) for n in range(5_000)
        ]
        request_id = service.upload(table(rows))
        small = table([(n, f"S{n}", f"http://192.0.2.1/{n}.jpg") for n in range(10)])
        path = f"/checkStatus/{request_id}?format=json&products=false"
        gets: list[float] = []
        posts: list[float] = []
        while service.status(request_id, "?products=false")["finishedAt"] is None:
            gets += [_request_seconds(service, path) for _ in range(10)]
            started_at = time.perf_counter()
            service.upload(small)
            posts.append(time.perf_counter() - started_at)
        p99 = percentile(gets, 0.99), percentile(posts, 0.99)
        print(
            f"GET p50 {statistics.median(gets) * 1000:.1f} p99 {p99[0] * 1000:.1f} ms of {len(gets)}; "
            f"POST p50 {statistics.median(posts) * 1000:.1f} p99 {p99[1] * 1000:.1f} ms of {len(posts)}"
        )
        return [*(["GET"] if p99[0] > 0.05 else []), *(["POST"] if p99[1] > 0.15 else [])]
    finally:
        service.close()
        origin.close()


def watchers(folder: Path) -> list[str]:
    """Measure how much 200 watchers of one request slow down its processing."""
    origin = Origin()

    def run(name: str, count: int) -> float:
        service_folder = folder / name
        service_folder.mkdir()
        service = Service(service_folder, {"log": {"level": "info"}})
        service.start()
        try:
            rows = [
                (n, f"P{n}", origin.photo(n % 200, query=f"?w=500&h=500&n={n}"))
                for n in range(5_000)
            ]
            started_at = time.perf_counter()
            request_id = service.upload(table(rows))
            url = f"{service.url}/watchStatus/{request_id}"
            threads = [
                threading.Thread(target=_read_events, args=(url,), daemon=True)
                for _ in range(count)
            ]
            for thread in threads:
                thread.start()
            service.finished(request_id, 300)
            return time.perf_counter() - started_at
        finally:
            service.close()

    try:
        run("warm", 0)
        pairs = [(run(f"a{n}", 0), run(f"b{n}", 200)) for n in range(3)]
        ratio = statistics.median(b for _, b in pairs) / statistics.median(a for a, _ in pairs)
        print(f"with 200 watchers the run takes {ratio:.2f} × its time: {pairs}")
        return [f"watchers cost {ratio:.2f}"] if ratio > 1.1 else []
    finally:
        origin.close()


def _read_events(url: str) -> None:
    with urllib.request.urlopen(url, timeout=300) as response:
        while response.read(4096):
            pass
