"""The limits of a worker process: its priority, its memory, its processor time, and its life."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import connection, parent_process
from pathlib import Path

NICENESS = 5
"""The nice value of workers: the main process gets the CPU first."""
OOM_SCORE = 800
"""`oom_score_adj` of workers: if memory runs out, the kernel ends a worker, not the main process."""


def ignore_group_signals() -> None:
    """Ignore signals that are sent to the whole process group: the main process decides."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def end_with_parent() -> None:
    """End this process when the main process ends, for whatever reason."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="imgsvc-parent", daemon=True).start()
    # The thread needs the interpreter's lock, which a hung decoder may hold. So the kernel also sends
    # SIGIO, which ends the process by default.
    with suppress(OSError):
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def lower_priority() -> None:
    """Leave the processor and memory to the main process first."""
    with suppress(OSError):
        os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def silence_libraries() -> None:
    """Discard stderr: C libraries print messages about damaged images, which would be in the log."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def limit_memory(more_bytes: int) -> None:
    """Limit the growth of this process's address space; beyond it Python raises MemoryError.

    Memory that is mapped already (libraries, the arena reserved for a thread) does not count.
    """
    mapped = process_memory(0)
    if not mapped or not more_bytes:
        return
    import resource  # noqa: PLC0415 - Unix only

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + more_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def process_memory(column: int) -> int:
    """Return a column of /proc/self/statm in bytes: 0 is the address space, 1 the resident memory.

    Return 0 if there is no /proc.
    """
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - faster, and called for each batch
            return int(file.read().split()[column]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def limit_processor_time(seconds: float) -> None:
    """Limit this process's processor time. Beyond it the kernel ends it with SIGXCPU."""
    import resource  # noqa: PLC0415 - Unix only

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = math.ceil(seconds)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
