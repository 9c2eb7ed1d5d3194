"""The scheduler of the Image Processing Service: claims images, starts jobs, collects results.

The database holds the queue.
"""

from __future__ import annotations

import asyncio
import logging
import time

from imgsvc.database.job_store import FinishResult, JobStore, host_key
from imgsvc.models import (
    Cancelled,
    Claim,
    Outcome,
    Requeued,
)
from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.processing.host_limiter import HostLimiter
from imgsvc.processing.job import ImageJob, JobRunner
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.results import ResultWriter
from imgsvc.storage.state import StorageState
from imgsvc.urls import host_urls
from imgsvc.waiting import wait_for_event

log = logging.getLogger(__name__)


class Scheduler:
    """Claims pending images as far as the limits allow, and runs a job for each.

    The database is the queue: nothing in here has to survive a restart.
    """

    def __init__(
        self,
        job_store: JobStore,
        runner: JobRunner,
        results: ResultWriter,
        *,
        host_limiter: HostLimiter,
        breakers: CircuitBreakers,
        storage: StorageState,
        limits: ProcessingLimits,
    ) -> None:
        self._job_store = job_store
        self._runner = runner
        self._results = results
        self._host_limiter = host_limiter
        self._breakers = breakers
        self._storage = storage
        self._limits = limits
        self._jobs: dict[asyncio.Task[Outcome], ImageJob] = {}
        self._cancelled: set[ImageJob] = set()
        self._stopping = False
        self._pause_reason: str | None = None

    # --- public interface --------------------------------------------------------------------

    def wake(self) -> None:
        """Try to claim images now: there may be new ones."""
        self._host_limiter.claimable.set()

    @property
    def in_flight(self) -> int:
        """The number of running jobs."""
        return len(self._jobs)

    async def cancel_downloads(self, request_key: int, host: str | None = None) -> None:
        """Cancel the downloads of a request, or of a host in it; return when that is committed.

        The request or the host must be marked as being cancelled.
        """
        keys = None if host is None else {host_key(url) for url in host_urls(host)}
        downloads = [
            (task, job)
            for task, job in self._jobs.items()
            if job.claim.request_key == request_key and not job.fetched
            if keys is None or job.slot.host_key in keys
        ]
        for task, job in downloads:
            self._cancelled.add(job)
            task.cancel()
        if downloads:
            await asyncio.wait([task for task, _ in downloads])
        await self._results.flush()

    async def process_queue(self) -> None:
        """Claim and process images until `stop` is called and all results are committed."""
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(self._commit_results())
            while not self._stopping:
                self._host_limiter.claimable.clear()
                pause = await self._claim()
                await self._sleep(pause)
            while self._jobs:
                await asyncio.wait(self._jobs)
            await self._results.flush()
            committing.cancel()

    async def stop(self, grace: float) -> None:
        """Stop claiming; let jobs finish within `grace` seconds, then requeue the rest.

        Cancelling a download loses nothing, so downloads get less time: half of `grace`, and at most
        `ProcessingLimits.download_grace_seconds`. If outputs cannot be stored, all jobs get only that.
        """
        self._stopping = True
        self.wake()
        download_grace = max(0.0, min(self._limits.download_grace_seconds, grace / 2))
        await self._wait(download_grace)
        for task, job in self._jobs.items():
            if not job.fetched:
                task.cancel()
        if self._storage.problem is None:  # else no job can finish
            await self._wait(grace - download_grace)
        for task in self._jobs:
            task.cancel()

    async def _wait(self, seconds: float) -> None:
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=max(0.0, seconds))

    # --- claiming ----------------------------------------------------------------------------

    async def _sleep(self, pause: float) -> None:
        claimable = await wait_for_event(self._host_limiter.claimable, pause)
        if claimable and self._jobs and not self._stopping:
            await asyncio.sleep(self._limits.batch_window_seconds)

    async def _claim(self) -> float:
        """Claim as many images as the limits allow; return the seconds until the next claim."""
        if not self._check_storage():
            return self._limits.storage_retry_seconds
        max_jobs = self._host_limiter.max_slots + self._runner.max_fetched
        capacity = min(self._host_limiter.free_slots, max_jobs - len(self._jobs))
        if capacity <= 0:
            return self._limits.poll_seconds
        now = time.time()
        try:
            claims = await self._job_store.claim(
                capacity, self._host_limiter.free_slots_of, now, self._runner.worker_seconds
            )
            for claim in claims:
                self._start_job(claim)
            changed = {claim.request_key for claim in claims}
            self._results.publish(FinishResult(changed_requests=list(changed)))
            return 0.0 if len(claims) == capacity else await self._pause(now)
        except Exception:
            log.exception("claiming failed; retrying")
            return self._limits.storage_retry_seconds

    async def _pause(self, now: float) -> float:
        """Return the seconds until an image is due, a host may be probed, or the next poll."""
        due = [self._limits.poll_seconds]
        retry = await self._job_store.next_due(now)
        if retry is not None:
            due.append(retry - now)
        clock = time.monotonic()
        probe = self._breakers.next_probe(clock)
        if probe is not None:
            due.append(probe - clock)
        return max(0.05, min(due))

    def _check_storage(self) -> bool:
        """Return whether outputs can be stored; log if that has changed."""
        problem = self._storage.problem
        if problem != self._pause_reason:
            self._pause_reason = problem
            if problem is None:
                log.info("outputs can be stored again: processing continues")
            else:
                log.error("%s: processing is paused until outputs can be stored", problem)
        return problem is None

    # --- jobs --------------------------------------------------------------------------------

    def _start_job(self, claim: Claim) -> None:
        job = ImageJob(claim, self._host_limiter.assign(host_key(claim.host_url)))
        task = asyncio.create_task(self._runner.run(job), name=f"image {claim.request_id}")
        self._jobs[task] = job
        task.add_done_callback(self._on_job_done)
        if self._stopping:  # the claim was running when the stop began
            task.cancel()

    def _on_job_done(self, task: asyncio.Task[Outcome]) -> None:
        job = self._jobs.pop(task)
        job.slot.release()  # a task that is cancelled before its first step has not released it
        self._results.add(self._interrupted(job) if task.cancelled() else task.result())
        self._cancelled.discard(job)

    def _interrupted(self, job: ImageJob) -> Outcome:
        claim = job.claim
        return Cancelled(claim) if job in self._cancelled else Requeued(claim, claim.attempts)

    async def _commit_results(self) -> None:
        """Commit results for as long as this task runs. Images that they requeue may be claimed."""
        while True:
            await self._results.commit_pending()
            self.wake()
