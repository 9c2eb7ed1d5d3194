"""The queue of images in the database: claims, outcomes, cancellation and retries."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from imgsvc.database import bulk_updates, claiming, job_outcomes, mappers
from imgsvc.database.claiming import ClaimResult, RoundRobin
from imgsvc.database.connection import Database, DatabaseUnavailableError
from imgsvc.database.index_keys import host_key
from imgsvc.database.job_outcomes import FinishResult
from imgsvc.database.limits import DatabaseLimits
from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import CompressionSettings, StoredFile
from imgsvc.models import Claim, Outcome, Request

__all__ = ["FinishResult", "JobStore", "host_key"]

_FileLookup = tuple[bytes, CompressionSettings, "asyncio.Future[StoredFile | None]"]
"""Source digest, settings, and the future for the result."""


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
        self._lookups: list[_FileLookup] = []
        self._lookup_lock = asyncio.Lock()
        self._unreported = FinishResult()

    async def in_flight_tokens(self) -> list[str]:
        """Return the tokens of the claims that an earlier process had in progress.

        Call this at startup before `recover`, which deletes these tokens. Files with these names are
        leftovers and must be removed first.
        """
        return await self._database.read(bulk_updates.in_flight_tokens)

    async def recover(self) -> None:
        """Requeue the images that an earlier process had in progress. Call this at startup.

        The images' numbers of attempts do not change.
        """
        await self._database.write(bulk_updates.reset_rates)
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
                c, limit, capacity, now, round_robin=self._round_robin, limits=self._limits
            )
            return result, retried

        if limit <= 0:
            return []
        claimed, retried = await self._database.write(transaction)
        self._more_to_scan = claimed.truncated or retried
        claims = {claim.token: claim for claim in claimed.claims}
        for claim in claimed.incomplete:
            claims[claim.token] = await self._claim_all_duplicates(claim, now)
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

        If a claim is no longer valid, its outcome is dropped and its file is in `orphaned_files`. If a
        call fails after some of its transactions, the next call returns their changes too.
        """
        size = self._limits.duplicates_per_transaction
        first = [_part(outcome, 0, size) for outcome in outcomes]
        self._unreported.add(
            await self._database.write(lambda c: job_outcomes.finish(c, first, self._webhook_body))
        )
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

    async def find_file(
        self, source_digest: bytes, settings: CompressionSettings
    ) -> StoredFile | None:
        """Return the stored output of a source with this SHA-256 and these settings, or None.

        Concurrent lookups are batched into one query.
        """
        result: asyncio.Future[StoredFile | None] = asyncio.get_running_loop().create_future()
        self._lookups.append((source_digest, settings, result))
        async with self._lookup_lock:
            if not result.done():
                batch, self._lookups = self._lookups, []
                try:
                    files = await self._database.read(partial(_find_files, batch))
                except BaseException:
                    # The next lookup that gets the lock repeats the query for the others.
                    self._lookups += (lookup for lookup in batch if lookup[2] is not result)
                    raise
                for (_, _, future), file in zip(batch, files, strict=True):
                    future.set_result(file)
        return result.result()

    async def next_due(self) -> float | None:
        """Return when the next retry is due, in Unix seconds, or None if no retry is scheduled.

        Return the current time if the last claim stopped before it had scanned everything.
        """
        now = time.time()
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

    async def requests_waiting_for(self, host_key: int) -> list[tuple[int, float]]:
        """Return the keys of requests with pending images of a host, and since when they wait.

        That is the time of upload or of the last retry, in Unix seconds.
        """
        return await self._database.read(
            lambda c: c.execute(
                "SELECT key, coalesce(retried_at, created_at) FROM requests r "
                "INDEXED BY requests_unfinished WHERE stage = 'accepted' AND finished_at IS NULL "
                "AND EXISTS (SELECT 1 FROM images INDEXED BY images_waiting WHERE request_key = r.key "
                "AND status = 'pending' AND host_key = ?)",
                (host_key,),
            ).fetchall()
        )

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

    async def cancel_slice(self, request_key: int, limit: int) -> tuple[bool, FinishResult]:
        """Cancel at most `limit` pending images of a request.

        Return whether there may be more, and the changes.
        """
        return await self._database.write(
            lambda c: bulk_updates.cancel(c, request_key, limit, self._webhook_body)
        )

    async def cancelling(self) -> list[int]:
        """Return the keys of unfinished requests that are being cancelled."""
        return await self._database.read(
            lambda c: [
                key
                for (key,) in c.execute(
                    "SELECT key FROM requests INDEXED BY requests_unfinished "
                    "WHERE stage = 'accepted' AND finished_at IS NULL "
                    "AND cancelling = 1"
                )
            ]
        )

    async def retry_failed(self, request_id: str) -> Request:
        """Requeue the failed images of a finished request, with no attempts. Return the request.

        This requeues at most `bulk_slice` images; each of the next claims requeues further ones. Until
        all are requeued, the request is marked as `retrying` and none of its images are claimed. Raises
        `ProblemError` NOT_FOUND, NOT_FINISHED or NOTHING_FAILED.
        """
        limit = self._limits.bulk_slice

        def transaction(c: sqlite3.Connection) -> Request:
            return mappers.request_of(c, bulk_updates.start_retry(c, request_id, limit))

        return await self._database.write(transaction)


def _find_files(lookups: Sequence[_FileLookup], c: sqlite3.Connection) -> list[StoredFile | None]:
    select = (
        f"SELECT f.name, {mappers.IMAGE_INFO_COLUMNS} FROM files f "
        "WHERE source_digest = ? AND settings = ?"
    )
    rows = [
        c.execute(select, (digest, str(settings))).fetchone() for digest, settings, _ in lookups
    ]
    return [row and mappers.stored_file(row) for row in rows]


def _part(outcome: Outcome, start: int, size: int) -> Outcome:
    """Return the outcome for `size` images of its claim from `start` on."""
    numbers = outcome.claim.numbers
    if start == 0 and len(numbers) <= size:
        return outcome
    claim = replace(outcome.claim, numbers=numbers[start : start + size])
    return replace(outcome, claim=claim)
