"""Which origins are left alone for a while because they keep failing. Pure: the time is passed in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from imgsvc.errors import ImageError, ImageErrorCode

FAILURES_TO_OPEN = 10
PROBE_INTERVAL_SECONDS = 30.0
MAX_WAIT_SECONDS = 600.0
"""How long an image waits for an origin that stays dead."""
FORGET_SECONDS = 3_600.0
"""An origin that has not failed for so long is not remembered."""
MAX_HOSTS = 10_000
"""Origins remembered at once; beyond that those that failed longest ago are forgotten."""

FAILURES = frozenset(
    {ImageErrorCode.CONNECT_FAILED, ImageErrorCode.DNS_FAILURE, ImageErrorCode.TIMEOUT}
)
SILENT = frozenset({ImageErrorCode.BLOCKED_ADDRESS, ImageErrorCode.INTERNAL})
"""Failures that tell nothing about the origin; all others show that it answers."""


@dataclass(slots=True)
class _HostState:
    """One that has failed. `opened` is None while it is still asked as any other."""

    error: ImageError
    failed_at: float
    failures: int = 0
    opened: float | None = None
    next_probe: float = 0.0


class CircuitBreakers:
    """A breaker for each origin, by a number that stands for its scheme, host and port.

    After 10 failures in a row an origin is *open*: it gets one probe every 30 s until one succeeds.
    Only origins that have failed since their last success are held. Times are seconds on a clock that
    nobody sets: a machine that has slept has not been asking.
    """

    def __init__(self) -> None:
        self._hosts: OrderedDict[int, _HostState] = OrderedDict()

    def may_fetch(self, host_key: int) -> bool:
        """Tell whether the origin may be asked as any other, without it being a probe."""
        state = self._hosts.get(host_key)
        return state is None or state.opened is None

    def capacity(self, host_key: int, now: float, limit: int) -> int:
        """Tell how many images of the origin may be on their way: `limit`, or 1 or 0 while open."""
        state = self._hosts.get(host_key)
        if state is None or state.opened is None:
            return limit
        return int(now >= state.next_probe)

    def start_attempt(self, host_key: int, now: float) -> bool:
        """Note that an image of the origin sets out; tell whether it is the probe."""
        state = self._hosts.get(host_key)
        if state is None or state.opened is None or now < state.next_probe:
            return False
        state.next_probe = now + PROBE_INTERVAL_SECONDS
        return True

    def record_success(self, host_key: int) -> None:
        """Note that something was fetched from the origin: all is forgiven."""
        self._hosts.pop(host_key, None)

    def record_failure(self, host_key: int, error: ImageError, now: float) -> None:
        """Note that a fetch from the origin failed; most errors show that it is alive all the same."""
        if error.code in SILENT:
            return
        if error.redirected or error.code not in FAILURES:
            self.record_success(host_key)
            return
        state = self._hosts.setdefault(host_key, _HostState(error, now))
        self._hosts.move_to_end(host_key)
        state.error, state.failed_at = error, now
        state.failures += 1
        if state.failures >= FAILURES_TO_OPEN and state.opened is None:
            state.opened, state.next_probe = now, now + PROBE_INTERVAL_SECONDS
        self._forget(now)

    def expired(self, host_key: int, waited: float, now: float) -> ImageError | None:
        """Give the error for an image that has waited for the origin so long, if that is enough.

        It is once the origin has been open, and the image waiting, for 10 minutes.
        """
        state = self._hosts.get(host_key)
        if state is None or state.opened is None:
            return None
        if min(now - state.opened, waited) < MAX_WAIT_SECONDS:
            return None
        minutes = int(MAX_WAIT_SECONDS / 60)
        return ImageError(
            state.error.code,
            f"{state.error.message}; given up: the host has kept failing for {minutes} minutes",
        )

    def next_probe(self, now: float) -> float | None:
        """Give the next time after `now` at which an open origin may be probed."""
        times = (s.next_probe for s in self._hosts.values() if s.opened is not None)
        return min((time for time in times if time > now), default=None)

    def open_hosts(self) -> list[int]:
        """Give the origins that are open."""
        return [key for key, state in self._hosts.items() if state.opened is not None]

    def _forget(self, now: float) -> None:
        while self._hosts:
            oldest = next(iter(self._hosts.values()))
            if len(self._hosts) <= MAX_HOSTS and now - oldest.failed_at < FORGET_SECONDS:
                return
            self._hosts.popitem(last=False)
