"""Reserves the tokens of outputs, for jobs and for deletion."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from imgsvc.database import tokens
from imgsvc.database.connection import Database
from imgsvc.database.tokens import Content, Reservation
from imgsvc.models import Claim


class TokenStore:
    """Reserves tokens so that no output is deleted while a job stores it, or the reverse.

    Reservations and marks survive the end of the process, but maybe not a power cut.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._calls: list[tuple[Content, asyncio.Future[Reservation]]] = []
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
        finally:
            if call in self._calls:
                self._calls.remove(call)
        return result.result()

    async def _reserve_batch(self) -> None:
        batch, self._calls = self._calls, []
        try:
            reservations = await self._database.write(
                partial(tokens.reserve, contents=[content for content, _ in batch]), durable=False
            )
        except BaseException:
            # The next call that gets the lock repeats the transaction for the others.
            self._calls += batch
            raise
        for (_, result), reservation in zip(batch, reservations, strict=True):
            result.set_result(reservation)

    async def begin_deletion(self, limit: int) -> tuple[list[str], bool]:
        """Reserve at most `limit` marked outputs for deletion.

        Return their names, and whether there may be more. Call `end_deletion` when they are deleted.
        """
        return await self._database.write(lambda c: tokens.begin_deletion(c, limit), durable=False)

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

    async def restored_recently(self) -> bool:
        """Return whether the database is a backup that was restored in the last 30 days."""
        return await self._database.read(tokens.restored_recently)
