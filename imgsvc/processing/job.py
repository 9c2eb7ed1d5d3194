"""The job of one image: fetch → reserve its token → compress and store → outcome."""

from __future__ import annotations

import logging
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import IntEnum

from imgsvc.database.connection import DatabaseUnavailableError
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.execution.base import ExecutionInterruptedError, Executor, Fetched
from imgsvc.logs import RARELY
from imgsvc.machine_errors import MACHINE_ERROR_EVENT, is_machine_error
from imgsvc.metrics import Metrics
from imgsvc.models import (
    Claim,
    Completed,
    Failed,
    Outcome,
    Requeued,
    Reuse,
)
from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.network.retry import retry_delay
from imgsvc.processing.duplicates import Duplicates
from imgsvc.processing.host_limiter import CircuitOpenError, HostSlot
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.storage.base import StorageUnavailableError
from imgsvc.urls import redact

log = logging.getLogger(__name__)


class Stage(IntEnum):
    """The stages of a job, in order."""

    WAITING = 0
    """It waits until it may download its source."""
    FETCHING = 1
    MATCHING = 2
    """Its source is fetched; it reserves its token, or waits for an output of the same content."""
    COMPRESSING = 3
    """Its source is compressed, and the output stored."""
    DONE = 4


@dataclass(slots=True, eq=False)
class ImageJob:
    """The work for one claim. Only `JobRunner` changes `stage`."""

    claim: Claim
    slot: HostSlot
    stage: Stage = Stage.WAITING

    @property
    def fetched(self) -> bool:
        """Whether the source is fetched. Until then, the job may be cancelled without loss."""
        return self.stage >= Stage.MATCHING


class JobRunner:
    """Runs jobs: each turns an image's URL into a stored output, or an outcome that says why not.

    `max_attempts`: failed attempts after which an image fails permanently.
    """

    def __init__(
        self,
        executor: Executor,
        duplicates: Duplicates,
        breakers: CircuitBreakers,
        metrics: Metrics,
        *,
        max_attempts: int,
        limits: ProcessingLimits,
    ) -> None:
        self._executor = executor
        self._duplicates = duplicates
        self._breakers = breakers
        self._metrics = metrics
        self._max_attempts = max_attempts
        self._limits = limits

    @property
    def max_fetched(self) -> int:
        """How many images may be fetched and not yet stored."""
        return self._limits.fetched_per_worker * self._executor.workers

    @property
    def worker_seconds(self) -> dict[int, float]:
        """The worker time that requests have used, by request key. See `Executor`."""
        return self._executor.worker_seconds

    async def run(self, job: ImageJob) -> Outcome:
        """Run a job to its end. Only cancelling raises an exception; then nothing is stored."""
        claim = job.claim
        try:
            return await self._process(job)
        except (CircuitOpenError, ExecutionInterruptedError):
            return Requeued(claim, claim.attempts)
        except (StorageUnavailableError, DatabaseUnavailableError):
            return self._requeue_later(claim)
        except ImageError as error:
            return self._failure(job, error)
        except Exception as error:
            if is_machine_error(error):
                log.warning(MACHINE_ERROR_EVENT, extra={"reason": str(error), **RARELY})
                return self._requeue_later(claim)
            log.exception("an image failed with an unexpected error", extra=_log_fields(claim))
            return Failed(
                claim,
                claim.attempts + 1,
                ImageErrorCode.INTERNAL,
                "Internal error. See the service log.",
            )
        finally:
            job.stage = Stage.DONE

    def _requeue_later(self, claim: Claim) -> Requeued:
        return Requeued(claim, claim.attempts, time.time() + self._limits.requeue_delay_seconds)

    async def _process(self, job: ImageJob) -> Completed:
        claim = job.claim
        async with AsyncExitStack() as stack:
            fetched = await self._fetch(job, stack)
            job.stage = Stage.MATCHING
            if fetched is None:
                assert claim.conditions is not None, "only a conditional fetch yields None"  # noqa: S101
                self._metrics.not_modified.inc()
                return Completed(claim, claim.conditions.digest, reused=Reuse.NOT_MODIFIED)
            token = await self._duplicates.reserve(claim, fetched.digest)
            if token is None:
                self._metrics.reused.inc()
                return Completed(
                    claim,
                    fetched.digest,
                    validators=fetched.validators,
                    reused=Reuse.SAME_BYTES,
                )
            job.stage = Stage.COMPRESSING
            info = await fetched.compress(token, claim.settings, claim.request_key)
            self._metrics.bytes_out.inc(info.output_bytes)
            return Completed(claim, fetched.digest, info, fetched.validators)

    async def _fetch(self, job: ImageJob, stack: AsyncExitStack) -> Fetched | None:
        """Fetch the source. Its bytes are dropped when `stack` is closed.

        Return None if it is not modified since an earlier download.
        """
        claim = job.claim
        waiting_since = time.monotonic()
        async with job.slot.download():
            job.stage = Stage.FETCHING
            started = time.monotonic()
            self._metrics.wait_seconds.observe(started - waiting_since)
            fetched = await stack.enter_async_context(self._executor.fetch(claim, claim.conditions))
        self._breakers.record_success(job.slot.host_key)
        self._metrics.fetch_seconds.observe(time.monotonic() - started)
        if fetched is not None:
            self._metrics.bytes_in.inc(fetched.size)
        return fetched

    def _failure(self, job: ImageJob, error: ImageError) -> Outcome:
        claim, attempts = job.claim, job.claim.attempts + 1
        if not job.fetched:
            self._breakers.record_failure(job.slot.host_key, error, time.monotonic())
        delay = retry_delay(attempts, error, self._max_attempts, random.random)
        fields = _log_fields(claim) | {"code": error.code, "attempts": attempts}
        if delay is None:
            log.warning("image failed", extra=fields | {"reason": error.message})
            return Failed(claim, attempts, error.code, error.message)
        self._metrics.retries.labels(error.code).inc()
        log.info("image will be retried", extra=fields | {"retry_in_seconds": round(delay, 1)})
        return Requeued(claim, attempts, time.time() + delay, error)


def _log_fields(claim: Claim) -> dict[str, object]:
    return {"request": claim.request_id, "image": claim.numbers[0], "url": redact(claim.url)}
