"""Multiprocessing contexts whose queues need no locks shared between processes.

multiprocessing's locks are named semaphores, five for each executor. If all processes are killed at
once, the semaphores remain and fill /dev/shm. The queues of an executor with one worker do not need
them: each end is used by one thread, and the pool never sends more messages than the queue holds.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
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


def worker_context(preload: Sequence[str]) -> BaseContext:
    """Return the context that starts workers.

    Workers are forked from a server process that has one thread and has imported the modules
    `preload`. On macOS, whose libraries do not survive a fork, each worker is a new interpreter.
    """
    if sys.platform == "darwin":
        return _Spawn()
    context = _ForkServer()
    context.set_forkserver_preload(list(preload))
    return context
