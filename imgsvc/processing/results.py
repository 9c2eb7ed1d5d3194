"""The results of jobs: many are committed in one transaction, and then published."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from imgsvc.database.job_store import FinishResult, JobStore
from imgsvc.metrics import Metrics
from imgsvc.models import FinishedRequest, Outcome
from imgsvc.processing.duplicates import Duplicates
from imgsvc.processing.events import Events
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.webhook_queue import WebhookQueue

log = logging.getLogger(__name__)


class ResultWriter:
    """Collects the outcomes of jobs, commits them in batches, and publishes the changes."""

    def __init__(
        self,
        job_store: JobStore,
        duplicates: Duplicates,
        *,
        events: Events,
        webhook_queue: WebhookQueue,
        metrics: Metrics,
        limits: ProcessingLimits,
    ) -> None:
        self._job_store = job_store
        self._duplicates = duplicates
        self._events = events
        self._webhook_queue = webhook_queue
        self._metrics = metrics
        self._limits = limits
        self._pending: list[Outcome] = []
        self._has_pending = asyncio.Event()
        self._added = self._committed = 0
        self._batch_committed = asyncio.Event()

    def add(self, outcome: Outcome) -> None:
        """Add an outcome to the next batch."""
        self._pending.append(outcome)
        self._added += 1
        self._has_pending.set()

    async def commit_pending(self) -> None:
        """Wait for outcomes, then commit and publish them, and those that are added meanwhile."""
        await self._has_pending.wait()
        size = self._limits.results_per_commit
        if len(self._pending) < size:
            await asyncio.sleep(self._limits.batch_window_seconds)
        self._has_pending.clear()
        while self._pending:
            batch, self._pending = self._pending[:size], self._pending[size:]
            await self._commit(batch)

    async def flush(self) -> None:
        """Return when all outcomes that have been added so far are committed and published."""
        added = self._added
        while self._committed < added:
            await self._batch_committed.wait()

    def publish(self, result: FinishResult) -> None:
        """Publish the changes of a transaction: count, log, notify watchers."""
        self._events.mark_changed(result.changed_requests)
        for (status, code), count in result.image_counts.items():
            self._metrics.images.labels(status, code).inc(count)
        if result.finished_requests:
            self._publish_finished(result.finished_requests)

    async def _commit(self, batch: Sequence[Outcome]) -> None:
        result = await self._finish(batch)
        for outcome in batch:
            self._duplicates.settle(outcome)
        self.publish(result)
        self._committed += len(batch)
        committed, self._batch_committed = self._batch_committed, asyncio.Event()
        committed.set()

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
                await asyncio.sleep(self._limits.storage_retry_seconds)

    def _publish_finished(self, requests: Sequence[FinishedRequest]) -> None:
        for request in requests:
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
        self._events.mark_changed([request.request_key for request in requests], urgent=True)
        self._webhook_queue.wake()
