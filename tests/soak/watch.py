"""Measurements of the service's processes from outside."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

import psutil

from tests.service_process import Service


def children(service: Service) -> list[psutil.Process]:
    assert service.process is not None
    return psutil.Process(service.process.pid).children(recursive=True)


def is_worker(process: psutil.Process) -> bool:
    """Return whether the process is a worker. Only workers raise their nice value."""
    try:
        return process.nice() > 0
    except psutil.NoSuchProcess:
        return False


def resident(service: Service) -> tuple[int, int]:
    """Return the resident memory in bytes of the main process, and of all other processes."""
    assert service.process is not None
    main = psutil.Process(service.process.pid).memory_info().rss
    return main, sum(p.memory_info().rss for p in children(service))


class Peak:
    """Measures the peak resident memory of the main process while the `with` block runs.

    `above` is the peak in bytes above the memory at the start.
    """

    def __init__(self, service: Service) -> None:
        assert service.process is not None
        self._pid = service.process.pid
        self._stop = threading.Event()
        self._before = self._read()
        self.above = 0
        self._thread = threading.Thread(target=self._watch)

    def _read(self) -> int:
        text = Path(f"/proc/{self._pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.above = max(self.above, self._read() - self._before)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
