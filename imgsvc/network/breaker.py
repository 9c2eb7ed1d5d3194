"""Which origins are left alone for a while because they keep failing. Pure: the time is passed in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from imgsvc.errors import ImageError, ImageErrorCode

FAILURES_TO_OPEN = 10
PROBE_SECONDS = 30.0
EXPIRY_SECONDS = 600.0
"""How long an image waits for an origin that stays dead."""
FORGET_SECONDS = 3_600.0
"""An origin that has not failed for so long is not remembered."""
MOST_ORIGINS = 10_000
"""Origins remembered at once; beyond that those that failed longest ago are forgotten."""

FAILURES = frozenset(
    {ImageErrorCode.CONNECT_FAILED, ImageErrorCode.DNS_FAILURE, ImageErrorCode.TIMEOUT}
)
SILENT = frozenset({ImageErrorCode.BLOCKED_ADDRESS, ImageErrorCode.INTERNAL})
"""Failures that tell nothing about the origin; all others show that it answers."""


@dataclass(slots=True)
class _Origin:
    """One that has failed. `opened` is None while it is still asked as any other."""

    error: ImageError
    failed_at: float
    failures: int = 0
    opened: float | None = None
    next_probe: float = 0.0


class Breakers:
    """A breaker for each origin, by a number that stands for its scheme, host and port.

    After 10 failures in a row an origin is *open*: it gets one probe every 30 s until one succeeds.
    Only origins that have failed since their last success are held. Times are seconds on a clock that
    nobody sets: a machine that has slept has not been asking.
    """

    def __init__(self) -> None:
        self._origins: OrderedDict[int, _Origin] = OrderedDict()

    def may_fetch(self, origin: int) -> bool:
        """Tell whether the origin may be asked as any other, without it being a probe."""
        state = self._origins.get(origin)
        return state is None or state.opened is None

    def allowance(self, origin: int, now: float, limit: int) -> int:
        """Tell how many images of the origin may be on their way: `limit`, or 1 or 0 while open."""
        state = self._origins.get(origin)
        if state is None or state.opened is None:
            return limit
        return int(now >= state.next_probe)

    def launch(self, origin: int, now: float) -> bool:
        """Note that an image of the origin sets out; tell whether it is the probe."""
        state = self._origins.get(origin)
        if state is None or state.opened is None or now < state.next_probe:
            return False
        state.next_probe = now + PROBE_SECONDS
        return True

    def succeeded(self, origin: int) -> None:
        """Note that something was fetched from the origin: all is forgiven."""
        self._origins.pop(origin, None)

    def failed(self, origin: int, error: ImageError, now: float) -> None:
        """Note that a fetch from the origin failed; most errors show that it is alive all the same."""
        if error.code in SILENT:
            return
        if error.redirected or error.code not in FAILURES:
            self.succeeded(origin)
            return
        state = self._origins.setdefault(origin, _Origin(error, now))
        self._origins.move_to_end(origin)
        state.error, state.failed_at = error, now
        state.failures += 1
        if state.failures >= FAILURES_TO_OPEN and state.opened is None:
            state.opened, state.next_probe = now, now + PROBE_SECONDS
        self._forget(now)

    def expired(self, origin: int, waited: float, now: float) -> ImageError | None:
        """Give the error for an image that has waited for the origin so long, if that is enough.

        It is once the origin has been open, and the image waiting, for 10 minutes.
        """
        state = self._origins.get(origin)
        if state is None or state.opened is None:
            return None
        if min(now - state.opened, waited) < EXPIRY_SECONDS:
            return None
        minutes = int(EXPIRY_SECONDS / 60)
        return ImageError(
            state.error.code,
            f"{state.error.message}; given up: the host has kept failing for {minutes} minutes",
        )

    def next_probe(self, now: float) -> float | None:
        """Give the next time after `now` at which an open origin may be probed."""
        times = (s.next_probe for s in self._origins.values() if s.opened is not None)
        return min((time for time in times if time > now), default=None)

    def open_origins(self) -> list[int]:
        """Give the origins that are open."""
        return [key for key, state in self._origins.items() if state.opened is not None]

    def _forget(self, now: float) -> None:
        while self._origins:
            oldest = next(iter(self._origins.values()))
            if len(self._origins) <= MOST_ORIGINS and now - oldest.failed_at < FORGET_SECONDS:
                return
            self._origins.popitem(last=False)
