"""The Image Processing Service: claims images, limits those in flight, commits the results.

The database holds the queue.
"""

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
from imgsvc.waiting import wait_for_event
from imgsvc.workers.pool import PoolClosedError

log = logging.getLogger(__name__)

BATCH_WINDOW_SECONDS = 0.02
"""Claims, and results, that arrive within this time share one transaction."""
MAX_RESULTS_PER_COMMIT = 256
"""Maximum number of results that one transaction commits."""
POLL_SECONDS = 30.0
"""Longest time between two claims, even if nothing wakes the scheduler."""
STORAGE_RETRY_SECONDS = 1.0
"""Delay before the next attempt if the disk is full or the database accepts no writes."""
REQUEUE_DELAY_SECONDS = 5.0
"""Delay of an image whose output did not fit on the disk, or whose job could not use the database."""
UNREACHABLE_CHECK_SECONDS = 5.0
"""Interval between checks for images that have waited too long for a failing host."""
UNREACHABLE_SLICE = 1_000
"""Images of a failing host that one transaction fails."""
DOWNLOAD_GRACE_SECONDS = 3.0
"""Grace period for active downloads at shutdown. Most finish, so they need not be repeated."""


class Scheduler:
    """Claims pending images, runs their jobs, and commits the results.

    The database is the queue: nothing in here has to survive a restart.

    `fetched_ahead`: how many images may be fetched and not yet stored.
    `has_free_space`: return whether the disk has free space for outputs.
    `mark_changed`: called with the keys of requests that have changed.
    `on_finished`: called with requests that have finished.
    `delete_orphans`: called with the names of stored files that no image uses.
    """

    def __init__(
        self,
        job_store: JobStore,
        pipeline: Pipeline,
        breakers: CircuitBreakers,
        config: FetchConfig,
        metrics: Metrics,
        *,
        fetched_ahead: int,
        has_free_space: Callable[[], bool],
        mark_changed: Callable[[Iterable[int]], None],
        on_finished: Callable[[Sequence[FinishedRequest]], None],
        delete_orphans: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._job_store = job_store
        self._pipeline = pipeline
        self._breakers = breakers
        self._config = config
        self._metrics = metrics
        # Twice the number of downloads, so that no download slot is free while more images are claimed.
        self._fetching_limit = 2 * config.concurrency
        self._jobs_limit = self._fetching_limit + fetched_ahead
        self._host_limit = 2 * config.per_host
        self._has_free_space = has_free_space
        self._mark_changed = mark_changed
        self._on_finished = on_finished
        self._delete_orphans = delete_orphans
        self._jobs: dict[asyncio.Task[Outcome], ImageJob] = {}
        self._fetching: Counter[int] = Counter()
        self._results: list[tuple[ImageJob, Outcome]] = []
        self._uncommitted: set[ImageJob] = set()
        self._wake = asyncio.Event()
        self._results_ready = asyncio.Event()
        self._stopping = False
        self._paused = False

    # --- public interface --------------------------------------------------------------------

    def wake(self) -> None:
        """Try to claim images now: there may be new ones."""
        self._wake.set()

    @property
    def in_flight(self) -> int:
        """The number of running jobs."""
        return len(self._jobs)

    async def cancel_downloads(self, request_key: int) -> None:
        """Cancel the downloads of a request that is being cancelled; return when that is committed."""
        commits = []
        for task, job in self._jobs.items():
            if job.claim.request_key == request_key and not job.fetched:
                job.cancelled = True
                task.cancel()
                commits.append(job.committed.wait())
        await asyncio.gather(*commits)

    async def process_queue(self) -> None:
        """Claim and process images until `stop` is called and all results are committed."""
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(self._commit_results())
            checking = group.create_task(self._fail_unreachable_hosts())
            while not self._stopping:
                self._wake.clear()
                pause = await self._claim()
                await self._sleep(pause)
            await self._wait_until_committed()
            committing.cancel()
            checking.cancel()

    async def stop(self, grace: float) -> None:
        """Stop claiming; let jobs finish within `grace` seconds, then requeue the rest.

        Cancelling a download loses nothing, so downloads get less time: half of `grace`, and at most
        `DOWNLOAD_GRACE_SECONDS`.
        """
        self._stopping = True
        self._wake.set()
        download_grace = max(0.0, min(DOWNLOAD_GRACE_SECONDS, grace / 2))
        await self._wait(download_grace)
        for task, job in self._jobs.items():
            if not job.fetched:
                task.cancel()
        await self._wait(grace - download_grace)
        for task in self._jobs:
            task.cancel()

    async def _wait(self, seconds: float) -> None:
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=max(0.0, seconds))

    # --- claiming ----------------------------------------------------------------------------

    async def _sleep(self, pause: float) -> None:
        if await wait_for_event(self._wake, pause) and self._jobs and not self._stopping:
            await asyncio.sleep(BATCH_WINDOW_SECONDS)

    async def _claim(self) -> float:
        """Claim as many images as the limits allow; return the seconds until the next claim."""
        if not self._check_free_space():
            return STORAGE_RETRY_SECONDS
        fetching = self._fetching.total()
        capacity = min(self._fetching_limit - fetching, self._jobs_limit - len(self._jobs))
        if capacity <= 0:
            return POLL_SECONDS
        now = time.time()
        try:
            claims = await self._job_store.claim(capacity, self._host_capacity, now)
            for claim in claims:
                self._start_job(claim)
            self._mark_changed({claim.request_key for claim in claims})
            return 0.0 if len(claims) == capacity else await self._pause(now)
        except Exception:
            log.exception("claiming failed; retrying")
            return STORAGE_RETRY_SECONDS

    async def _pause(self, now: float) -> float:
        """Return the seconds until an image is due, a host may be probed, or the next poll."""
        due = [POLL_SECONDS]
        retry = await self._job_store.next_due()
        if retry is not None:
            due.append(retry - now)
        clock = time.monotonic()
        probe = self._breakers.next_probe(clock)
        if probe is not None:
            due.append(probe - clock)
        return max(0.05, min(due))

    def _host_capacity(self, host_key: int) -> int:
        """Return how many more images of a host may be claimed."""
        allowed = self._breakers.capacity(host_key, time.monotonic(), self._host_limit)
        return max(0, allowed - self._fetching[host_key])

    def _check_free_space(self) -> bool:
        """Return whether the disk has free space; log if that has changed."""
        has_free_space = self._has_free_space()
        if has_free_space is self._paused:
            self._paused = not has_free_space
            if has_free_space:
                log.info("the disk has free space again: processing continues")
            else:
                log.error("the disk is full: processing is paused until there is free space")
        return has_free_space

    def _start_job(self, claim: Claim) -> None:
        key = host_key(claim.host_url)
        job = ImageJob(claim, key, self._breakers.start_attempt(key, time.monotonic()))
        self._fetching[key] += 1
        task = asyncio.create_task(self._run_job(job), name=f"image {claim.request_id}")
        self._jobs[task] = job
        self._uncommitted.add(job)
        task.add_done_callback(self._on_job_done)
        if self._stopping:  # the claim was running when the stop began
            task.cancel()

    def _on_job_done(self, task: asyncio.Task[Outcome]) -> None:
        job = self._jobs.pop(task)
        # Reached if a task is cancelled before its first step, or during its cleanup.
        outcome = _interrupted(job) if task.cancelled() else task.result()
        self._release(job)
        self._results.append((job, outcome))
        self._results_ready.set()

    # --- one image ---------------------------------------------------------------------------

    async def _run_job(self, job: ImageJob) -> Outcome:
        try:
            outcome = await self._outcome(job)
        except asyncio.CancelledError:
            outcome = _interrupted(job)
        if job.file is not None and not isinstance(outcome, Completed):
            await asyncio.shield(self._delete([job.file]))
        return outcome

    async def _outcome(self, job: ImageJob) -> Outcome:
        claim = job.claim
        try:
            return await self._pipeline.process(job, self._on_fetched)
        except (CircuitOpenError, PoolClosedError):
            return Requeued(claim, claim.attempts)
        except (StorageFullError, DatabaseUnavailableError):
            return Requeued(claim, claim.attempts, time.time() + REQUEUE_DELAY_SECONDS)
        except ImageError as error:
            return self._failure(job, error)
        except Exception:
            log.exception("an image failed with an unexpected error", extra=_log_fields(claim))
            return Failed(
                claim,
                claim.attempts + 1,
                ImageErrorCode.INTERNAL,
                "Internal error. See the service log.",
            )

    def _on_fetched(self, job: ImageJob) -> None:
        self._breakers.record_success(job.host_key)
        self._release(job)

    def _release(self, job: ImageJob) -> None:
        """Free the job's slot at its host for the next image."""
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
        delay = retry_delay(attempts, error, self._config.attempts, random.random)
        fields = _log_fields(claim) | {"code": error.code, "attempts": attempts}
        if delay is None:
            log.warning("image failed", extra=fields | {"reason": error.message})
            return Failed(claim, attempts, error.code, error.message)
        self._metrics.retries.labels(error.code).inc()
        log.info("image will be retried", extra=fields | {"retry_in_seconds": round(delay, 1)})
        return Requeued(claim, attempts, time.time() + delay)

    # --- outcomes ----------------------------------------------------------------------------

    async def _commit_results(self) -> None:
        """Commit results in batches, for as long as this task runs."""
        while True:
            await self._results_ready.wait()
            if len(self._results) < MAX_RESULTS_PER_COMMIT:
                await asyncio.sleep(BATCH_WINDOW_SECONDS)
            self._results_ready.clear()
            while self._results:
                batch = self._results[:MAX_RESULTS_PER_COMMIT]
                self._results = self._results[MAX_RESULTS_PER_COMMIT:]
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
        """Commit outcomes, retrying until the database accepts them: they exist nowhere else."""
        logged = False
        while True:
            try:
                return await self._job_store.finish(outcomes)
            except Exception:
                if not logged:
                    log.exception("results could not be committed; retrying")
                logged = True
                await asyncio.sleep(STORAGE_RETRY_SECONDS)

    async def publish(self, result: FinishResult) -> None:
        """Publish the changes of a transaction: delete orphans, mark requests, count, log, notify."""
        if result.orphaned_files:
            await self._delete(result.orphaned_files)
        self._mark_changed(result.changed_requests)
        for (status, code), count in result.image_counts.items():
            self._metrics.images.labels(status, code).inc(count)
        for request in result.finished_requests:
            self._metrics.requests_finished.labels(request.status).inc()
            log.info(
                "request finished",
                extra={
                    "request": request.request_id,
                    "status": request.status,
                    "images": request.progress.total,
                    "failed": request.progress.failed,
                },
            )
        if result.finished_requests:
            self._on_finished(result.finished_requests)

    async def _delete(self, names: Sequence[str]) -> None:
        try:
            await self._delete_orphans(names)
        except Exception:
            log.exception("orphaned files could not be deleted: %s", names)

    async def _wait_until_committed(self) -> None:
        while self._uncommitted:
            await next(iter(self._uncommitted)).committed.wait()

    # --- unreachable hosts -------------------------------------------------------------------

    async def _fail_unreachable_hosts(self) -> None:
        """Fail images that have waited too long for a host that keeps failing."""
        while True:
            await asyncio.sleep(UNREACHABLE_CHECK_SECONDS)
            try:
                for host_key in self._breakers.open_hosts():
                    for request_key, since in await self._job_store.requests_waiting_for(host_key):
                        await self._fail_if_expired(request_key, host_key, since)
            except Exception:
                log.exception("failing the images of unreachable hosts failed; retrying")

    async def _fail_if_expired(self, request_key: int, host_key: int, since: float) -> None:
        error = self._breakers.expired(host_key, time.time() - since, time.monotonic())
        while error is not None:
            result = await self._job_store.fail_host(
                request_key, host_key, error.code, error.message, UNREACHABLE_SLICE
            )
            await self.publish(result)
            if not result.changed_requests:
                return


def _interrupted(job: ImageJob) -> Outcome:
    claim = job.claim
    return Cancelled(claim) if job.cancelled else Requeued(claim, claim.attempts)


def _log_fields(claim: Claim) -> dict[str, object]:
    return {"request": claim.request_id, "image": claim.numbers[0], "url": redact(claim.url)}
