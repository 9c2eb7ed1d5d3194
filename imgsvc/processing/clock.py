"""Decisions that must hold even if the system clock is set forwards or back."""

from __future__ import annotations

import logging
import math

from imgsvc.database.clock_store import ClockStore
from imgsvc.system_clock import SystemClock

log = logging.getLogger(__name__)

JUMP_SECONDS = 60.0
"""A larger difference between the progress of both clocks is a jump of the system clock."""


class WaitingTimes:
    """Measures how long something has waited since a Unix time.

    After the clock has jumped, it counts from the jump only: the time before is not certain.
    """

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._offset = clock.time() - clock.monotonic()
        self._jumped_at = -math.inf

    def waited(self, since: float) -> float:
        """Return the seconds since a Unix time, or since the last jump of the clock."""
        now = self._clock.monotonic()
        offset = self._clock.time() - now
        if abs(offset - self._offset) > JUMP_SECONDS:
            self._jumped_at = now
        self._offset = offset
        waited = now + offset - since
        return min(math.inf if waited < 0 else waited, now - self._jumped_at)


class ExpiryClock:
    """The time by which data expires. It is unknown while the clock may be ahead.

    The database has the time of the last check. If the clock is more than a day ahead of it, it may
    have been set, or the service was stopped for days. Then nothing expires until the service has run
    for 24 hours in all.
    """

    def __init__(self, store: ClockStore, clock: SystemClock = SystemClock()) -> None:
        self._store = store
        self._clock = clock
        self._checked_at: float | None = None
        self._trusted = True

    async def now(self) -> float | None:
        """Return the Unix time, or None if nothing may expire now."""
        now, checked_at = self._clock.time(), self._clock.monotonic()
        elapsed = 0.0 if self._checked_at is None else checked_at - self._checked_at
        trusted = await self._store.check(now, elapsed)
        self._checked_at = checked_at
        if trusted is not self._trusted:
            self._trusted = trusted
            if trusted:
                log.info("the clock is trusted again: data past its retention expires")
            else:
                log.warning(
                    "the clock is more than a day ahead of the last run. Nothing expires until the "
                    "service has run for 24 hours. Check the clock of this machine."
                )
        return now if trusted else None
