"""Reconciles the store with the database: finds and removes the outputs that no image uses.

A crash, or a node that was stopped for a while, can leave an output that nothing else finds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from imgsvc.database.token_store import TokenStore
from imgsvc.processing.clock import ExpiryClock
from imgsvc.storage.base import ImageStore, name_pages

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReconciliationLimits:
    """The limits of reconciliation."""

    interval_seconds: float = 3_600.0
    """Time between two passes, and so the least age of an output that is removed."""
    slice: int = 1_000
    """Outputs that are compared with the database at once."""
    slice_pause_seconds: float = 0.05
    """Pause between two slices, so that a pass slows down no other work."""
    max_removed: int = 100
    max_removed_share: float = 0.01
    """A pass that would remove more than both, outputs and share of all outputs, removes none."""
    max_remembered: int = 1_000_000
    """Maximum number of unused outputs that a pass remembers. A pass with more removes none."""


class Reconciliation:
    """Compares all outputs with the database, in slices, again and again.

    An output that no image uses is removed if the pass before has found it too. So its age does not
    depend on clocks, and a job has committed it long ago or never will.
    """

    def __init__(
        self,
        token_store: TokenStore,
        store: ImageStore,
        clock: ExpiryClock,
        limits: ReconciliationLimits = ReconciliationLimits(),
    ) -> None:
        self._token_store = token_store
        self._store = store
        self._clock = clock
        self._limits = limits
        self._unused_before: set[str] = set()

    async def run(self) -> None:
        """Run passes at intervals, for as long as the service runs."""
        while True:
            await asyncio.sleep(self._limits.interval_seconds)
            try:
                await self.run_pass()
            except Exception:
                log.exception("the outputs could not be compared with the database")

    async def run_pass(self) -> list[str]:
        """Compare all outputs with the database. Return the names that it has marked for deletion.

        The maintenance deletes them, after it has checked again that no image uses them.
        """
        total, unused = 0, set[str]()
        async for names in name_pages(self._store, self._limits.slice):
            total += len(names)
            if len(unused) <= self._limits.max_remembered:
                unused.update(await self._token_store.unused(names))
            await asyncio.sleep(self._limits.slice_pause_seconds)
        found = sorted(unused & self._unused_before)
        self._unused_before = unused
        if not found or not self._may_remove(len(found), total):
            return []
        now = await self._clock.now()
        if now is None:
            return []
        if await self._token_store.restored_recently(now):
            log.warning(
                "outputs that no image uses are kept for 30 days after a restore",
                extra={"outputs": len(found)},
            )
            return []
        await self._mark(found)
        return found

    async def _mark(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), self._limits.slice):
            await self._token_store.mark_unused(names[start : start + self._limits.slice])
        log.info("outputs that no image uses are removed", extra={"outputs": len(names)})

    def _may_remove(self, count: int, total: int) -> bool:
        """Return whether a pass may remove `count` of all outputs. Log an error if not."""
        limits = self._limits
        if count <= max(limits.max_removed, limits.max_removed_share * total):
            return True
        log.error(
            "too many outputs are unused, so none is removed: the database may be older than they are. "
            "Run `imgsvc check`.",
            extra={"unused": count, "outputs": total},
        )
        return False
