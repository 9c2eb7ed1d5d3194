"""The limits of a worker process: its priority, its memory, its processor time, and its life."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import connection, parent_process, resource_tracker
from pathlib import Path

NICENESS = 5
"""The nice value of workers: the main process gets the CPU first."""
OOM_SCORE = 800
"""`oom_score_adj` of workers: if memory runs out, the kernel ends a worker, not the main process."""


def ignore_group_signals() -> None:
    """Ignore signals that are sent to the whole process group: the main process decides."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def request_signal_at_parent_end() -> None:
    """Request SIGIO, which ends this process by default, for the end of the main process.

    The kernel sends it even if a hung decoder holds the interpreter's lock. A confined process cannot
    request it.
    """
    parent = parent_process()
    if parent is not None:
        with suppress(OSError):
            fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
            flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
            fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def end_with_parent() -> None:
    """End this process when the main process ends or has ended, for whatever reason.

    Start a thread that waits for it. Call `confine` first: it does not restrict existing threads.
    """
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="imgsvc-parent", daemon=True).start()


def lower_priority() -> None:
    """Leave the processor and memory to the main process first."""
    with suppress(OSError):
        os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def close_inherited_files() -> None:
    """Replace the files of the main process that this process inherited by /dev/null.

    These are the standard streams and the pipe to multiprocessing's resource tracker. C libraries
    print messages about damaged images, which would be in the log.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2, resource_tracker.getfd()):
        if descriptor is not None:
            os.dup2(null, descriptor)
    os.close(null)


def limit_memory(more_bytes: int) -> None:
    """Limit the growth of this process's address space; beyond it Python raises MemoryError.

    Memory that is mapped already (libraries, the arena reserved for a thread) does not count.
    """
    mapped = MemoryMeter().address_space()
    if not mapped or not more_bytes:
        return
    import resource  # noqa: PLC0415 - Unix only

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + more_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


class MemoryMeter:
    """The memory of this process. It keeps /proc/self/statm open for when the process is confined."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def address_space(self) -> int:
        """Return the size of the address space in bytes. Return 0 if there is no /proc."""
        return self._column(0)

    def resident(self) -> int:
        """Return the resident memory in bytes. Return 0 if there is no /proc."""
        return self._column(1)

    def _column(self, index: int) -> int:
        if self._file < 0:
            return 0
        return int(os.pread(self._file, 256, 0).split()[index]) * os.sysconf("SC_PAGE_SIZE")


def limit_processor_time(seconds: float) -> None:
    """Limit this process's processor time. Beyond it the kernel ends it with SIGXCPU."""
    import resource  # noqa: PLC0415 - Unix only

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = math.ceil(seconds)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
