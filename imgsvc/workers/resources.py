"""The cores and the memory that the machine or the container allows this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from imgsvc.config import CompressConfig

_ROOT = Path("/")
MAX_WORKER_BYTES = 2 * 2**30
MIN_WORKER_BYTES = 256 * 2**20
_WORKERS_SHARE = 0.75
"""Share of all memory for the workers together. The rest is for the main process and the page cache."""


def cores(root: Path = _ROOT) -> int:
    """Return the number of usable cores, by affinity and by the container's CPU quota, rounded."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota + 0.5) for quota in _cpu_quotas(root))]))


def memory_bytes(root: Path = _ROOT) -> int:
    """Return the machine's memory in bytes, or the container's limit if that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_memory_limits(root)])


def workers(config: CompressConfig) -> int:
    """Return the number of workers."""
    return config.workers or cores()


def worker_memory(config: CompressConfig) -> int:
    """Return the memory limit of each worker in bytes."""
    return config.worker_memory_bytes or worker_share(workers(config), memory_bytes())


def worker_share(workers: int, total_bytes: int) -> int:
    """Return the memory limit of each worker in bytes, for `total_bytes` of memory."""
    share = int(total_bytes * _WORKERS_SHARE) // workers
    return max(MIN_WORKER_BYTES, min(MAX_WORKER_BYTES, share))


def _cpu_quotas(root: Path) -> Iterator[float]:
    for folder in _cgroups(root, "cpu"):
        with suppress(OSError, ValueError):  # v2: "150000 100000", or "max 100000"
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        with suppress(OSError, ValueError, ZeroDivisionError):  # v1: -1 means no limit
            quota = (folder / "cpu.cfs_quota_us").read_text()
            if int(quota) > 0:
                yield int(quota) / int((folder / "cpu.cfs_period_us").read_text())


def _memory_limits(root: Path) -> Iterator[int]:
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" means no limit; v1 has a huge number
                yield int((folder / name).read_text())


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of its parents, in cgroup v1 and v2.

    A container often sees its own group as the root of the mount, but the host's path in /proc. So
    this yields every parent up to the mount, even if the first folder does not exist.
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
