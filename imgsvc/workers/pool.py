"""A pool of worker processes with time limits, memory limits and crash isolation.

Each worker has its own executor (`process.py`), so a crash breaks one worker only. A worker shares the
position of its current image. A crash or a timeout is attributed to that image (`crash_policy.py`
decides whether it is retried); the other images of the batch go to the next worker at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TypeVar

from imgsvc.config import CompressConfig
from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import CompressedImage, WorkerSettings
from imgsvc.waiting import wait_for_event
from imgsvc.workers import resources
from imgsvc.workers.crash_policy import CrashPolicy
from imgsvc.workers.fair_queue import FairQueue
from imgsvc.workers.job_results import exit_name, fail, quarantine, resolve, timeout_message
from imgsvc.workers.process_context import worker_context
from imgsvc.workers.worker_main import TimedResult, UnexpectedFailure, WorkerSetup
from imgsvc.workers.worker_process import SLOW_SECONDS, Batch, CompressionJob, WorkerProcess

log = logging.getLogger(__name__)

COMPRESS_FUNCTION = "imgsvc.images.codec:compress_image"
MAX_BATCH_IMAGES = 8
MAX_BATCH_BYTES = 512 * 2**10
"""Maximum size of a batch of sources. A larger image is sent alone."""
MAX_BATCH_SECONDS = 0.05
"""Maximum estimated time of a batch, so that another owner's images need not wait long for it."""
_FIRST_START_DELAY, _MAX_START_DELAY = 0.05, 5.0
"""Seconds between attempts to start a worker; doubled after each failure."""


_T = TypeVar("_T")


class PoolClosedError(Exception):
    """The pool was closed before this image was compressed. This does not count as an attempt."""


class WorkerPool:
    """Compresses images in worker processes.

    `function` is the `module:name` of the function that workers run: `(data, settings, max_pixels) ->
    CompressedImage`. If its module has a function `warm_up()`, each worker calls that first.
    `missing_layers`: the layers of confinement that the newest worker lacks. `confined`: false
    only for functions of tests that write files.
    """

    def __init__(
        self, config: CompressConfig, *, function: str = COMPRESS_FUNCTION, confined: bool = True
    ) -> None:
        self.workers = resources.workers(config)
        self._timeout_seconds = config.timeout_seconds
        self._watch_interval = min(SLOW_SECONDS / 2, config.timeout_seconds / 10)
        memory = resources.worker_memory(config)
        self._setup = WorkerSetup(function, config.max_pixels, memory, confined)
        self.missing_layers: list[str] = []
        self._context = worker_context()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="imgsvc-pool")
        self._running: list[WorkerProcess] = []
        self._starting: set[WorkerProcess] = set()
        self._failing_starts = 0
        self._waiting: FairQueue[CompressionJob] = FairQueue()
        self._delayed: set[CompressionJob] = set()
        self._crash_policy = CrashPolicy()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    # --- public interface ----------------------------------------------------------------------

    async def start(self) -> None:
        """Start the workers. Return when each is warmed up, or has failed to start once."""
        self._loop = asyncio.get_running_loop()
        attempted = [asyncio.Event() for _ in range(self.workers)]
        self._tasks = [
            asyncio.create_task(self._supervise(event), name="pool") for event in attempted
        ]
        self._tasks.append(asyncio.create_task(self._watch(), name="pool watch"))
        for event in attempted:
            await event.wait()

    @property
    def healthy(self) -> bool:
        """False if no worker is running and starting one fails."""
        return bool(self._running) or not self._failing_starts

    @property
    def busy(self) -> int:
        """The number of workers that have images."""
        return sum(1 for worker in self._running if worker.batches)

    @property
    def worker_seconds(self) -> dict[int, float]:
        """The worker time that owners have used, beyond that of an owner that starts now.

        Empty if a worker is idle: then no image waits for another one.
        """
        return self._waiting.used() if self.busy == len(self._running) else {}

    async def compress(
        self, data: bytes, settings: WorkerSettings, *, owner: int = 0
    ) -> CompressedImage:
        """Compress an image. Raise `ImageError` or `PoolClosedError`.

        The next image is one of the owner that has used the least worker time.
        If the call is cancelled, the image is not started; if it has been started, its output is
        discarded.
        """
        if self._closing.is_set():
            raise PoolClosedError
        done: asyncio.Future[CompressedImage] = asyncio.get_running_loop().create_future()
        job = CompressionJob(data, settings, done, owner)
        self._waiting.put(owner, job)
        self._dispatch()
        try:
            return await done
        finally:
            if done.cancelled():
                self._waiting.discard(owner, job)
            # An error references this frame, so the frame must not reference the error: this cycle
            # would keep the image in memory until the next garbage collection.
            del done, job

    async def close(self, grace: float) -> None:
        """Refuse new images, wait up to `grace` seconds for those at workers, then kill all workers."""
        self._closing.set()
        self._fail_closed([*self._waiting, *self._delayed])
        self._waiting.clear()
        self._delayed.clear()
        current = [job.done for w in self._running for b in w.batches for job in b.jobs if job]
        try:
            if current and grace > 0:
                await asyncio.wait(current, timeout=grace)
        finally:
            for worker in (*self._running, *self._starting):
                worker.kill()
        await asyncio.gather(*self._tasks)
        self._threads.shutdown()

    # --- batches -------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Send waiting images to workers with capacity."""
        while self._waiting:
            free = [worker for worker in self._running if worker.has_capacity]
            if not free:
                return
            worker = min(free, key=lambda worker: len(worker.batches))
            jobs = self._next_jobs()
            if jobs:
                worker.send(jobs, self._on_results_in_thread)

    def _next_jobs(self) -> list[CompressionJob]:
        """Take the images of the next batch: at most a worker's share of the waiting images.

        All are of the next owner. An image with `alone` set gets a batch of its own.
        """
        owner = self._waiting.next_owner()
        estimate = self._waiting.estimate(owner)
        limit = min(MAX_BATCH_IMAGES, -(-len(self._waiting) // self.workers))
        jobs: list[CompressionJob] = []
        size = 0
        while len(jobs) < limit and (job := self._waiting.peek(owner)) is not None:
            size += len(job.data)
            too_long = (len(jobs) + 1) * estimate > MAX_BATCH_SECONDS
            if jobs and (size > MAX_BATCH_BYTES or too_long or job.alone):
                break
            self._waiting.pop(owner)
            job.charged_seconds = estimate
            if job.done.done():
                self._charge(job, 0.0)
                continue
            jobs.append(job)
            if job.alone:
                break
        return jobs

    def _charge(self, job: CompressionJob, seconds: float) -> None:
        """Charge an image's owner for the worker time that the image took so far."""
        self._waiting.charge(job.owner, seconds - job.charged_seconds)
        job.charged_seconds = seconds

    def _on_results_in_thread(
        self, worker: WorkerProcess, batch: Batch, future: Future[list[TimedResult]]
    ) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._on_results, worker, batch, future)

    def _on_results(
        self, worker: WorkerProcess, batch: Batch, future: Future[list[TimedResult]]
    ) -> None:
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            worker.exited.set()
            return
        worker.batches.remove(batch)
        if error is None:
            for job, (result, seconds) in zip(batch.jobs, future.result(), strict=True):
                if job is not None and result is not None:
                    self._charge(job, seconds)
                    self._waiting.learn(job.owner, seconds)
                    resolve(job, result)
        else:
            self._on_send_failure(batch, error)
        self._dispatch()

    def _on_send_failure(self, batch: Batch, error: BaseException) -> None:
        """Retry each image alone: the worker is running, but could not send the batch's results."""
        jobs = [job for job in batch.jobs if job is not None]
        if len(jobs) > 1:
            for job in jobs:
                job.alone = True
            self._requeue(jobs)
        elif isinstance(error, MemoryError):
            fail(jobs, ImageErrorCode.OUT_OF_MEMORY, "The worker ran out of memory on this image.")
        else:
            for job in jobs:
                resolve(job, UnexpectedFailure(type(error).__name__, str(error.__cause__ or error)))

    def _requeue(self, jobs: Iterable[CompressionJob]) -> None:
        """Put images before the other images of their owner. None has used worker time."""
        for job in reversed(list(jobs)):
            self._charge(job, 0.0)
            if not job.done.done():
                self._waiting.requeue(job.owner, [job])

    def _requeue_later(self, job: CompressionJob, seconds: float) -> None:
        self._delayed.add(job)

        def resume() -> None:
            if job in self._delayed:
                self._delayed.discard(job)
                self._requeue([job])
                self._dispatch()

        self._loop.call_later(seconds, resume)

    # --- workers -------------------------------------------------------------------------------

    async def _supervise(self, attempted: asyncio.Event) -> None:
        """Run one worker after another until the pool closes. Set `attempted` after the first start."""
        failures = 0
        while not self._closing.is_set():
            worker = await self._start()
            if worker is None:
                failures += 1
                self._failing_starts += failures == 1
                attempted.set()
                await self._back_off(failures)
                continue
            self._failing_starts -= failures > 0
            failures = 0
            attempted.set()
            await self._run(worker)
        attempted.set()

    async def _start(self) -> WorkerProcess | None:
        worker: WorkerProcess | None = None
        try:
            worker = WorkerProcess(self._context, self._setup)
            self._starting.add(worker)
            await self._in_thread(worker.start)
        except Exception as error:  # noqa: BLE001 - any failed start is retried
            if not self._closing.is_set():
                reason = f"{type(error).__name__}: {error}"
                log.error("a worker did not start", extra={"reason": reason})  # noqa: TRY400
            if worker is not None:
                await self._in_thread(worker.close)
            return None
        finally:
            self._starting -= {worker}
        self._report_missing_layers(worker.missing_layers)
        return worker

    def _report_missing_layers(self, layers: list[str]) -> None:
        """Log the layers of confinement that workers lack, if they have changed."""
        if layers and layers != self.missing_layers:
            log.warning(
                "workers are not fully confined: this system does not offer %s",
                " and ".join(layers),
                extra={"help": "OPERATIONS.md, Confinement of workers"},
            )
        self.missing_layers = layers

    async def _back_off(self, failures: int) -> None:
        """Wait before the next attempt to start a worker. The second attempt follows at once."""
        if failures > 1:
            delay = min(_FIRST_START_DELAY * 2**failures, _MAX_START_DELAY)
            await wait_for_event(self._closing, delay)

    async def _run(self, worker: WorkerProcess) -> None:
        """Send images to a worker until it ends, then handle the images that it held."""
        worker.watch()
        self._running.append(worker)
        self._dispatch()
        await worker.exited.wait()
        worker.unwatch()
        self._running.remove(worker)
        code = await self._in_thread(worker.close)
        if self._closing.is_set():
            self._fail_closed(job for b in worker.batches for job in b.jobs if job is not None)
            return
        log.warning(
            "a worker ended unexpectedly", extra={"exit": exit_name(code), "pid": worker.pid}
        )
        self._attribute_crash(worker, code)
        self._dispatch()

    def _attribute_crash(self, worker: WorkerProcess, code: int | None) -> None:
        """Attribute the end of a worker to its current image, and requeue its other images."""
        current = worker.timed_out or worker.current
        if current is None and not worker.killed_by_pool:
            self._crash_policy.record_idle_crash(code, time.monotonic())
        requeued = []
        for batch in worker.batches:
            unattributed = current is None and batch is worker.batches[0]
            for job in batch.jobs:
                if job is None or job.done.done():
                    continue
                if job is current and job is worker.timed_out:
                    fail(
                        [job],
                        ImageErrorCode.COMPRESS_TIMEOUT,
                        timeout_message(self._timeout_seconds),
                    )
                elif job is current:
                    self._record_crash(job, code)
                elif unattributed and self._crash_policy.record_unattributed(job.record) is None:
                    quarantine(job, code)
                else:
                    requeued.append(job)
        self._requeue(requeued)

    def _record_crash(self, job: CompressionJob, code: int | None) -> None:
        # The time before the crash stays charged; the next attempt is charged again.
        job.charged_seconds = 0.0
        delay = self._crash_policy.record_crash(job.record, code, time.monotonic())
        job.alone = True
        if delay is None:
            quarantine(job, code)
        elif delay:
            self._requeue_later(job, delay)
        else:
            self._requeue([job])

    async def _watch(self) -> None:
        """Kill workers whose image exceeds the timeout; requeue the images behind a slow one."""
        before = time.monotonic()
        while not self._closing.is_set():
            await asyncio.sleep(self._watch_interval)
            now = time.monotonic()
            elapsed, before = min(now - before, 2 * self._watch_interval), now
            for worker in list(self._running):
                seconds = worker.seconds_on_current(elapsed)
                if seconds >= self._timeout_seconds:
                    worker.timed_out, worker.killed_by_pool = worker.current, True
                    worker.kill()
                elif worker.slow:
                    self._requeue(worker.revoke())
                if (job := worker.current) is not None and seconds > job.charged_seconds:
                    self._charge(job, seconds)
            self._dispatch()

    def _fail_closed(self, jobs: Iterable[CompressionJob]) -> None:
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(PoolClosedError())

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(self._threads, call)
