"""Worker processes that compress: deadlines, memory limits, and one image's crash is its own.

Each slot is a worker with an executor of its own (`slot.py`), so a death breaks that slot alone. The
worker tells by a shared number which image it is at; a death or a deadline is that image's (`crash_policy.py`
says whether it is tried again), and the others of its message go to the next worker at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TypeVar

from imgsvc.config import CompressConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressedImage, CompressionSettings
from imgsvc.workers import resources
from imgsvc.workers.context import worker_context
from imgsvc.workers.crash_policy import CrashPolicy
from imgsvc.workers.fair_queue import FairQueue
from imgsvc.workers.main import Answer, Bug, WorkerSetup
from imgsvc.workers.process import SLOW_SECONDS, Batch, CompressionJob, WorkerProcess

log = logging.getLogger(__name__)

COMPRESS = "imgsvc.images.codec:compress_image"
BATCH_IMAGES = 8
BATCH_BYTES = 512 * 2**10
"""Small images travel together up to these; a larger one travels alone."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
"""Seconds between the tries to start a worker that does not come up."""


_T = TypeVar("_T")


class PoolClosedError(Exception):
    """The pool was closed before this image was done; nothing is held against it."""


class WorkerPool:
    """Compresses images in worker processes.

    `function` is the dotted `module:name` of what a worker runs: `(data, settings, max_pixels) ->
    Compressed`. Its module's `warm_up()`, where it has one, runs first.
    """

    def __init__(self, config: CompressConfig, *, function: str = COMPRESS) -> None:
        self.workers = config.workers or resources.cores()
        self.deaths = 0
        self._seconds = config.seconds
        self._tick = min(SLOW_SECONDS / 2, config.seconds / 10)
        memory = config.worker_memory_bytes or resources.worker_share(
            self.workers, resources.memory_bytes()
        )
        self._setup = WorkerSetup(function, config.max_pixels, memory)
        self._context = worker_context(["imgsvc.workers.main", COMPRESS.partition(":")[0]])
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="imgsvc-pool")
        self._up: list[WorkerProcess] = []
        self._starting: set[WorkerProcess] = set()
        self._failing = 0
        self._waiting: FairQueue[CompressionJob] = FairQueue()
        self._pausing: set[CompressionJob] = set()
        self._crash_policy = CrashPolicy()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    # --- for others ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring the workers up. Returns when each is warm, or has failed to come up once."""
        self._loop = asyncio.get_running_loop()
        tried = [asyncio.Event() for _ in range(self.workers)]
        self._tasks = [asyncio.create_task(self._supervise(event), name="pool") for event in tried]
        self._tasks.append(asyncio.create_task(self._watch(), name="pool watch"))
        for event in tried:
            await event.wait()

    @property
    def healthy(self) -> bool:
        """False where no worker is up and they do not come back."""
        return bool(self._up) or not self._failing

    @property
    def busy(self) -> int:
        """How many workers have something to do."""
        return sum(1 for worker in self._up if worker.batches)

    @property
    def waiting(self) -> int:
        """How many images are not with a worker yet."""
        return len(self._waiting) + len(self._pausing)

    async def compress(
        self, data: bytes, settings: CompressionSettings, *, owner: Hashable = None
    ) -> CompressedImage:
        """Compress an image; owners take turns. Raises `ImageError`, or `PoolClosedError`.

        Cancelled, it is not begun; one that was begun is finished and thrown away.
        """
        if self._closing.is_set():
            raise PoolClosedError
        done: asyncio.Future[CompressedImage] = asyncio.get_running_loop().create_future()
        job = CompressionJob(data, settings, done)
        self._waiting.put(owner, job)
        self._dispatch()
        try:
            return await done
        finally:
            if done.cancelled():
                self._waiting.discard(owner, job)
            # An error holds this frame, and so must not be held by it: the image would stay in memory
            # until the garbage collector found the two.
            del done, job

    async def close(self, grace: float) -> None:
        """Take no more, give what is at work `grace` seconds, then end every worker."""
        self._closing.set()
        self._give_up([*self._waiting, *self._pausing])
        self._waiting.clear()
        self._pausing.clear()
        current = [job.done for w in self._up for m in w.batches for job in m.jobs if job]
        try:
            if current and grace > 0:
                await asyncio.wait(current, timeout=grace)
        finally:
            for worker in (*self._up, *self._starting):
                worker.kill()
        await asyncio.gather(*self._tasks)
        self._threads.shutdown()

    # --- messages ------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Send what waits, as far as workers can take it."""
        while self._waiting:
            free = [worker for worker in self._up if worker.room]
            if not free:
                return
            worker = min(free, key=lambda worker: len(worker.batches))
            jobs = self._next_jobs()
            if jobs:
                worker.send(jobs, self._answered_elsewhere)

    def _next_jobs(self) -> list[CompressionJob]:
        """Take what the next message carries: a fair share of what waits; a suspect travels alone."""
        most = min(BATCH_IMAGES, -(-len(self._waiting) // self.workers))
        jobs: list[CompressionJob] = []
        size = 0
        while self._waiting and len(jobs) < most:
            job = self._waiting.next()
            size += len(job.data)
            if jobs and (size > BATCH_BYTES or job.alone):
                break
            self._waiting.take()
            if not job.done.done():
                jobs.append(job)
                if job.alone:
                    break
        return jobs

    def _answered_elsewhere(
        self, worker: WorkerProcess, batch: Batch, future: Future[list[Answer]]
    ) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._answered, worker, batch, future)

    def _answered(self, worker: WorkerProcess, batch: Batch, future: Future[list[Answer]]) -> None:
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            worker.died.set()
            return
        worker.batches.remove(batch)
        if error is None:
            for job, answer in zip(batch.jobs, future.result(), strict=True):
                if job is not None and answer is not None:
                    _resolve(job, answer)
        else:
            self._unanswered(batch, error)
        self._dispatch()

    def _unanswered(self, batch: Batch, error: BaseException) -> None:
        """The worker lives, but could not send its answer: each image is tried alone."""
        jobs = [job for job in batch.jobs if job is not None]
        if len(jobs) > 1:
            for job in jobs:
                job.alone = True
            self._again(jobs)
        elif isinstance(error, MemoryError):
            _fail(jobs, ImageErrorCode.OUT_OF_MEMORY, "the worker ran out of memory over it")
        else:
            for job in jobs:
                _resolve(job, Bug(type(error).__name__, str(error.__cause__ or error)))

    def _again(self, jobs: Iterable[CompressionJob]) -> None:
        """Let these go before all others."""
        self._waiting.put_back(job for job in jobs if not job.done.done())

    def _later(self, job: CompressionJob, seconds: float) -> None:
        self._pausing.add(job)

        def resume() -> None:
            if job in self._pausing:
                self._pausing.discard(job)
                self._again([job])
                self._dispatch()

        self._loop.call_later(seconds, resume)

    # --- workers -------------------------------------------------------------------------------

    async def _supervise(self, tried: asyncio.Event) -> None:
        """Keep one slot manned until the pool closes."""
        failures = 0
        while not self._closing.is_set():
            worker = await self._start()
            if worker is None:
                failures += 1
                self._failing += failures == 1
                tried.set()
                await self._back_off(failures)
                continue
            self._failing -= failures > 0
            failures = 0
            tried.set()
            await self._run(worker)
        tried.set()

    async def _start(self) -> WorkerProcess | None:
        worker: WorkerProcess | None = None
        try:
            worker = WorkerProcess(self._context, self._setup)
            self._starting.add(worker)
            await self._in_thread(worker.start)
        except Exception as error:  # noqa: BLE001 - whatever it is, the slot must come back
            if not self._closing.is_set():
                reason = f"{type(error).__name__}: {error}"
                log.error("a worker did not start", extra={"reason": reason})  # noqa: TRY400
            if worker is not None:
                await self._in_thread(worker.close)
            return None
        finally:
            self._starting -= {worker}
        return worker

    async def _back_off(self, failures: int) -> None:
        """Wait before the next try to start a worker; the second is made at once."""
        if failures > 1:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)):
                    await self._closing.wait()

    async def _run(self, worker: WorkerProcess) -> None:
        """Let a worker work until it dies."""
        worker.watch()
        self._up.append(worker)
        self._dispatch()
        await worker.died.wait()
        worker.unwatch()
        self._up.remove(worker)
        code = await self._in_thread(worker.close)
        if self._closing.is_set():
            self._give_up(job for m in worker.batches for job in m.jobs if job is not None)
            return
        self.deaths += 1
        log.warning("a worker died", extra={"exit": _exit_name(code), "pid": worker.pid})
        self._attribute_crash(worker, code)
        self._dispatch()

    def _attribute_crash(self, worker: WorkerProcess, code: int | None) -> None:
        """Find the image that ended the worker; the others are tried again at once."""
        suspect = worker.overdue or worker.current
        if suspect is None and not worker.ended_by_us:
            self._crash_policy.idle_crash(code, time.monotonic())
        again = []
        for batch in worker.batches:
            lost = suspect is None and batch is worker.batches[0]
            for job in batch.jobs:
                if job is None or job.done.done():
                    continue
                if job is suspect and job is worker.overdue:
                    _fail([job], ImageErrorCode.COMPRESS_TIMEOUT, _too_slow(self._seconds))
                elif job is suspect:
                    self._record_crash(job, code)
                elif lost and self._crash_policy.cleared(job.record) is None:
                    _quarantine(job, code)
                else:
                    again.append(job)
        self._again(again)

    def _record_crash(self, job: CompressionJob, code: int | None) -> None:
        pause = self._crash_policy.crash(job.record, code, time.monotonic())
        job.alone = True
        if pause is None:
            _quarantine(job, code)
        elif pause:
            self._later(job, pause)
        else:
            self._again([job])

    async def _watch(self) -> None:
        """End a worker whose image takes too long; free what is queued behind one that takes long."""
        before = time.monotonic()
        while not self._closing.is_set():
            await asyncio.sleep(self._tick)
            now = time.monotonic()
            elapsed, before = min(now - before, 2 * self._tick), now
            for worker in list(self._up):
                seconds = worker.seconds_on_current(elapsed)
                if seconds >= self._seconds:
                    worker.overdue, worker.ended_by_us = worker.current, True
                    worker.kill()
                elif worker.slow:
                    self._again(worker.revoke())
            self._dispatch()

    def _give_up(self, jobs: Iterable[CompressionJob]) -> None:
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(PoolClosedError())

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(self._threads, call)


def _resolve(job: CompressionJob, answer: CompressedImage | ImageError | Bug) -> None:
    if job.done.done():
        return
    if isinstance(answer, CompressedImage):
        job.done.set_result(answer)
    elif isinstance(answer, ImageError):
        job.done.set_exception(answer)
    else:
        log.error("compressing met a bug: %s", answer.name, extra={"traceback": answer.traceback})
        _fail([job], ImageErrorCode.INTERNAL, f"compressing it met an error of ours: {answer.name}")


def _fail(jobs: Iterable[CompressionJob], code: ImageErrorCode, batch: str) -> None:
    for job in jobs:
        _resolve(job, ImageError(code, batch))


def _quarantine(job: CompressionJob, code: int | None) -> None:
    times = max(job.record.crashes, job.record.lost)
    batch = f"its worker died over it {times} times, at last by {_exit_name(code)}"
    _fail([job], ImageErrorCode.COMPRESS_CRASHED, batch)


def _too_slow(seconds: float) -> str:
    return f"compressing it took longer than {seconds:g} s, and was stopped"


def _exit_name(code: int | None) -> str:
    with suppress(ValueError):
        if code is not None and code < 0:
            return signal.Signals(-code).name
    return f"exit {code}"
