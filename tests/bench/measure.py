"""A tree of processes, watched from outside: CPU seconds and peak PSS."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import psutil

INTERVAL = 0.1


class Watch:
    """Watch a process and its children until `stop`. PSS counts shared pages once."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu: dict[int, float] = {}
        self._base: dict[int, float] = {}
        self.peak_pss = 0
        self._sample()
        self._base = dict(self._cpu)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cpu_seconds(self) -> float:
        """User and system time since the watch began, ended children included as far as seen."""
        return sum(cpu - self._base.get(pid, 0.0) for pid, cpu in self._cpu.items())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
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
    """User and system time of a process and its children, so far."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def _pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if not rollup.exists():
        return int(psutil.Process(pid).memory_info().rss)
    for line in rollup.read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_seconds() -> float:
    """CPU seconds this machine has spent working since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)
