"""Multiprocessing contexts that start workers. Their queues need no locks shared between processes.

multiprocessing's locks are named semaphores, five for each executor. If all processes are killed at
once, the semaphores remain and fill /dev/shm. The queues of an executor with one worker do not need
them: each end is used by one thread, and the pool never sends more messages than the queue holds.
"""

from __future__ import annotations

import signal
import sys
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext, ForkServerContext, SpawnContext
from typing import Any


class ProcessLocalLock:
    """A lock for the threads of one process. Unpickled in another process, it is a new lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return ProcessLocalLock, ()


class NeverFullSemaphore:
    """The semaphore of a queue that is never full: acquiring it always succeeds."""

    def __init__(self, value: int = 1) -> None:
        self.value = value
        self._semlock = self

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Return True."""
        return True

    def release(self) -> None:
        """Do nothing."""

    def _is_zero(self) -> bool:
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return NeverFullSemaphore, (self.value,)


class _LockFreeContext(BaseContext):
    def Lock(self) -> Any:  # noqa: N802
        return ProcessLocalLock()

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: N802
        return NeverFullSemaphore(value)


class _ForkServer(_LockFreeContext, ForkServerContext):
    pass


class _Spawn(_LockFreeContext, SpawnContext):
    pass


_GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
PRELOADED = ("imgsvc.workers.worker_main", "imgsvc.images.codec")
"""Modules that workers need at once. The process that forks workers imports them."""


def worker_context() -> BaseContext:
    """Return the context that starts workers.

    Workers are forked from a server process that has one thread and has imported `PRELOADED`. All
    contexts share it. On macOS, whose libraries do not survive a fork, each worker is a new
    interpreter.
    """
    if sys.platform == "darwin":
        return _Spawn()
    context = _ForkServer()
    context.set_forkserver_preload(list(PRELOADED))
    return context


def shield_children() -> None:
    """Start multiprocessing's own processes so that signals to the whole group do not end them.

    If the fork server ended before the main process, all its workers would be regarded as dead. The
    children of this thread inherit its blocked signals. The resource tracker must start first,
    because it unblocks them.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    if sys.platform != "darwin":
        forkserver.ensure_running()
