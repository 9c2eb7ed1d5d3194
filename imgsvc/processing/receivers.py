"""The limits of each receiver of webhooks, so that one that hangs does not delay others."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass

from imgsvc.errors import ImageError
from imgsvc.network.circuit_breaker import CircuitBreakers

MAX_RESPONSIVE = 10_000
"""Maximum number of receivers that are remembered as responsive."""


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """How many webhooks are sent at the same time."""

    total: int = 64
    per_receiver: int = 8
    """To one receiver that has responded last time. Any other receiver gets one at a time."""
    failing: int = 32
    """To all receivers together that have not responded last time."""


class Receivers:
    """Counts the webhooks that are being sent, and remembers which receivers respond.

    A receiver gets one webhook at a time until it has responded, then several, but never more than a
    quarter of the free slots. So ten receivers that stop responding at once leave some slots free. Each
    receiver has a circuit breaker.
    """

    def __init__(self, limits: ReceiverLimits) -> None:
        self._limits = limits
        self._breakers = CircuitBreakers()
        self._in_flight: Counter[int] = Counter()
        self._failing_in_flight = 0
        self._responsive: OrderedDict[int, None] = OrderedDict()

    @property
    def free_slots(self) -> int:
        """How many more webhooks may be sent to all receivers together."""
        return self._limits.total - self._in_flight.total()

    def free_slots_of(self, receiver_key: int) -> int:
        """Return how many more webhooks may be sent to a receiver. Any thread may call this."""
        free = self.free_slots
        if free <= 0 or (
            self._breakers.has_failed(receiver_key)
            and self._failing_in_flight >= self._limits.failing
        ):
            return 0
        allowed = 1
        if receiver_key in self._responsive:
            allowed = max(1, min(self._limits.per_receiver, free // 4))
        allowed = self._breakers.capacity(receiver_key, time.monotonic(), allowed)
        return max(0, allowed - self._in_flight[receiver_key])

    def start(self, receiver_key: int) -> ReceiverSlot:
        """Return a slot for a webhook that is sent now."""
        slot = ReceiverSlot(receiver_key, failing=self._breakers.has_failed(receiver_key))
        self._breakers.start_attempt(receiver_key, time.monotonic())
        self._in_flight[receiver_key] += 1
        self._failing_in_flight += slot.failing
        return slot

    def next_probe(self) -> float | None:
        """Return the seconds until a receiver with an open circuit may be probed, or None."""
        now = time.monotonic()
        probe = self._breakers.next_probe(now)
        return None if probe is None else probe - now

    def record(self, receiver_key: int, error: ImageError | None) -> None:
        """Record whether a receiver has responded. `error`: why it has not."""
        if error is not None:
            self._responsive.pop(receiver_key, None)
            self._breakers.record_failure(receiver_key, error, time.monotonic())
            return
        self._breakers.record_success(receiver_key)
        self._responsive[receiver_key] = None
        self._responsive.move_to_end(receiver_key)
        if len(self._responsive) > MAX_RESPONSIVE:
            self._responsive.popitem(last=False)

    def release(self, slot: ReceiverSlot) -> None:
        """Free the slot of a webhook that has been sent."""
        self._failing_in_flight -= slot.failing
        self._in_flight[slot.receiver_key] -= 1
        if not self._in_flight[slot.receiver_key]:
            del self._in_flight[slot.receiver_key]


@dataclass(frozen=True, slots=True)
class ReceiverSlot:
    """The slot of one webhook. `failing`: its receiver has not responded last time."""

    receiver_key: int
    failing: bool
