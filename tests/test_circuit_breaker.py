"""An origin that keeps failing is left alone, probed, and given up or taken back."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.circuit_breaker import FORGET_SECONDS, MAX_HOSTS, CircuitBreakers

DEAD = ImageError(ImageErrorCode.CONNECT_FAILED, "the server refused the connection")
A, B = 11, 22


def fail(breakers: CircuitBreakers, times: int, now: float = 0.0, error: ImageError = DEAD) -> None:
    for _ in range(times):
        breakers.record_failure(A, error, now)


def test_it_opens_after_ten_failures_in_a_row() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9)
    assert breakers.may_fetch(A)
    assert breakers.capacity(A, 0, 16) == 16
    fail(breakers, 1)
    assert not breakers.may_fetch(A)
    assert breakers.capacity(A, 0, 16) == 0
    assert breakers.open_hosts() == [A]
    assert breakers.may_fetch(B)
    assert breakers.capacity(B, 0, 16) == 16


@pytest.mark.parametrize("code", ["connect_failed", "dns_failure", "timeout"])
def test_which_failures_count(code: str) -> None:
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
def test_an_answer_of_any_kind_starts_the_count_again(error: ImageError) -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9)
    breakers.record_failure(A, error, 0)
    fail(breakers, 9)
    assert breakers.may_fetch(A)
    fail(breakers, 1)
    assert not breakers.may_fetch(A)


def test_a_success_starts_the_count_again() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9)
    breakers.record_success(A)
    fail(breakers, 9)
    assert breakers.may_fetch(A)


def test_what_tells_nothing_of_the_origin_changes_nothing() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9)
    breakers.record_failure(A, ImageError(ImageErrorCode.BLOCKED_ADDRESS, "no"), 0)
    breakers.record_failure(A, ImageError(ImageErrorCode.INTERNAL, "bug"), 0)
    fail(breakers, 1)
    assert not breakers.may_fetch(A)


def test_it_gets_one_probe_every_thirty_seconds() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 10, now=100)
    assert breakers.next_probe(100) == 130
    assert not breakers.start_attempt(A, 129.9)
    assert breakers.capacity(A, 129.9, 16) == 0
    assert breakers.capacity(A, 130, 16) == 1
    assert breakers.start_attempt(A, 130)
    assert not breakers.start_attempt(A, 130), "the probe is on its way"
    assert breakers.capacity(A, 159.9, 16) == 0
    breakers.record_failure(A, DEAD, 140)
    assert breakers.next_probe(140) == 160
    assert breakers.start_attempt(A, 160)
    breakers.record_success(A)
    assert breakers.may_fetch(A)
    assert breakers.capacity(A, 160, 16) == 16
    assert breakers.next_probe(160) is None


def test_a_probe_that_is_answered_with_an_error_closes_it() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 10)
    assert breakers.start_attempt(A, 30)
    breakers.record_failure(A, ImageError(ImageErrorCode.HTTP_STATUS, "404", http_status=404), 31)
    assert breakers.may_fetch(A)


def test_a_probe_that_nobody_needs_wakes_nobody() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 10)
    assert breakers.next_probe(31) is None


def test_images_expire_after_ten_minutes_with_the_last_code() -> None:
    breakers = CircuitBreakers()
    fail(breakers, 9, now=0)
    assert breakers.expired(A, waited=20_000, now=10_000) is None, "not open yet"
    fail(breakers, 1, now=1_000)
    slow = ImageError(ImageErrorCode.TIMEOUT, "the server sent nothing for 15 seconds")
    breakers.record_failure(A, slow, 1_030)
    assert breakers.expired(A, waited=1_599, now=1_599) is None
    error = breakers.expired(A, waited=1_600, now=1_600)
    assert error is not None
    assert error.code == "timeout"
    assert error.message == (
        "the server sent nothing for 15 seconds; given up: the host has kept failing for 10 minutes"
    )
    assert breakers.expired(A, waited=599, now=1_799) is None, "a later request waits as long"
    assert breakers.expired(A, waited=600, now=1_800) is not None
    assert breakers.expired(B, waited=10_000, now=10_000) is None


def test_memory_is_bounded_and_old_failures_are_forgotten() -> None:
    breakers = CircuitBreakers()
    for origin in range(MAX_HOSTS + 500):
        for _ in range(10):
            breakers.record_failure(origin, DEAD, float(origin) / 1_000)
    assert len(breakers.open_hosts()) == MAX_HOSTS
    assert breakers.may_fetch(0)
    assert not breakers.may_fetch(MAX_HOSTS)
    breakers.record_failure(-1, DEAD, FORGET_SECONDS * 2)
    assert breakers.open_hosts() == []


@given(
    st.lists(st.tuples(st.sampled_from("fsal"), st.integers(0, 2), st.floats(0, 40)), max_size=200)
)
def test_whatever_happens_an_open_origin_is_asked_once_in_thirty_seconds(
    steps: list[tuple[str, int, float]],
) -> None:
    breakers, now = CircuitBreakers(), 0.0
    rows: Counter[int] = Counter()
    probed: dict[int, float] = {}
    for step, origin, pause in steps:
        now += pause
        if step == "s":
            breakers.record_success(origin)
            rows[origin] = 0
        elif step == "f":
            breakers.record_failure(origin, DEAD, now)
            rows[origin] += 1
        elif step == "a":
            breakers.record_failure(origin, ImageError(ImageErrorCode.HTTP_STATUS, "404"), now)
            rows[origin] = 0
        elif breakers.start_attempt(origin, now):
            assert rows[origin] >= 10
            assert now - probed.get(origin, -30.0) >= 30
            probed[origin] = now
        assert breakers.may_fetch(origin) == (rows[origin] < 10)
        assert (breakers.capacity(origin, now, 5) == 5) == (rows[origin] < 10)
        if rows[origin] < 10:
            probed.pop(origin, None)
