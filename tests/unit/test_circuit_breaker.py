"""A circuit breaker opens for a host that keeps failing, probes it, and closes or expires images."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.circuit_breaker import FORGET_SECONDS, MAX_HOSTS, CircuitBreakers

REFUSED = ImageError(ImageErrorCode.CONNECT_FAILED, "The host refused the connection.")
A, B = 11, 22


def fail(
    breakers: CircuitBreakers, times: int, now: float = 0.0, error: ImageError = REFUSED
) -> None:
    for _ in range(times):
        breakers.record_failure(A, error, now)


def test_circuit_opens_after_ten_failures_in_a_row() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9)
    assert breakers.may_fetch(A)
    assert breakers.capacity(A, 0, 16) == 16
    fail(breakers, 1)
    assert not breakers.may_fetch(A)
    assert breakers.capacity(A, 0, 16) == 0
    assert list(breakers.open_circuits()) == [A]
    assert breakers.may_fetch(B)
    assert breakers.capacity(B, 0, 16) == 16


@pytest.mark.parametrize("code", ["connect_failed", "dns_failure", "timeout"])
def test_circuit_opens_for_connection_errors_and_timeouts(code: str) -> None:
    breakers = CircuitBreakers()
    fail(breakers, 10, error=ImageError(ImageErrorCode(code), "x"))
    assert not breakers.may_fetch(A)


@pytest.mark.parametrize(
    "error",
    [
        ImageError(ImageErrorCode.HTTP_STATUS, "503 Service Unavailable", http_status=503),
        ImageError(ImageErrorCode.INCOMPLETE_BODY, "cut"),
        ImageError(ImageErrorCode.TLS_ERROR, "expired"),
        ImageError(ImageErrorCode.TIMEOUT, "slow", redirected=True),
    ],
)
def test_any_response_resets_failure_count(error: ImageError) -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9)
    breakers.record_failure(A, error, 0)
    fail(breakers, 9)
    assert breakers.may_fetch(A)
    fail(breakers, 1)
    assert not breakers.may_fetch(A)


def test_success_resets_failure_count() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9)
    breakers.record_success(A)
    fail(breakers, 9)
    assert breakers.may_fetch(A)


def test_blocked_address_and_internal_error_do_not_change_failure_count() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9)
    breakers.record_failure(A, ImageError(ImageErrorCode.BLOCKED_ADDRESS, "no"), 0)
    breakers.record_failure(A, ImageError(ImageErrorCode.INTERNAL, "bug"), 0)
    fail(breakers, 1)
    assert not breakers.may_fetch(A)


def test_open_circuit_allows_one_probe_every_thirty_seconds() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 10, now=100)
    assert breakers.next_probe(100) == 130
    assert not breakers.start_attempt(A, 129.9)
    assert breakers.capacity(A, 129.9, 16) == 0
    assert breakers.capacity(A, 130, 16) == 1
    assert breakers.start_attempt(A, 130)
    assert not breakers.start_attempt(A, 130), "the probe is in progress"
    assert breakers.capacity(A, 159.9, 16) == 0
    breakers.record_failure(A, REFUSED, 140)
    assert breakers.next_probe(140) == 160
    assert breakers.start_attempt(A, 160)
    breakers.record_success(A)
    assert breakers.may_fetch(A)
    assert breakers.capacity(A, 160, 16) == 16
    assert breakers.next_probe(160) is None


def test_probe_with_http_error_closes_circuit() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 10)
    assert breakers.start_attempt(A, 30)
    breakers.record_failure(A, ImageError(ImageErrorCode.HTTP_STATUS, "404", http_status=404), 31)
    assert breakers.may_fetch(A)


def test_next_probe_is_none_when_probe_is_already_due() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 10)
    assert breakers.next_probe(31) is None


def test_images_expire_after_ten_minutes_with_last_error() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9, now=0)
    assert breakers.expired(A, waited=20_000, now=10_000) is None, "not open yet"
    fail(breakers, 1, now=1_000)
    slow = ImageError(ImageErrorCode.TIMEOUT, "The host sent no data for 15 seconds.")
    breakers.record_failure(A, slow, 1_030)
    assert breakers.expired(A, waited=1_599, now=1_599) is None
    error = breakers.expired(A, waited=1_600, now=1_600)
    assert error is not None
    assert error.code == "timeout"
    assert error.message == (
        "The host sent no data for 15 seconds. Stopped trying after 10 minutes."
    )
    assert breakers.expired(A, waited=599, now=1_799) is None, (
        "images of a later request wait 10 minutes too"
    )
    assert breakers.expired(A, waited=600, now=1_800) is not None
    assert breakers.expired(B, waited=10_000, now=10_000) is None


def test_number_of_hosts_is_limited_and_old_failures_are_removed() -> None:
    breakers = CircuitBreakers()
    for host_key in range(MAX_HOSTS + 500):
        for _ in range(10):
            breakers.record_failure(host_key, REFUSED, float(host_key) / 1_000)
    assert len(breakers.open_circuits()) == MAX_HOSTS
    assert breakers.may_fetch(0)
    assert not breakers.may_fetch(MAX_HOSTS)
    breakers.record_failure(-1, REFUSED, FORGET_SECONDS * 2)
    assert breakers.open_circuits() == {}


@given(
    st.lists(st.tuples(st.sampled_from("fsal"), st.integers(0, 2), st.floats(0, 40)), max_size=200)
)
def test_open_circuit_is_probed_at_most_once_in_thirty_seconds_after_any_steps(
    steps: list[tuple[str, int, float]],
) -> None:
    breakers, now = CircuitBreakers(), 0.0
    failures: Counter[int] = Counter()
    probed: dict[int, float] = {}
    for step, host_key, delay in steps:
        now += delay
        if step == "s":
            breakers.record_success(host_key)
            failures[host_key] = 0
        elif step == "f":
            breakers.record_failure(host_key, REFUSED, now)
            failures[host_key] += 1
        elif step == "a":
            breakers.record_failure(host_key, ImageError(ImageErrorCode.HTTP_STATUS, "404"), now)
            failures[host_key] = 0
        elif breakers.start_attempt(host_key, now):
            assert failures[host_key] >= 10
            assert now - probed.get(host_key, -30.0) >= 30
            probed[host_key] = now
        assert breakers.may_fetch(host_key) == (failures[host_key] < 10)
        assert (breakers.capacity(host_key, now, 5) == 5) == (failures[host_key] < 10)
        if failures[host_key] < 10:
            probed.pop(host_key, None)
