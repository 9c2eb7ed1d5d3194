"""The main process's side of one worker: sends batches, receives results, detects its end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from ctypes import c_double
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from imgsvc.image_types import CompressedImage, WorkerSettings
from imgsvc.workers import worker_main
from imgsvc.workers.crash_policy import CrashRecord
from imgsvc.workers.process_context import shield_children
from imgsvc.workers.worker_main import TimedResult, WorkerSetup

START_TIMEOUT_SECONDS = 60.0
MAX_BATCHES = 2
"""Batches that a worker holds: the current one and the next, so that it never waits for a batch."""
MAX_HELD_SECONDS = 0.1
"""A worker with images that take longer than this in all gets no further batch. The pause until the
next batch, about a millisecond, is short beside it, and another owner's images may be first then."""
PIPE_BYTES = 2**20
"""Capacity of a pipe to or from a worker: the most that Linux allows unprivileged users."""
SLOW_SECONDS = 0.5
"""If an image takes longer than this, the images queued behind it move to another worker."""


@dataclass(slots=True, eq=False)
class CompressionJob:
    """One image to compress, and the future of its output.

    `alone`: send it in a batch of its own. `charged_seconds`: the worker time that `owner` is charged
    for it so far, at first an estimate.
    """

    data: bytes
    settings: WorkerSettings
    done: asyncio.Future[CompressedImage]
    owner: int = 0
    charged_seconds: float = 0.0
    record: CrashRecord = field(default_factory=CrashRecord)
    alone: bool = False


@dataclass(slots=True, eq=False)
class Batch:
    """The images of one message to a worker. Their positions are `first`, `first` + 1 and so on.

    A revoked image is replaced by None.
    """

    first: int
    jobs: list[CompressionJob | None]

    def at(self, position: int) -> CompressionJob | None:
        """Return the image at this position; None if it is in another batch or revoked."""
        index = position - self.first
        return self.jobs[index] if 0 <= index < len(self.jobs) else None


OnResults = Callable[["WorkerProcess", Batch, Future[list[TimedResult]]], None]


class WorkerProcess:
    """A worker process with its own executor, so that its crash breaks no other worker.

    It is used once: the pool replaces it when it has ended. Positions count all images sent to it,
    from 1. The worker shares the position of its current image.
    """

    def __init__(self, context: BaseContext, setup: WorkerSetup) -> None:
        self._position: c_double = context.RawValue(c_double, 0)
        self._revoked: c_double = context.RawValue(c_double, 0)
        self._executor = ProcessPoolExecutor(
            1,
            mp_context=context,
            initializer=worker_main.start,
            initargs=(setup, self._position, self._revoked),
        )
        self._processes: list[BaseProcess] = []
        self._next = 1
        self._pidfd: int | None = None
        self._killed = False
        self.batches: deque[Batch] = deque()
        self.exited = asyncio.Event()
        self.slow = False
        self.missing_layers: list[str] = []
        self.timed_out: CompressionJob | None = None
        self.killed_by_pool = False
        self._last_progress = (0.0, 0)
        self._stalled_seconds = 0.0

    def start(self) -> None:
        """Start the process and wait until it is warmed up. Blocks; raises any error of the start."""
        shield_children()
        ready = self._executor.submit(worker_main.missing_layers)
        self._processes = list((self._executor._processes or {}).values())
        # Close the worker's ends of the pipes here. If this process kept them open, the executor would
        # wait forever for the rest of a result when the worker ends in the middle of it. Up to Python
        # 3.11.5 it would also block in writing when the worker ends before it has read a batch.
        self._executor._result_queue._writer.close()  # type: ignore[attr-defined]
        self._executor._call_queue._reader.close()  # type: ignore[attr-defined]
        _widen(self._executor._call_queue._writer)  # type: ignore[attr-defined]
        _widen(self._executor._result_queue._reader)  # type: ignore[attr-defined]
        self._pidfd = _open_pidfd(self.pid)
        if self._killed:
            self.kill()
        self.missing_layers = ready.result(START_TIMEOUT_SECONDS)

    def watch(self) -> None:
        """Set `exited` when the process ends, until `unwatch` is called."""
        for process in self._processes:
            asyncio.get_running_loop().add_reader(process.sentinel, self.exited.set)

    def unwatch(self) -> None:
        """Stop watching the process."""
        for process in self._processes:
            asyncio.get_running_loop().remove_reader(process.sentinel)

    @property
    def has_capacity(self) -> bool:
        """Whether it can take a batch. Nothing is queued behind images that take long."""
        if not self.batches:
            return True
        if len(self.batches) >= MAX_BATCHES or self.slow:
            return False
        held = sum(job.charged_seconds for batch in self.batches for job in batch.jobs if job)
        return held < MAX_HELD_SECONDS

    @property
    def current(self) -> CompressionJob | None:
        """The image that the worker reports as current; None if there is none or it is revoked."""
        position = int(self._position.value)
        return next((job for batch in self.batches if (job := batch.at(position))), None)

    def send(self, jobs: Sequence[CompressionJob], on_results: OnResults) -> None:
        """Send a batch of images to compress in order. `on_results` is called in another thread."""
        batch = Batch(self._next, list(jobs))
        self._next += len(jobs)
        self.batches.append(batch)
        images = [(job.data, job.settings) for job in jobs]
        try:
            future = self._executor.submit(worker_main.compressed_images, batch.first, images)
        except RuntimeError:  # the executor is broken: the batch is lost with the worker
            self.exited.set()
        else:
            future.add_done_callback(lambda future: on_results(self, batch, future))

    def seconds_on_current(self, elapsed: float) -> float:
        """Return the seconds without progress: on the same image, or on none while batches wait.

        `elapsed` is the time in seconds since the last call in which the main process was running. If
        the main process was suspended, that time does not count.
        """
        progress = (self._position.value, self.batches[0].first if self.batches else 0)
        if progress != self._last_progress or not self.batches:
            self._last_progress, self._stalled_seconds = progress, 0.0
        else:
            self._stalled_seconds += elapsed
        self.slow = self._stalled_seconds >= SLOW_SECONDS
        return self._stalled_seconds

    def revoke(self) -> list[CompressionJob]:
        """Revoke all images but the current one, and return them for another worker.

        If the worker starts one of them at this moment, its result is dropped.
        """
        current = self.current
        self._revoked.value = self._next
        jobs = []
        for batch in self.batches:
            for index, job in enumerate(batch.jobs):
                if job is not None and job is not current:
                    jobs.append(job)
                    batch.jobs[index] = None
        return jobs

    @property
    def pid(self) -> int | None:
        """The process id, or None before the process has started."""
        return self._processes[0].pid if self._processes else None

    def kill(self) -> None:
        """Kill the process."""
        self._killed = True
        for process in self._processes:
            with suppress(OSError, ValueError):
                if self._pidfd is not None:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                else:
                    process.kill()

    def close(self) -> int | None:
        """Kill the process, free its resources, and return its exit code (negative: a signal).

        Blocks briefly. All results that the process has sent are delivered first.
        """
        self.kill()
        self._executor.shutdown(wait=True)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        return self._processes[0].exitcode if self._processes else None


def _widen(pipe: Connection) -> None:
    """Enlarge a pipe so that it holds a whole image: else both sides wake up for each 64 KiB of it."""
    if sys.platform == "linux":
        with suppress(OSError):  # the pipes of this user have reached their limit
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _open_pidfd(pid: int | None) -> int | None:
    """Return a handle of the process, or None if the system has no such handles.

    If the fork server was killed, multiprocessing regards its workers as dead and does not signal
    them. Their process ids alone are not safe to use: they may belong to other processes by then.
    """
    if pid is None or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # the process has ended, or the kernel is too old
        return None
