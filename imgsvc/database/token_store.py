"""Reserves the tokens of outputs, for jobs and for deletion."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence

from imgsvc.database import tokens
from imgsvc.database.connection import Database
from imgsvc.database.tokens import Content, Reservation
from imgsvc.models import Claim

_Call = tuple[Content, asyncio.Future[Reservation]]


class TokenStore:
    """Reserves tokens so that no output is deleted while a job stores it, or the reverse.

    Reservations and marks survive the end of the process, but maybe not a power cut.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._calls: list[_Call] = []
        self._lock = asyncio.Lock()
        self._deletion_ended = asyncio.Event()

    async def recover(self) -> None:
        """Mark the outputs that an earlier process was storing or deleting. Call this at startup."""
        await self._database.write(tokens.recover)

    async def claimant(self) -> tuple[str, str | None]:
        """Return the database's id, and the name of one of its outputs or None. See `ImageStore`."""
        return await self._database.read(tokens.claimant)

    async def reserve(self, claim: Claim, source_digest: bytes) -> str | None:
        """Reserve the token of the output of a source for a claim, and return it.

        Return None if the output is stored already. Wait while it is being deleted. The commit of the
        claim's outcome releases the token. Concurrent calls are batched into one transaction.
        """
        content = Content(claim.claim_id, source_digest, claim.settings)
        while True:
            deletion_ended = self._deletion_ended
            reservation = await self._reserve(content)
            if not reservation.deleting:
                return None if reservation.stored else reservation.token.hex()
            await deletion_ended.wait()

    async def _reserve(self, content: Content) -> Reservation:
        result: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        call = content, result
        self._calls.append(call)
        try:
            async with self._lock:
                if not result.done():
                    await self._reserve_batch()
            return result.result()
        finally:
            result.cancel()  # a repetition of the batch must not reserve for a job that has ended
            if call in self._calls:
                self._calls.remove(call)

    async def _reserve_batch(self) -> None:
        batch, self._calls = self._calls, []

        def transaction(c: sqlite3.Connection) -> list[tuple[_Call, Reservation]]:
            calls = [call for call in batch if not call[1].done()]
            contents = [content for content, _ in calls]
            return list(zip(calls, tokens.reserve(c, contents), strict=True))

        try:
            reserved = await self._database.write(transaction, durable=False)
        except BaseException:
            # The next call that gets the lock repeats the transaction for the others.
            self._calls += [call for call in batch if not call[1].done()]
            raise
        for (_, result), reservation in reserved:
            if not result.done():
                result.set_result(reservation)

    async def begin_deletion(self, limit: int, after: str = "") -> tuple[list[str], str | None]:
        """Reserve at most `limit` marked outputs whose names follow `after` for deletion.

        Return their names, and where the next call continues, or None if there are no more. Call
        `end_deletion` when they are deleted.
        """
        return await self._database.write(
            lambda c: tokens.begin_deletion(c, limit, after), durable=False
        )

    async def end_deletion(self, deleted: Sequence[str]) -> None:
        """Release the outputs that are reserved for deletion. `deleted`: the names of those deleted."""
        await self._database.write(lambda c: tokens.end_deletion(c, deleted), durable=False)
        ended, self._deletion_ended = self._deletion_ended, asyncio.Event()
        ended.set()

    async def unused(self, names: Sequence[str]) -> list[str]:
        """Return the names of outputs that nothing uses: no image, no job, and no deletion."""
        return await self._database.read(lambda c: tokens.unused(c, names))

    async def mark_unused(self, names: Sequence[str]) -> None:
        """Mark outputs for deletion, except those that are used now."""
        await self._database.write(lambda c: tokens.mark_unused(c, names), durable=False)

    async def restored_recently(self, now: float) -> bool:
        """Return whether the database is a backup that was restored in the 30 days before `now`."""
        return await self._database.read(lambda c: tokens.restored_recently(c, now))
