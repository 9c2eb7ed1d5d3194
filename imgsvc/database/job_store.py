"""The queue of images in the database: claims, outcomes, cancellation and retries."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from imgsvc.database import bulk_updates, claiming, job_outcomes, mappers, waiting_hosts
from imgsvc.database.claiming import ClaimResult, RoundRobin
from imgsvc.database.connection import Database, DatabaseUnavailableError
from imgsvc.database.index_keys import host_key
from imgsvc.database.job_outcomes import FinishResult
from imgsvc.database.limits import DatabaseLimits
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.models import (
    Claim,
    Completed,
    Outcome,
    Request,
    Reuse,
)
from imgsvc.urls import host_urls

__all__ = ["FinishResult", "JobStore", "host_key"]


class JobStore:
    """Claims pending images fairly, and commits the outcomes of their jobs.

    `webhook_body` returns the JSON body of a finished request's webhook. It is called in another
    thread, within the transaction that finishes the request.
    """

    def __init__(
        self,
        database: Database,
        webhook_body: Callable[[Request], str],
        limits: DatabaseLimits = DatabaseLimits(),
    ) -> None:
        self._database = database
        self._webhook_body = webhook_body
        self._limits = limits
        self._round_robin = RoundRobin()
        self._more_to_scan = False
        self._claim_ids = itertools.count(1)
        self._open_claims: set[int] = set()
        self._unreported = FinishResult()

    async def recover(self) -> None:
        """Requeue the images that an earlier process had in progress. Call this at startup.

        The images' numbers of attempts do not change. Outcomes of earlier claims are ignored.
        """
        self._open_claims.clear()
        await self._database.write(bulk_updates.reset_rates)
        await self._database.write(waiting_hosts.release_all)
        limit = self._limits.bulk_slice
        while await self._database.write(lambda c: bulk_updates.recover(c, limit)):
            pass

    async def claim(
        self,
        limit: int,
        capacity: Callable[[int], int],
        now: float,
        worker_seconds: Mapping[int, float] | None = None,
    ) -> list[Claim]:
        """Claim at most `limit` URLs for this process. `now` is in Unix seconds.

        Requests that have used much worker time come last: `worker_seconds` has it, by their keys.
        Otherwise claims alternate between requests and, within each request, between its hosts. A
        claim includes all images of the request with the same URL. `capacity(host_key)` returns how
        many more URLs of a host may be claimed. It is called in another thread.
        """
        self._round_robin.worker_seconds = worker_seconds or {}

        def transaction(c: sqlite3.Connection) -> tuple[ClaimResult, bool]:
            retried = bulk_updates.retry(c, self._limits.bulk_slice) is not None
            result = claiming.claim(
                c,
                limit,
                capacity,
                now,
                round_robin=self._round_robin,
                claim_ids=self._claim_ids,
                limits=self._limits,
            )
            return result, retried

        if limit <= 0:
            return []
        claimed, retried = await self._database.write(transaction)
        self._more_to_scan = claimed.truncated or retried
        claims = {claim.claim_id: claim for claim in claimed.claims}
        self._open_claims.update(claims)
        for claim in claimed.incomplete:
            claims[claim.claim_id] = await self._claim_all_duplicates(claim, now)
        return list(claims.values())

    async def _claim_all_duplicates(self, claim: Claim, now: float) -> Claim:
        """Claim the remaining duplicates, and return the extended claim.

        If the database becomes unavailable, the claim stays as large as it is. The remaining duplicates
        are then claimed separately later.
        """
        more: Claim | None = claim
        while more is not None:
            claim = more
            try:
                more = await self._database.write(
                    partial(
                        claiming.claim_more_duplicates,
                        claim=claim,
                        limit=self._limits.duplicates_per_transaction,
                        now=now,
                    )
                )
            except DatabaseUnavailableError:
                return claim
        return claim

    async def finish(self, outcomes: Sequence[Outcome]) -> FinishResult:
        """Commit the outcomes of jobs, and return the changes.

        The second outcome of a claim is ignored. If a call fails after some of its transactions, the
        next call with the same outcomes continues, and returns all changes.
        """
        size = self._limits.duplicates_per_transaction
        first = [
            _part(outcome, 0, size)
            for outcome in outcomes
            if outcome.claim.claim_id in self._open_claims
        ]
        self._unreported.add(
            await self._database.write(lambda c: job_outcomes.finish(c, first, self._webhook_body))
        )
        self._open_claims.difference_update(outcome.claim.claim_id for outcome in first)
        for outcome in outcomes:
            for start in range(size, len(outcome.claim.numbers), size):
                part = _part(outcome, start, size)
                more = await self._database.write(
                    partial(
                        job_outcomes.finish_duplicates,
                        outcome=part,
                        webhook_body=self._webhook_body,
                    )
                )
                self._unreported.add(more)
        result, self._unreported = self._unreported, FinishResult()
        return result

    async def next_due(self, claimed_at: float | None = None) -> float | None:
        """Return when the next retry is due, in Unix seconds, or None if no retry is scheduled.

        `claimed_at` is the time of the last claim (default: now): retries that have become due since
        then are included. Return it if that claim stopped before it had scanned everything.
        """
        now = time.time() if claimed_at is None else claimed_at
        if self._more_to_scan:
            return now

        def query(c: sqlite3.Connection) -> float | None:
            due: float | None = c.execute(
                "SELECT min(not_before) FROM images INDEXED BY images_due "
                "WHERE status = 'pending' AND not_before > 0 AND not_before > ?",
                (now,),
            ).fetchone()[0]
            return due

        return await self._database.read(query)

    async def requests_waiting_for(self, host_key: int) -> list[tuple[int, float, bool]]:
        """Return the requests with pending images of a host: key, since when they wait, and if held.

        They wait since the upload or the last retry, in Unix seconds. A request is held if `hold_host`
        has recorded that it waits for the host.
        """
        return await self._database.read(
            lambda c: c.execute(
                "SELECT key, coalesce(retried_at, created_at), EXISTS (SELECT 1 FROM waiting_hosts "
                "WHERE request_key = r.key AND host_key = ?1 AND probe_at IS NOT NULL) FROM requests r "
                "INDEXED BY requests_unfinished WHERE stage = 'accepted' AND finished_at IS NULL "
                "AND EXISTS (SELECT 1 FROM images INDEXED BY images_waiting WHERE request_key = r.key "
                "AND status = 'pending' AND host_key = ?1)",
                (host_key,),
            ).fetchall()
        )

    async def hold_host(
        self, host_key: int, error: ImageError, probe_at: float, request_keys: Sequence[int]
    ) -> FinishResult:
        """Record that images wait until a probe of their host succeeds. Return the changed requests.

        `probe_at` is the time of the next probe in Unix seconds. `request_keys` are requests with
        pending images of the host; those of earlier calls need not be among them.
        """
        database, counts = self._database, {}
        if request_keys:
            added = await database.write(
                lambda c: waiting_hosts.add_requests(c, host_key, error, request_keys)
            )
            for key, is_counted in added.items():
                count = partial(waiting_hosts.count, request_key=key, host_key=host_key)
                counts[key] = 0 if is_counted else await database.read(count)
        changed = await database.write(
            lambda c: waiting_hosts.hold(c, host_key, error, probe_at, counts)
        )
        return FinishResult(changed_requests=changed)

    async def release_host(self, host_key: int) -> FinishResult:
        """Record that no images wait for a probe of the host any more. Return the changed requests."""
        changed = await self._database.write(lambda c: waiting_hosts.release(c, host_key))
        return FinishResult(changed_requests=changed)

    async def fail_host(
        self, request_key: int, host_key: int, code: ImageErrorCode, message: str, limit: int
    ) -> FinishResult:
        """Fail at most `limit` pending images of a request and a host.

        `changed_requests` of the result is empty if there were none.
        """
        return await self._database.write(
            lambda c: bulk_updates.fail_host(
                c,
                request_key,
                host_key,
                code,
                message,
                limit=limit,
                webhook_body=self._webhook_body,
            )
        )

    async def start_cancel(self, request_id: str) -> int:
        """Mark a request as being cancelled, so that none of its images are claimed. Return its key.

        Raise `ProblemError` NOT_FOUND or ALREADY_FINISHED.
        """
        return await self._database.write(lambda c: bulk_updates.start_cancel(c, request_id))

    async def start_cancel_host(self, request_id: str, host: str) -> int:
        """Mark a host of a request as being cancelled, and return the request's key.

        None of its images are claimed from then on. `host` is a host name or `host:port`: both schemes
        are meant. Raise `ProblemError` NOT_FOUND, or ALREADY_FINISHED if the request has no unfinished
        images of the host.
        """
        keys = [host_key(url) for url in host_urls(host)]
        return await self._database.write(
            lambda c: bulk_updates.start_cancel_host(c, request_id, host, keys)
        )

    async def cancel_slice(self, request_key: int, limit: int) -> tuple[bool, FinishResult]:
        """Cancel at most `limit` pending images of a request, or of its hosts that are being cancelled.

        Return whether there may be more, and the changes.
        """
        return await self._database.write(
            lambda c: bulk_updates.cancel(c, request_key, limit, self._webhook_body)
        )

    async def cancelling(self) -> list[int]:
        """Return the keys of unfinished requests that are being cancelled, or hosts of them."""
        return await self._database.read(
            lambda c: [
                key
                for (key,) in c.execute(
                    "SELECT key FROM requests INDEXED BY requests_unfinished "
                    "WHERE stage = 'accepted' AND finished_at IS NULL "
                    "AND cancelling = 1 UNION SELECT request_key FROM cancelled_hosts"
                )
            ]
        )

    async def retry_failed(self, request_id: str, *, include_cancelled: bool = False) -> Request:
        """Requeue the failed images of a finished request, with no attempts. Return the request.

        With `include_cancelled`, requeue its cancelled images too.
        This requeues at most `bulk_slice` images; each of the next claims requeues further ones. Until
        all are requeued, the request is marked as `retrying` and none of its images are claimed. Raises
        `ProblemError` NOT_FOUND, NOT_FINISHED or NOTHING_FAILED.
        """
        limit = self._limits.bulk_slice

        def transaction(c: sqlite3.Connection) -> Request:
            key = bulk_updates.start_retry(
                c, request_id, limit, include_cancelled=include_cancelled
            )
            return mappers.request_of(c, key)

        return await self._database.write(transaction)


def _part(outcome: Outcome, start: int, size: int) -> Outcome:
    """Return the outcome for `size` images of its claim from `start` on."""
    numbers = outcome.claim.numbers
    if start == 0 and len(numbers) <= size:
        return outcome
    claim = replace(outcome.claim, numbers=numbers[start : start + size])
    if start and isinstance(outcome, Completed):
        return replace(outcome, claim=claim, reused=Reuse.SAME_URL)
    return replace(outcome, claim=claim)
