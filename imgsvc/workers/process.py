"""One worker process, seen from the main process: messages go out, answers come back, or it dies."""

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
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from imgsvc.image_types import CompressedImage, CompressionSettings
from imgsvc.workers import main
from imgsvc.workers.crash_policy import CrashRecord
from imgsvc.workers.main import Answer, WorkerSetup

START_SECONDS = 60.0
"""How long a worker may take to come up."""
DEPTH = 2
"""Messages a worker has: the one at work, and one behind it, so that it never waits for the next."""
PIPE_BYTES = 2**20
"""What a pipe may hold: as much as Linux lets anybody ask for."""
SLOW_SECONDS = 0.5
"""Nothing stays queued behind an image that takes longer than this."""
_OUR_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@dataclass(slots=True, eq=False)
class CompressionJob:
    """One image that is to be compressed, and who waits for it."""

    data: bytes
    settings: CompressionSettings
    done: asyncio.Future[CompressedImage]
    record: CrashRecord = field(default_factory=CrashRecord)
    alone: bool = False


@dataclass(slots=True, eq=False)
class Batch:
    """Images that travel together. The position of the first is `first`, and so on from there.

    One that was called back leaves None in its place.
    """

    first: int
    jobs: list[CompressionJob | None]

    def at(self, position: int) -> CompressionJob | None:
        """The image at that position, where it is one of this message."""
        index = position - self.first
        return self.jobs[index] if 0 <= index < len(self.jobs) else None


OnAnswered = Callable[["WorkerProcess", Batch, Future[list[Answer]]], None]


class WorkerProcess:
    """A process with one executor of its own: when it dies, nothing else breaks.

    Used once: whoever finds it dead makes another. Positions count the images it was ever sent, from
    1, and it shares the one at work.
    """

    def __init__(self, context: BaseContext, setup: WorkerSetup) -> None:
        self._position: c_double = context.RawValue(c_double, 0)
        self._revoked: c_double = context.RawValue(c_double, 0)
        self._executor = ProcessPoolExecutor(
            1,
            mp_context=context,
            initializer=main.start,
            initargs=(setup, self._position, self._revoked),
        )
        self._processes: list[BaseProcess] = []
        self._next = 1
        self._pidfd: int | None = None
        self._killed = False
        self.batches: deque[Batch] = deque()
        self.died = asyncio.Event()
        self.slow = False
        self.overdue: CompressionJob | None = None
        self.ended_by_us = False
        self._seen = (0.0, 0)
        self._seen_seconds = 0.0

    def start(self) -> None:
        """Start the process and wait until it is warm. Blocks; raises whatever hinders it."""
        _shield_children()
        ready = self._executor.submit(main.ready)
        self._processes = list((self._executor._processes or {}).values())
        # These ends of the pipes are the worker's. While we hold them too, one that dies in the middle
        # of an answer leaves the executor waiting for the rest for ever, and one that dies before it
        # has read a message (up to Python 3.11.5) leaves it writing.
        self._executor._result_queue._writer.close()  # type: ignore[attr-defined]
        self._executor._call_queue._reader.close()  # type: ignore[attr-defined]
        _widen(self._executor._call_queue._writer)  # type: ignore[attr-defined]
        _widen(self._executor._result_queue._reader)  # type: ignore[attr-defined]
        self._pidfd = _open_pidfd(self.pid)
        if self._killed:
            self.kill()
        ready.result(START_SECONDS)

    def watch(self) -> None:
        """Have `died` set when the process ends, from now until `unwatch`."""
        for process in self._processes:
            asyncio.get_running_loop().add_reader(process.sentinel, self.died.set)

    def unwatch(self) -> None:
        for process in self._processes:
            asyncio.get_running_loop().remove_reader(process.sentinel)

    @property
    def room(self) -> bool:
        """Whether it can take a message. Nothing is queued behind an image that takes long."""
        return not self.batches or (len(self.batches) < DEPTH and not self.slow)

    @property
    def current(self) -> CompressionJob | None:
        """The image at work, as the worker says; None for one that was called back."""
        position = int(self._position.value)
        return next((job for m in self.batches if (job := m.at(position))), None)

    def send(self, jobs: Sequence[CompressionJob], answered: OnAnswered) -> None:
        """Send images, to be worked on in their order; `answered` is called on another thread."""
        batch = Batch(self._next, list(jobs))
        self._next += len(jobs)
        self.batches.append(batch)
        images = [(job.data, job.settings) for job in jobs]
        try:
            future = self._executor.submit(main.compressed_images, batch.first, images)
        except RuntimeError:  # broken: the message is among those that are lost with the worker
            self.died.set()
        else:
            future.add_done_callback(lambda future: answered(self, batch, future))

    def seconds_on_current(self, elapsed: float) -> float:
        """How long it has been at the same image, or at none with messages waiting.

        `elapsed` is the time since the last call, as the main process lived it: when that was stopped
        for a while, the image is not blamed for it.
        """
        seen = (self._position.value, self.batches[0].first if self.batches else 0)
        if seen != self._seen or not self.batches:
            self._seen, self._seen_seconds = seen, 0.0
        else:
            self._seen_seconds += elapsed
        self.slow = self._seen_seconds >= SLOW_SECONDS
        return self._seen_seconds

    def revoke(self) -> list[CompressionJob]:
        """Call back all images but the one at work; they are another worker's now.

        Where the worker begins one of them at this very moment, its answer is dropped.
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
        return self._processes[0].pid if self._processes else None

    def kill(self) -> None:
        """End the process now, whatever it is doing."""
        self._killed = True
        for process in self._processes:
            with suppress(OSError, ValueError):
                if self._pidfd is not None:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                else:
                    process.kill()

    def close(self) -> int | None:
        """Let go of everything; return the exit code (negative: a signal). Blocks for a moment.

        All answers that the process still gave are handed over before.
        """
        self.kill()
        self._executor.shutdown(wait=True)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        return self._processes[0].exitcode if self._processes else None


def _widen(pipe: Connection) -> None:
    """Let a pipe take a picture at once: neither side then wakes the other for every 64 KiB of it."""
    if sys.platform == "linux":
        with suppress(OSError):  # where all pipes of this user have taken what they may
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _open_pidfd(pid: int | None) -> int | None:
    """A handle of the process itself, where there are such handles.

    Where the fork server was killed, multiprocessing takes its workers for dead and signals them no
    more; their numbers alone may be another process's by then.
    """
    if pid is None or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # it is gone already, or the kernel is older
        return None


def _shield_children() -> None:
    """Start multiprocessing's own processes such that no signal to the whole group ends them.

    Were the fork server to end before the main process, all its workers would pass for dead. A blocked
    signal stays blocked in the children of this thread. The tracker goes first: it unblocks them.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, _OUR_SIGNALS)
    if sys.platform != "darwin":
        forkserver.ensure_running()
