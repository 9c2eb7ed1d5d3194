"""Tests of the limits of webhook receivers."""

from __future__ import annotations

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.processing.receivers import ReceiverLimits, Receivers

TIMED_OUT = ImageError(ImageErrorCode.TIMEOUT, "No response.")


def fill(receivers: Receivers, key: int) -> int:
    """Start as many webhooks to a receiver as its limit allows. Return their number."""
    count = 0
    while receivers.free_slots_of(key) > 0:
        receivers.start(key)
        count += 1
    return count


def test_receiver_gets_one_webhook_at_a_time_until_it_has_responded() -> None:
    receivers = Receivers(ReceiverLimits())
    slot = receivers.start(1)
    assert receivers.free_slots_of(1) == 0
    receivers.release(slot)
    receivers.record(1, None)
    assert receivers.free_slots_of(1) == fill(receivers, 1) == 8
    receivers.record(1, TIMED_OUT)
    assert receivers.free_slots_of(1) == 0


def test_responsive_receivers_that_hang_at_once_leave_slots_for_others() -> None:
    receivers = Receivers(ReceiverLimits())
    for key in range(10):
        receivers.record(key, None)
    assert all(fill(receivers, key) >= 1 for key in range(10))
    assert fill(receivers, 99) == 1
    assert receivers.free_slots > 0


def test_receivers_that_have_not_responded_use_at_most_half_of_the_slots() -> None:
    receivers = Receivers(ReceiverLimits())
    for key in range(100):
        receivers.record(key, TIMED_OUT)
    assert sum(fill(receivers, key) for key in range(100)) == 32
    assert fill(receivers, 200) == 1
    slots = [receivers.start(201), receivers.start(202)]
    for slot in slots:
        receivers.release(slot)
    assert receivers.free_slots_of(0) == 0
    receivers.record(0, None)
    assert receivers.free_slots_of(1) == 0, "a slot is free only once it is released"


def test_circuit_of_a_receiver_opens_after_ten_failures_and_closes_after_a_success() -> None:
    receivers = Receivers(ReceiverLimits())
    for _ in range(10):
        assert receivers.free_slots_of(1) == 1
        slot = receivers.start(1)
        receivers.record(1, TIMED_OUT)
        receivers.release(slot)
    assert receivers.free_slots_of(1) == 0
    assert 0 < (receivers.next_probe() or 0) <= 30
    receivers.record(1, None)
    assert receivers.free_slots_of(1) == 8
    assert receivers.next_probe() is None
