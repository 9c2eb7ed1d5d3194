"""The queue: what is to be done, what is being done, and how it ended."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from imgsvc.database import bulk_updates, claiming, finishing, mappers
from imgsvc.database.claiming import ClaimResult, RoundRobin
from imgsvc.database.connection import Database, DatabaseUnavailableError
from imgsvc.database.finishing import FinishResult
from imgsvc.database.index_keys import host_key
from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import CompressionSettings, StoredFile
from imgsvc.models import Claim, Outcome, Request

__all__ = ["FinishResult", "JobStore", "host_key"]

_Question = tuple[bytes, CompressionSettings, "asyncio.Future[StoredFile | None]"]

SLICE = 2_000
"""Images that one transaction moves, where many are to be moved: some 20 ms."""


class JobStore:
    """Hands out images in turns and takes their outcomes.

    `webhook_body` makes the JSON text that tells a finished request's webhook; it is called inside the
    transaction that finishes the request, in another thread.
    """

    def __init__(self, database: Database, webhook_body: Callable[[Request], str]) -> None:
        self._database = database
        self._webhook_body = webhook_body
        self._turns = RoundRobin()
        self._more_to_look_at = False
        self._asked: list[_Question] = []
        self._answering = asyncio.Lock()
        self._unreported = FinishResult()

    async def in_flight(self) -> list[str]:
        """At the start: give the tokens of the claims that were in flight.

        Files that carry these belong to nobody, and only `in_flight` knows them: they go before
        `recover`.
        """
        return await self._database.read(bulk_updates.in_flight)

    async def recover(self) -> None:
        """At the start: put back what was in flight. Attempts stay as they were."""
        await self._database.write(bulk_updates.reset_rates)
        while await self._database.write(lambda c: bulk_updates.recover(c, SLICE)):
            pass

    async def claim(self, limit: int, room: Callable[[int], int], now: float) -> list[Claim]:
        """Take at most `limit` images to be done by this process.

        Requests take turns, and within each its origins; an image comes together with those of its
        request that have the same URL. `room` gives, for an origin's key, how many more of its images
        may be claimed; it is called in another thread.
        """

        def work(c: sqlite3.Connection) -> tuple[ClaimResult, bool]:
            retried = bulk_updates.retry(c, SLICE) is not None
            return claiming.claim(c, limit, room, now, self._turns), retried

        if limit <= 0:
            return []
        claimed, retried = await self._database.write(work)
        self._more_to_look_at = claimed.cut_short or retried
        claims = {claim.token: claim for claim in claimed.claims}
        for claim in claimed.crowded:
            claims[claim.token] = await self._claim_all_duplicates(claim, now)
        return list(claims.values())

    async def _claim_all_duplicates(self, claim: Claim, now: float) -> Claim:
        """Add the other siblings. What is claimed stays so where the database takes no more writes:
        the rest are claimed by themselves.
        """
        more: Claim | None = claim
        while more is not None:
            claim = more
            try:
                more = await self._database.write(
                    partial(claiming.claim_more_duplicates, claim=claim, now=now)
                )
            except DatabaseUnavailableError:
                return claim
        return claim

    async def finish(self, outcomes: Sequence[Outcome]) -> FinishResult:
        """Write down how images ended.

        An outcome whose claim holds no longer is dropped, and its file is among the unused. What a call
        has written down before it failed is told by the next.
        """
        first = [_part(outcome, 0) for outcome in outcomes]
        self._unreported.add(
            await self._database.write(lambda c: finishing.finish(c, first, self._webhook_body))
        )
        for outcome in outcomes:
            size, count = claiming.MAX_DUPLICATES, len(outcome.claim.numbers)
            for start in range(size, count, size):
                part = _part(outcome, start)
                more = await self._database.write(
                    partial(
                        finishing.finish_duplicates, outcome=part, webhook_body=self._webhook_body
                    )
                )
                self._unreported.add(more)
        result, self._unreported = self._unreported, FinishResult()
        return result

    async def find_file(
        self, source_digest: bytes, settings: CompressionSettings
    ) -> StoredFile | None:
        """Give the stored output of these source bytes under these settings.

        Who asks while others are being answered is answered together with all that have come since.
        """
        answer: asyncio.Future[StoredFile | None] = asyncio.get_running_loop().create_future()
        self._asked.append((source_digest, settings, answer))
        async with self._answering:
            if not answer.done():
                asked, self._asked = self._asked, []
                try:
                    found = await self._database.read(partial(_find_files, asked))
                except BaseException:
                    self._asked += (each for each in asked if each[2] is not answer)
                    raise
                for (_, _, waiting), file in zip(asked, found, strict=True):
                    waiting.set_result(file)
        return answer.result()

    async def next_due(self) -> float | None:
        """Give the earliest time in the future at which a waiting image may be tried again.

        It is now where the last claim stopped before it had looked everywhere.
        """
        now = time.time()
        if self._more_to_look_at:
            return now

        def work(c: sqlite3.Connection) -> float | None:
            due: float | None = c.execute(
                "SELECT min(not_before) FROM images INDEXED BY images_due "
                "WHERE status = 'pending' AND not_before > 0 AND not_before > ?",
                (now,),
            ).fetchone()[0]
            return due

        return await self._database.read(work)

    async def waiting(self) -> int:
        """Give the number of images that are not done, in all."""
        return await self._database.read(mappers.waiting_images)

    async def requests_waiting_for(self, host_key: int) -> list[tuple[int, float]]:
        """Give the requests with images that wait for an origin, and since when they wait."""
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
        """Fail at most `limit` images of a request that wait for an origin.

        `changed_requests` is empty once there are none left.
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
        """Mark a request as being cancelled, which stops claims; give its key.

        Raises `ProblemError` NOT_FOUND or ALREADY_FINISHED.
        """
        return await self._database.write(lambda c: bulk_updates.start_cancel(c, request_id))

    async def cancel_slice(self, request_key: int, limit: int) -> tuple[bool, FinishResult]:
        """Cancel at most `limit` waiting images of a request; say whether there are more."""
        return await self._database.write(
            lambda c: bulk_updates.cancel(c, request_key, limit, self._webhook_body)
        )

    async def cancelling(self) -> list[int]:
        """Give the unfinished requests that are being cancelled."""
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
        """Let the failed images of a finished request wait again, from their first attempt.

        Of very many, the rest follow with the next claims: the request is marked until then, and
        nothing of it is claimed. Raises `ProblemError` NOT_FOUND, NOT_FINISHED or NOTHING_FAILED.
        """

        def work(c: sqlite3.Connection) -> Request:
            return mappers.request_of(c, bulk_updates.start_retry(c, request_id, SLICE))

        return await self._database.write(work)


def _find_files(asked: Sequence[_Question], c: sqlite3.Connection) -> list[StoredFile | None]:
    select = f"SELECT f.name, {mappers.IMAGE_INFO_COLUMNS} FROM files f WHERE source_digest = ? AND settings = ?"
    found = [c.execute(select, (digest, str(settings))).fetchone() for digest, settings, _ in asked]
    return [row and mappers.stored_file(row) for row in found]


def _part(outcome: Outcome, start: int) -> Outcome:
    """Give the outcome for one transaction's share of its claim's images."""
    numbers = outcome.claim.numbers
    if start == 0 and len(numbers) <= claiming.MAX_DUPLICATES:
        return outcome
    claim = replace(outcome.claim, numbers=numbers[start : start + claiming.MAX_DUPLICATES])
    return replace(outcome, claim=claim)
