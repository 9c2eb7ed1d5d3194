"""What an image costs, in requests of any size and beside many finished ones; and the validator."""

from __future__ import annotations

import csv
import io
import statistics
import time
from pathlib import Path

from imgsvc.table.reader import TableReader
from tests.bench.compare import Origin, measured, warm_names
from tests.bench.corpus import TINY, folder
from tests.launcher import Service, table

SMALLEST, LARGEST = 1_000, 100_000
RUNS = {100: 9, SMALLEST: 9, 10_000: 3, LARGEST: 1}
FINISHED = 1_000
ROWS = 100_000
PIECE = 2**16


def cost_per_image(work: Path) -> None:
    """CPU of the whole service for an image of 64 × 64, where its own pixels hide least."""
    origin = Origin(folder(TINY), 0)
    service = Service(
        work, {"fetch": {"per_host": 64}, "compress": {"workers": 0}, "log": {"level": "info"}}
    )
    service.start()
    images = iter(range(10**9))

    def request(count: int) -> bytes:
        return table((n, f"P{n}", f"{origin.base}/xs/{next(images)}.jpg") for n in range(count))

    def cost(count: int, runs: int) -> float:
        return statistics.median(
            measured(service, request(count)).cpu_seconds / count for _ in range(runs)
        )

    try:
        urls = [f"{origin.base}/{name}" for name in warm_names("xs")]
        service.finished(service.upload(table([(1, "warm", urls)])))
        cost(SMALLEST, 3)
        costs = {f"{count:,} images": cost(count, runs) for count, runs in RUNS.items()}
        for request_id in [service.upload(request(3)) for _ in range(FINISHED)]:
            service.finished(request_id)
        costs[f"{SMALLEST:,} images, again"] = cost(SMALLEST, RUNS[SMALLEST])
    finally:
        service.stop()
        service.close()
        origin.close()
    least = costs[f"{SMALLEST:,} images"]
    print("\n| in a request of | CPU ms an image | |\n|---|---|---|")
    for what, seconds in costs.items():
        print(f"| {what} | {seconds * 1000:.2f} | {seconds / least:.2f} × |")
    print(
        f"\nThe last row is measured beside {FINISHED:,} more finished requests, and all those above.\n"
    )


def validator(_work: Path) -> None:
    """Rows a second of the validator, beside csv.reader alone on the same bytes."""
    url = "https://shop.example/images/products/%08d/%d.jpg?v=%d"
    body = table(
        (n, f"Product number {n}", [url % (n, k, n % 7) for k in range(3)]) for n in range(ROWS)
    )
    ours, theirs = [], []
    for _ in range(5):
        begun = time.perf_counter()
        reader = TableReader()
        pieces = (body[at : at + PIECE] for at in range(0, len(body), PIECE))
        assert sum(len(reader.feed(piece)) for piece in pieces) + len(reader.close()) == ROWS
        ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        rows = csv.reader(io.TextIOWrapper(io.BytesIO(body), "utf-8", newline=""))
        assert sum(1 for _ in rows) == ROWS + 1
        theirs.append(time.perf_counter() - begun)
    mine, alone = statistics.median(ours), statistics.median(theirs)
    print(
        f"\nvalidator: {ROWS / mine:,.0f} rows/s ({3 * ROWS / mine:,.0f} URLs/s, "
        f"{len(body) / mine / 1e6:.0f} MB/s); csv.reader alone {ROWS / alone:,.0f} rows/s: "
        f"{mine / alone:.1f} ×\n"
    )
