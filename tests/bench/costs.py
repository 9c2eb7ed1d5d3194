"""Measure the CPU time per image for requests of different sizes, and the speed of the validator."""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from imgsvc.table.reader import TableReader
from tests.bench.compare import ImageHost
from tests.bench.corpus import TINY, folder
from tests.bench.measure import cpu_seconds
from tests.service_process import Service, table

REFERENCE_SIZE = 1_000
SIZES = {100: 5, REFERENCE_SIZE: 9, 10_000: 3, 100_000: 1}
"""Images in a request, and the number of such requests."""

FINISHED_REQUESTS = 1_000
PAUSE_SECONDS = 4.0
"""Pause between requests to the other service during a large request."""
ROWS = 100_000
CHUNK_BYTES = 2**16


class _SmallImageService:
    """A service that compresses 64 × 64 images, whose pixels take little of the CPU time."""

    def __init__(self, folder: Path, host: ImageHost, numbers: Iterator[int]) -> None:
        folder.mkdir()
        settings: dict[str, dict[str, object]] = {
            "fetch": {"per_host": 64},
            "compress": {"workers": 0},
            "log": {"level": "info"},
        }
        self.service = Service(folder, settings)
        self.service.start()
        self._url = f"{host.base}/xs/%d.jpg"
        self._numbers = numbers

    def upload(self, count: int) -> str:
        rows = ((n, f"P{n}", self._url % next(self._numbers)) for n in range(count))
        return self.service.upload(table(rows))

    def close(self) -> None:
        self.service.stop()
        self.service.close()

    def measure(self, request_id: str) -> tuple[float, int]:
        """Return the CPU seconds of the service so far, and the completed images of the request."""
        assert self.service.process is not None
        progress = self.service.status(request_id, "?products=false")["progress"]
        return cpu_seconds(self.service.process.pid), progress["completed"]


def _ratios(one: _SmallImageService, count: int, other: _SmallImageService) -> Iterator[float]:
    """Yield ratios of CPU time per image: `one` in a request of `count`, `other` in one of 1,000.

    Both run at the same time, so that variations of the machine's speed affect both equally.
    """
    request_id = one.upload(count)
    done = 0
    while done < count:
        reference_id = other.upload(REFERENCE_SIZE)
        before, other_before = one.measure(request_id), other.measure(reference_id)
        other.service.finished(reference_id)
        after, other_after = one.measure(request_id), other.measure(reference_id)
        done = after[1]
        if after[1] > before[1] and other_after[1] > other_before[1]:
            cost = (after[0] - before[0]) / (after[1] - before[1])
            yield cost / ((other_after[0] - other_before[0]) / (other_after[1] - other_before[1]))
        if count > REFERENCE_SIZE:  # limit how many requests the other service accumulates
            time.sleep(PAUSE_SECONDS)
    one.service.finished(request_id)


def cost_per_image(work: Path) -> None:
    """Print the CPU time per image by size of the request, and after many finished requests."""
    host = ImageHost(folder(TINY), 0)
    numbers = count()
    one, other = (_SmallImageService(work / name, host, numbers) for name in ("one", "other"))
    try:
        for service in (one, other):
            service.service.finished(service.upload(REFERENCE_SIZE))
        print(
            "\n| images in a request | CPU per image, relative to 1,000 on another service |\n|---|---|"
        )
        for size, runs in SIZES.items():
            _print_row(
                f"{size:,}", [ratio for _ in range(runs) for ratio in _ratios(one, size, other)]
            )
        for request_id in [one.upload(3) for _ in range(FINISHED_REQUESTS)]:
            one.service.finished(request_id)
        ratios = [
            ratio
            for _ in range(SIZES[REFERENCE_SIZE])
            for ratio in _ratios(one, REFERENCE_SIZE, other)
        ]
        _print_row(
            f"{REFERENCE_SIZE:,}, after all these and {FINISHED_REQUESTS:,} finished requests",
            ratios,
        )
    finally:
        one.close()
        other.close()
        host.close()


def _print_row(label: str, ratios: list[float]) -> None:
    print(f"| {label} | {statistics.median(ratios):.2f} × |", flush=True)


def validator(_work: Path) -> None:
    """Print the rows per second of the validator, and of csv.reader on the same bytes."""
    url = "https://shop.example/images/products/%08d/%d.jpg?v=%d"
    body = table(
        (n, f"Product number {n}", [url % (n, k, n % 7) for k in range(3)]) for n in range(ROWS)
    )
    validator_times, reader_times = [], []
    for _ in range(5):
        started = time.perf_counter()
        reader = TableReader()
        chunks = (body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES))
        assert sum(len(reader.feed(chunk)) for chunk in chunks) + len(reader.close()) == ROWS
        validator_times.append(time.perf_counter() - started)
        started = time.perf_counter()
        rows = csv.reader(io.TextIOWrapper(io.BytesIO(body), "utf-8", newline=""))
        assert sum(1 for _ in rows) == ROWS + 1
        reader_times.append(time.perf_counter() - started)
    validator_seconds = statistics.median(validator_times)
    reader_seconds = statistics.median(reader_times)
    print(
        f"\nvalidator: {ROWS / validator_seconds:,.0f} rows/s "
        f"({3 * ROWS / validator_seconds:,.0f} URLs/s, "
        f"{len(body) / validator_seconds / 1e6:.0f} MB/s); "
        f"csv.reader: {ROWS / reader_seconds:,.0f} rows/s, "
        f"{validator_seconds / reader_seconds:.1f} × as fast\n"
    )
