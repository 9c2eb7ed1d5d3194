"""What an image costs, in requests of any size and beside many finished ones; and the validator."""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from imgsvc.table.reader import TableReader
from tests.bench.compare import Origin
from tests.bench.corpus import TINY, folder
from tests.bench.measure import cpu_seconds
from tests.service_process import Service, table

USUAL = 1_000
SIZES = {100: 5, USUAL: 9, 10_000: 3, 100_000: 1}
"""How many images in a request, and how many such requests."""
FINISHED = 1_000
PAUSE_SECONDS = 4.0
ROWS = 100_000
PIECE = 2**16


class _Small:
    """A service that works through 64 × 64 pictures, whose own pixels hide least of what it costs."""

    def __init__(self, folder: Path, origin: Origin, numbers: Iterator[int]) -> None:
        folder.mkdir()
        settings: dict[str, dict[str, object]] = {
            "fetch": {"per_host": 64},
            "compress": {"workers": 0},
            "log": {"level": "info"},
        }
        self.service = Service(folder, settings)
        self.service.start()
        self._url = f"{origin.base}/xs/%d.jpg"
        self._numbers = numbers

    def upload(self, count: int) -> str:
        rows = ((n, f"P{n}", self._url % next(self._numbers)) for n in range(count))
        return self.service.upload(table(rows))

    def close(self) -> None:
        self.service.stop()
        self.service.close()

    def spent(self, request_id: str) -> tuple[float, int]:
        """CPU seconds of the whole service so far, and images that the request has done."""
        assert self.service.process is not None
        progress = self.service.status(request_id, "?products=false")["progress"]
        return cpu_seconds(self.service.process.pid), progress["completed"]


def _ratios(one: _Small, count: int, other: _Small) -> Iterator[float]:
    """What an image costs `one` in a request of `count`, by what it costs `other` in one of 1,000.

    Both work at the same time, so that the machine's moods are the same for both.
    """
    request_id = one.upload(count)
    done = 0
    while done < count:
        usual = other.upload(USUAL)
        before, beside = one.spent(request_id), other.spent(usual)
        other.service.finished(usual)
        after, beside_after = one.spent(request_id), other.spent(usual)
        done = after[1]
        if after[1] > before[1] and beside_after[1] > beside[1]:
            ours = (after[0] - before[0]) / (after[1] - before[1])
            yield ours / ((beside_after[0] - beside[0]) / (beside_after[1] - beside[1]))
        if count > USUAL:  # lest the other has as much behind it in the end
            time.sleep(PAUSE_SECONDS)
    one.service.finished(request_id)


def cost_per_image(work: Path) -> None:
    """CPU of the whole service for an image, by the size of its request and what went before."""
    origin = Origin(folder(TINY), 0)
    numbers = count()
    one, other = (_Small(work / name, origin, numbers) for name in ("one", "other"))
    try:
        for service in (one, other):
            service.service.finished(service.upload(USUAL))
        print("\n| in a request of | CPU an image, by that in one of 1,000 elsewhere |\n|---|---|")
        for size, runs in SIZES.items():
            _tell(f"{size:,}", [ratio for _ in range(runs) for ratio in _ratios(one, size, other)])
        for request_id in [one.upload(3) for _ in range(FINISHED)]:
            one.service.finished(request_id)
        again = [ratio for _ in range(SIZES[USUAL]) for ratio in _ratios(one, USUAL, other)]
        _tell(f"{USUAL:,}, beside all these and {FINISHED:,} finished requests", again)
    finally:
        one.close()
        other.close()
        origin.close()


def _tell(what: str, ratios: list[float]) -> None:
    print(f"| {what} | {statistics.median(ratios):.2f} × |", flush=True)


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
