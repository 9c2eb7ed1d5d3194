"""Process contexts whose queues have one reader and one writer, and so need no lock between processes.

multiprocessing's locks are named semaphores, five for each executor. They outlive processes that are
all killed at once, and fill /dev/shm. The queues of an executor with one worker have one thread at
each end, and no more messages are sent than may wait.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from multiprocessing.context import BaseContext, ForkServerContext, SpawnContext
from typing import Any


class OwnLock:
    """A lock among the threads of a process; another process gets one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnLock, ()


class Unbounded:
    """The semaphore of a queue that never fills."""

    def __init__(self, value: int = 1) -> None:
        self.value = value
        self._semlock = self

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        return True

    def release(self) -> None:
        pass

    def _is_zero(self) -> bool:
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return Unbounded, (self.value,)


class _OneToOne(BaseContext):
    def Lock(self) -> Any:  # noqa: N802
        return OwnLock()

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: N802
        return Unbounded(value)


class _ForkServer(_OneToOne, ForkServerContext):
    pass


class _Spawn(_OneToOne, SpawnContext):
    pass


def worker_context(preload: Sequence[str]) -> BaseContext:
    """How workers are started: forked from a server that has one thread, and `preload` in memory.

    On macOS, whose libraries do not survive a fork, each is started from nothing.
    """
    if sys.platform == "darwin":
        return _Spawn()
    context = _ForkServer()
    context.set_forkserver_preload(list(preload))
    return context
