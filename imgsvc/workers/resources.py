"""What the machine, or the container, leaves us: cores and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")
MOST_WORKER_BYTES = 2 * 2**30
LEAST_WORKER_BYTES = 256 * 2**20
_SHARE_OF_WORKERS = 0.75
"""Of all memory, what the workers may have together; the rest is the main process's and the cache's."""


def cores(root: Path = _ROOT) -> int:
    """How many cores we may use: by affinity, and by the container's CPU quota, rounded."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota + 0.5) for quota in _cpu_quotas(root))]))


def memory_bytes(root: Path = _ROOT) -> int:
    """How much memory there is: the machine's, or the container's limit where that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_memory_limits(root)])


def worker_share(workers: int, total_bytes: int) -> int:
    """How many bytes each of so many workers may use, of so many in all."""
    share = int(total_bytes * _SHARE_OF_WORKERS) // workers
    return max(LEAST_WORKER_BYTES, min(MOST_WORKER_BYTES, share))


def _cpu_quotas(root: Path) -> Iterator[float]:
    for folder in _cgroups(root, "cpu"):
        with suppress(OSError, ValueError):  # v2: "150000 100000", or "max 100000"
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        with suppress(OSError, ValueError, ZeroDivisionError):  # v1, where -1 is no limit
            quota = (folder / "cpu.cfs_quota_us").read_text()
            if int(quota) > 0:
                yield int(quota) / int((folder / "cpu.cfs_period_us").read_text())


def _memory_limits(root: Path) -> Iterator[int]:
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is no limit; v1's is a number beyond all
                yield int((folder / name).read_text())


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of our cgroup and of those around it, in cgroup v1 and v2.

    A container often sees its own group as the mount's root, while /proc still tells the host's path:
    so every parent down to the mount is looked at, whether the first exists or not.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        if controllers and not mount.is_dir():
            mount = root / "sys/fs/cgroup" / controller
        folder = mount / path.strip("/")
        yield folder
        while folder != mount:
            folder = folder.parent
            yield folder
