"""The Image Processing Service: claims in turns, bounds what is in flight, recovers, drains."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from imgsvc.config import FetchConfig
from imgsvc.database.connection import DatabaseUnavailableError
from imgsvc.database.job_store import FinishResult, JobStore, host_key
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.metrics import Metrics
from imgsvc.models import Cancelled, Claim, Completed, Failed, FinishedRequest, Outcome, Requeued
from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.network.retry import retry_delay
from imgsvc.processing.pipeline import CircuitOpenError, ImageJob, Pipeline
from imgsvc.storage.filesystem import StorageFullError
from imgsvc.urls import redact
from imgsvc.workers.pool import PoolClosedError

log = logging.getLogger(__name__)

BATCH_SECONDS = 0.02
"""Claims, and results, of this long are made in one transaction."""
BATCH = 256
"""Results in one transaction, at most."""
POLL_SECONDS = 30.0
"""The queue looks at the database this often even if nothing wakes it."""
STORAGE_RETRY_SECONDS = 1.0
"""How often a full disk, or a database that takes no write, is looked at again."""
REQUEUE_DELAY_SECONDS = 5.0
"""How long an image rests whose output found no room, or which found no database."""
EXPIRY_CHECK_SECONDS = 5.0
"""How often the images of dead origins are looked at."""
EXPIRY_SLICE = 1_000
DOWNLOAD_GRACE_SECONDS = 3.0
"""How long a stop waits for downloads: most end meanwhile, and need not be made again."""


class Scheduler:
    """Works through what waits in the database, which is the queue; nothing here is the truth.

    `has_free_space` tells whether the disk has room for outputs, `mark_changed` is told which requests have
    changed, `finished` which have finished, `orphaned_files` which stored files nobody needs.
    """

    def __init__(
        self,
        work: JobStore,
        pipeline: Pipeline,
        breakers: CircuitBreakers,
        config: FetchConfig,
        metrics: Metrics,
        *,
        fetched_ahead: int,
        has_free_space: Callable[[], bool],
        mark_changed: Callable[[Iterable[int]], None],
        finished: Callable[[Sequence[FinishedRequest]], None],
        orphaned_files: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._work = work
        self._pipeline = pipeline
        self._breakers = breakers
        self._config = config
        self._metrics = metrics
        # As many again are at hand as are being downloaded: no slot is empty while more are claimed.
        self._fetching_limit = 2 * config.concurrency
        self._jobs_limit = self._fetching_limit + fetched_ahead
        self._host_limit = 2 * config.per_host
        self._has_free_space = has_free_space
        self._mark_changed = mark_changed
        self._finished = finished
        self._unused = orphaned_files
        self._jobs: dict[asyncio.Task[Outcome], ImageJob] = {}
        self._fetching: Counter[int] = Counter()
        self._results: list[tuple[ImageJob, Outcome]] = []
        self._uncommitted: set[ImageJob] = set()
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._stopping = False
        self._paused = False

    # --- what others see ---------------------------------------------------------------------

    def wake(self) -> None:
        """Say that there may be something to claim."""
        self._wake.set()

    @property
    def in_flight(self) -> int:
        return len(self._jobs)

    async def cancel_downloads(self, request_key: int) -> None:
        """Cut short the downloads of a request that is being cancelled; return when that is noted."""
        cut = []
        for task, job in self._jobs.items():
            if job.claim.request_key == request_key and not job.fetched:
                job.cancelled = True
                task.cancel()
                cut.append(job.committed.wait())
        await asyncio.gather(*cut)

    async def process_queue(self) -> None:
        """Claim and process for as long as the service runs."""
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(self._commit_results())
            expiring = group.create_task(self._fail_unreachable_hosts())
            while not self._stopping:
                self._wake.clear()
                pause = await self._claim()
                await self._sleep(pause)
            await self._drained()
            committing.cancel()
            expiring.cancel()

    async def stop(self, grace: float) -> None:
        """Claim nothing more; finish what is in flight within `grace` s, and put back what is late.

        Downloads are late sooner, as they may be cut short without loss.
        """
        self._stopping = True
        self._wake.set()
        landing = max(0.0, min(DOWNLOAD_GRACE_SECONDS, grace / 2))
        await self._wait(landing)
        for task, job in self._jobs.items():
            if not job.fetched:
                task.cancel()
        await self._wait(grace - landing)
        for task in self._jobs:
            task.cancel()

    async def _wait(self, seconds: float) -> None:
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=max(0.0, seconds))

    # --- claiming ----------------------------------------------------------------------------

    async def _sleep(self, pause: float) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
        if self._jobs and not self._stopping:
            await asyncio.sleep(BATCH_SECONDS)

    async def _claim(self) -> float:
        """Claim what there is room for; give the seconds until it may be worth trying again."""
        if not self._check_room():
            return STORAGE_RETRY_SECONDS
        fetching = self._fetching.total()
        room = min(self._fetching_limit - fetching, self._jobs_limit - len(self._jobs))
        if room <= 0:
            return POLL_SECONDS
        now = time.time()
        try:
            claims = await self._work.claim(room, self._room_at, now)
            for claim in claims:
                self._start_job(claim)
            self._mark_changed({claim.request_key for claim in claims})
            return 0.0 if len(claims) == room else await self._pause(now)
        except Exception:
            log.exception("claiming failed; trying again")
            return STORAGE_RETRY_SECONDS

    async def _pause(self, now: float) -> float:
        due = [POLL_SECONDS]
        retry = await self._work.next_due()
        if retry is not None:
            due.append(retry - now)
        clock = time.monotonic()
        probe = self._breakers.next_probe(clock)
        if probe is not None:
            due.append(probe - clock)
        return max(0.05, min(due))

    def _room_at(self, host_key: int) -> int:
        """How many more images of an origin may be claimed."""
        allowed = self._breakers.capacity(host_key, time.monotonic(), self._host_limit)
        return max(0, allowed - self._fetching[host_key])

    def _check_room(self) -> bool:
        room = self._has_free_space()
        if room is self._paused:
            self._paused = not room
            if room:
                log.info("the disk has room again: work goes on")
            else:
                log.error("the disk is full: work waits until there is room")
        return room

    def _start_job(self, claim: Claim) -> None:
        key = host_key(claim.host_url)
        job = ImageJob(claim, key, self._breakers.start_attempt(key, time.monotonic()))
        self._fetching[key] += 1
        task = asyncio.create_task(self._run_job(job), name=f"image {claim.request_id}")
        self._jobs[task] = job
        self._uncommitted.add(job)
        task.add_done_callback(self._on_job_done)
        if self._stopping:  # it was being claimed as the stop began
            task.cancel()

    def _on_job_done(self, task: asyncio.Task[Outcome]) -> None:
        job = self._jobs.pop(task)
        # A task that is cancelled before its first step, or while it cleans up, ends like this.
        outcome = _cut_short(job) if task.cancelled() else task.result()
        self._release(job)
        self._results.append((job, outcome))
        self._news.set()

    # --- one image ---------------------------------------------------------------------------

    async def _run_job(self, job: ImageJob) -> Outcome:
        try:
            outcome = await self._outcome(job)
        except asyncio.CancelledError:
            outcome = _cut_short(job)
        if job.file is not None and not isinstance(outcome, Completed):
            await asyncio.shield(self._delete([job.file]))
        return outcome

    async def _outcome(self, job: ImageJob) -> Outcome:
        claim = job.claim
        try:
            return await self._pipeline.process(job, self._fetched)
        except (CircuitOpenError, PoolClosedError):
            return Requeued(claim, claim.attempts)
        except (StorageFullError, DatabaseUnavailableError):
            return Requeued(claim, claim.attempts, time.time() + REQUEUE_DELAY_SECONDS)
        except ImageError as error:
            return self._failure(job, error)
        except Exception:
            log.exception("an image failed for no known reason", extra=_about(claim))
            return Failed(
                claim,
                claim.attempts + 1,
                ImageErrorCode.INTERNAL,
                "the service itself failed here; its log says more",
            )

    def _fetched(self, job: ImageJob) -> None:
        self._breakers.record_success(job.host_key)
        self._release(job)

    def _release(self, job: ImageJob) -> None:
        """Give the flight's place at its origin to the next."""
        if job.fetching:
            job.fetching = False
            self._fetching[job.host_key] -= 1
            if not self._fetching[job.host_key]:
                del self._fetching[job.host_key]
            self._wake.set()

    def _failure(self, job: ImageJob, error: ImageError) -> Outcome:
        claim, attempts = job.claim, job.claim.attempts + 1
        if not job.fetched:
            self._breakers.record_failure(job.host_key, error, time.monotonic())
        pause = retry_delay(attempts, error, self._config.attempts, random.random)
        about = _about(claim) | {"code": error.code, "attempts": attempts}
        if pause is None:
            log.warning("image failed", extra=about | {"reason": error.message})
            return Failed(claim, attempts, error.code, error.message)
        self._metrics.retries.labels(error.code).inc()
        log.info("image will be tried again", extra=about | {"in_seconds": round(pause, 1)})
        return Requeued(claim, attempts, time.time() + pause)

    # --- outcomes ----------------------------------------------------------------------------

    async def _commit_results(self) -> None:
        """Commit results, many in one transaction."""
        while True:
            await self._news.wait()
            if len(self._results) < BATCH:
                await asyncio.sleep(BATCH_SECONDS)
            self._news.clear()
            while self._results:
                batch, self._results = self._results[:BATCH], self._results[BATCH:]
                await self._commit(batch)
            self._wake.set()

    async def _commit(self, batch: Sequence[tuple[ImageJob, Outcome]]) -> None:
        result = await self._finish([outcome for _, outcome in batch])
        for job, outcome in batch:
            self._pipeline.on_committed(job, outcome if isinstance(outcome, Completed) else None)
        await self.publish(result)
        for job, _ in batch:
            self._uncommitted.discard(job)
            job.committed.set()

    async def _finish(self, outcomes: Sequence[Outcome]) -> FinishResult:
        """Commit the outcomes however long it takes: they are all that is known of their images."""
        told = False
        while True:
            try:
                return await self._work.finish(outcomes)
            except Exception:
                if not told:
                    log.exception("results could not be committed; trying again")
                told = True
                await asyncio.sleep(STORAGE_RETRY_SECONDS)

    async def publish(self, result: FinishResult) -> None:
        """Let everybody know what a transaction has changed."""
        if result.orphaned_files:
            await self._delete(result.orphaned_files)
        self._mark_changed(result.changed_requests)
        for (status, code), count in result.image_counts.items():
            self._metrics.images.labels(status, code).inc(count)
        for request in result.finished_requests:
            self._metrics.requests_finished.labels(request.status).inc()
            log.info(
                "finished",
                extra={
                    "request": request.request_id,
                    "status": request.status,
                    "images": request.progress.total,
                    "failed": request.progress.failed,
                },
            )
        if result.finished_requests:
            self._finished(result.finished_requests)

    async def _delete(self, names: Sequence[str]) -> None:
        try:
            await self._unused(names)
        except Exception:
            log.exception("stored files that nobody needs could not be deleted: %s", names)

    async def _drained(self) -> None:
        while self._uncommitted:
            await next(iter(self._uncommitted)).committed.wait()

    # --- dead origins ------------------------------------------------------------------------

    async def _fail_unreachable_hosts(self) -> None:
        """Fail the images that have waited too long for an origin that stayed dead."""
        while True:
            await asyncio.sleep(EXPIRY_CHECK_SECONDS)
            try:
                for host_key in self._breakers.open_hosts():
                    for request_key, since in await self._work.requests_waiting_for(host_key):
                        await self._expire(request_key, host_key, since)
            except Exception:
                log.exception("images of dead origins could not be failed; trying again")

    async def _expire(self, request_key: int, host_key: int, since: float) -> None:
        error = self._breakers.expired(host_key, time.time() - since, time.monotonic())
        while error is not None:
            result = await self._work.fail_host(
                request_key, host_key, error.code, error.message, EXPIRY_SLICE
            )
            await self.publish(result)
            if not result.changed_requests:
                return


def _cut_short(job: ImageJob) -> Outcome:
    claim = job.claim
    return Cancelled(claim) if job.cancelled else Requeued(claim, claim.attempts)


def _about(claim: Claim) -> dict[str, object]:
    return {"request": claim.request_id, "image": claim.numbers[0], "url": redact(claim.url)}
