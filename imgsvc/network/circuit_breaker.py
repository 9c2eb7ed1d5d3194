"""Circuit breakers for hosts that keep failing. No I/O; the caller passes the time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from imgsvc.errors import ImageError, ImageErrorCode

FAILURES_TO_OPEN = 10
"""The number of failures in a row that opens a circuit."""
PROBE_INTERVAL_SECONDS = 30.0
"""The time between two probes of a host whose circuit is open."""
MAX_OUTAGE_SECONDS = 600.0
"""The longest time that an image waits for a host whose circuit stays open."""
FORGET_SECONDS = 3_600.0
"""The time without a failure after which a host's state is removed."""
MAX_HOSTS = 10_000
"""The maximum number of hosts with state. Above it, the states with the oldest failures are removed."""

FAILURE_CODES = frozenset(
    {ImageErrorCode.CONNECT_FAILED, ImageErrorCode.DNS_FAILURE, ImageErrorCode.TIMEOUT}
)
"""The errors that count as failures of the host."""
IGNORED_CODES = frozenset({ImageErrorCode.BLOCKED_ADDRESS, ImageErrorCode.INTERNAL})
"""The errors that say nothing about the host. All other errors show that the host responds."""


@dataclass(slots=True)
class _HostState:
    """A host that has failed since its last success. `opened` is None while its circuit is closed."""

    error: ImageError
    failed_at: float
    failures: int = 0
    opened: float | None = None
    next_probe: float = 0.0


class OpenCircuit(NamedTuple):
    """A host's latest error, and the time of the next probe on the monotonic clock."""

    error: ImageError
    next_probe: float


class CircuitBreakers:
    """A circuit breaker for each host.

    A host key is a number for the host's scheme, name and port. After 10 failures in a row, the
    host's circuit is *open*: it gets one probe every 30 s until a probe succeeds. Only hosts that
    have failed since their last success have state.

    Times are seconds on a monotonic clock, so that a change of the system time has no effect and
    the time during which the machine sleeps does not count.
    """

    def __init__(self) -> None:
        self._hosts: OrderedDict[int, _HostState] = OrderedDict()

    def may_fetch(self, host_key: int) -> bool:
        """Return whether the host's circuit is closed, so that images are fetched without a probe."""
        state = self._hosts.get(host_key)
        return state is None or state.opened is None

    def has_failed(self, host_key: int) -> bool:
        """Return whether the last attempt has failed, as far as the state of the host is known."""
        return host_key in self._hosts

    def capacity(self, host_key: int, now: float, limit: int) -> int:
        """Return how many images of the host may be in progress at once.

        That is `limit` while the circuit is closed. While it is open, it is 1 if a probe is due,
        else 0.
        """
        state = self._hosts.get(host_key)
        if state is None or state.opened is None:
            return limit
        return int(now >= state.next_probe)

    def start_attempt(self, host_key: int, now: float) -> bool:
        """Record the start of a fetch from the host. Return whether it is the probe."""
        state = self._hosts.get(host_key)
        if state is None or state.opened is None or now < state.next_probe:
            return False
        state.next_probe = now + PROBE_INTERVAL_SECONDS
        return True

    def record_success(self, host_key: int) -> None:
        """Record a successful fetch from the host: close its circuit and reset its failures."""
        self._hosts.pop(host_key, None)

    def record_failure(self, host_key: int, error: ImageError, now: float) -> None:
        """Record a failed fetch from the host.

        An error that shows that the host responds, such as an HTTP status, counts as a success.
        """
        if error.code in IGNORED_CODES:
            return
        if error.redirected or error.code not in FAILURE_CODES:
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
        """Return the error of an image that has waited too long for the host, else None.

        `waited` is the time in seconds that the image has waited. It is too long after 10 minutes
        if the host's circuit has been open for 10 minutes too.
        """
        state = self._hosts.get(host_key)
        if state is None or state.opened is None:
            return None
        if min(now - state.opened, waited) < MAX_OUTAGE_SECONDS:
            return None
        minutes = int(MAX_OUTAGE_SECONDS / 60)
        return ImageError(
            state.error.code,
            f"{state.error.message} Stopped trying after {minutes} minutes.",
        )

    def next_probe(self, now: float) -> float | None:
        """Return the next time after `now` at which a probe of any host is due, or None."""
        times = (s.next_probe for s in self._hosts.values() if s.opened is not None)
        return min((time for time in times if time > now), default=None)

    def open_circuits(self) -> dict[int, OpenCircuit]:
        """Return the open circuits, by the keys of their hosts."""
        return {
            key: OpenCircuit(state.error, state.next_probe)
            for key, state in self._hosts.items()
            if state.opened is not None
        }

    def _forget(self, now: float) -> None:
        """Remove the state of hosts above `MAX_HOSTS` and of those without a recent failure."""
        while self._hosts:
            oldest = next(iter(self._hosts.values()))
            if len(self._hosts) <= MAX_HOSTS and now - oldest.failed_at < FORGET_SECONDS:
                return
            self._hosts.popitem(last=False)
