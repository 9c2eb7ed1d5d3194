"""Measure the CPU time and the peak memory (PSS) of a process and its children."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import psutil

INTERVAL_SECONDS = 0.1
"""Seconds between samples."""


class ProcessMonitor:
    """Measure a process and its children until `stop`. PSS counts shared pages once."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu: dict[int, float] = {}
        self._cpu_at_start: dict[int, float] = {}
        self.peak_pss = 0
        self._sample()
        self._cpu_at_start = dict(self._cpu)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cpu_seconds(self) -> float:
        """User and system time since the start. Children that ended count up to their last sample."""
        return sum(cpu - self._cpu_at_start.get(pid, 0.0) for pid, cpu in self._cpu.items())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self._sample()

    def _sample(self) -> None:
        pss = 0
        with suppress(psutil.NoSuchProcess):
            for process in [self._root, *self._root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError, ValueError):
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
                    pss += _pss(process.pid)
        self.peak_pss = max(self.peak_pss, pss)


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and its children so far."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def _pss(pid: int) -> int:
    """Return the PSS of a process in bytes, or its RSS if the system does not report PSS."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if not rollup.exists():
        return int(psutil.Process(pid).memory_info().rss)
    for line in rollup.read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_seconds() -> float:
    """Return the CPU seconds that this machine was busy since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)
