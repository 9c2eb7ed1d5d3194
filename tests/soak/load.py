"""Much of everything: memory, latency and watchers under load."""

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
    """20,000 small images: how much the second half of the run adds."""
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
    """1,000,000 rows, about 100 MB: speed beside the floor, memory, and who else is answered."""
    body = b"".join(
        [b"S. No.,Product Name,Input Image Urls\r\n"]
        + [
            b"%d,Product number %d of the shop,http://192.0.2.1/images/products/%08d/large.jpg?v=%d\r\n"
            % (n, n, n, n)
            for n in range(1_000_000)
        ]
    )
    floor_seconds = _floor(body, folder / "floor.db")
    service = Service(folder, {"log": {"level": "info"}})
    service.start()
    try:
        live: list[float] = []
        with Peak(service) as peak, _Asking(service, "/health/live", live):
            begun = time.perf_counter()
            request_id = service.upload(body)
            seconds = time.perf_counter() - begun
        with Peak(service) as reading, _Asking(service, "/health/live", live):
            begun = time.perf_counter()
            rows = _count_lines(f"{service.url}/checkStatus/{request_id}?format=csv")
            csv_seconds = time.perf_counter() - begun
        answers = [
            _timed(service, f"/checkStatus/{request_id}?format=json&products=false")
            for _ in range(300)
        ]
        p99 = percentile(answers, 0.99)
        print(
            f"{len(body) / MB:.0f} MB in {seconds:.1f} s (floor {floor_seconds:.1f} s, "
            f"{floor_seconds / seconds:.2f} of its speed), {peak.above / MB:.0f} MB above idle; "
            f"CSV of {rows} lines back in {csv_seconds:.1f} s, {reading.above / MB:.0f} MB above; "
            f"/health/live worst {max(live) * 1000:.0f} ms of {len(live)}; JSON p99 {p99 * 1000:.1f} ms"
        )
        return [
            *(
                [f"only {floor_seconds / seconds:.2f} of the floor"]
                if floor_seconds / seconds < 0.25
                else []
            ),
            *(["memory"] if max(peak.above, reading.above) > 100 * MB else []),
            *(["health"] if max(live) > 0.1 else []),
            *(["p99"] if p99 > 0.05 else []),
            *([f"{rows} lines"] if rows != 1_000_001 else []),
        ]
    finally:
        service.close()


def _floor(body: bytes, path: Path) -> float:
    """csv.reader plus executemany of the same rows and images."""
    begun = time.perf_counter()
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
    return time.perf_counter() - begun


def _count_lines(url: str) -> int:
    with urllib.request.urlopen(url, timeout=600) as answer:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: answer.read(1 << 20), b""))


def _timed(service: Service, path: str) -> float:
    begun = time.perf_counter()
    assert service.get(path).status == 200
    return time.perf_counter() - begun


class _Asking:
    """Ask for a path again and again, from another thread, as long as the block runs."""

    def __init__(
        self, service: Service, path: str, seconds: list[float], pause: float = 0.02
    ) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(service, path, seconds, pause))

    def _ask(self, service: Service, path: str, seconds: list[float], pause: float) -> None:
        while not self._stop.wait(pause):
            seconds.append(_timed(service, path))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def answers_under_load(folder: Path) -> list[str]:
    """p99 of the status and of a small upload while 5,000 images are being processed."""
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
            gets += [_timed(service, path) for _ in range(10)]
            begun = time.perf_counter()
            service.upload(small)
            posts.append(time.perf_counter() - begun)
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
    """What 200 watchers of one request cost the run."""
    origin = Origin()

    def run(name: str, count: int) -> float:
        where = folder / name
        where.mkdir()
        service = Service(where, {"log": {"level": "info"}})
        service.start()
        try:
            rows = [
                (n, f"P{n}", origin.photo(n % 200, query=f"?w=500&h=500&n={n}"))
                for n in range(5_000)
            ]
            begun = time.perf_counter()
            request_id = service.upload(table(rows))
            url = f"{service.url}/watchStatus/{request_id}"
            threads = [
                threading.Thread(target=_drain, args=(url,), daemon=True) for _ in range(count)
            ]
            for thread in threads:
                thread.start()
            service.finished(request_id, 300)
            return time.perf_counter() - begun
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


def _drain(url: str) -> None:
    with urllib.request.urlopen(url, timeout=300) as answer:
        while answer.read(4096):
            pass
