"""Tests of a system clock that is set forwards or back: nothing is lost, and nothing expires early."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.database.claiming import LONGEST_DELAY_SECONDS
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.models import SECONDS_PER_DAY, Requeued
from imgsvc.network.retry import retry_delay
from imgsvc.processing.clock import ExpiryClock, WaitingTimes
from tests.harness.database import DatabaseHarness, open_database
from tests.shifted_clock import ShiftedClock

DAY = float(SECONDS_PER_DAY)
HOUR = 3_600.0


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


async def test_retry_that_was_scheduled_while_the_clock_was_ahead_is_due_once_it_is_set_back(
    db: DatabaseHarness,
) -> None:
    await db.accept([["http://a.example/1"], ["http://a.example/2"]])
    now = time.time()
    (ahead, normal) = await db.claim(2, now=now)
    latest = now + LONGEST_DELAY_SECONDS
    await db.job_store.finish([Requeued(ahead, 1, latest + 0.1), Requeued(normal, 1, latest)])
    (claim,) = await db.claim(2, now=now)
    assert (claim.numbers, claim.attempts) == (ahead.numbers, 1)
    assert await db.claim(2, now=now) == []


async def test_images_without_attempts_come_before_retries_of_a_clock_that_was_ahead(
    db: DatabaseHarness,
) -> None:
    await db.accept([["http://a.example/1"], ["http://a.example/2"]])
    (first,) = await db.claim(1)
    await db.job_store.finish([Requeued(first, 1, time.time() + 1_000 * DAY)])
    claims = [await db.claim(1, now=time.time()) for _ in range(2)]
    assert [claim.numbers for (claim,) in claims] == [(1,), (0,)]


@pytest.mark.parametrize("attempts", range(1, 9))
def test_no_retry_is_scheduled_later_than_the_longest_delay(attempts: int) -> None:
    error = ImageError(ImageErrorCode.HTTP_STATUS, "503", http_status=503, retry_after=10_000_000.0)
    delay = retry_delay(attempts, error, 100, lambda: 1.0)
    assert delay is not None
    assert delay <= LONGEST_DELAY_SECONDS


async def test_nothing_expires_while_clock_is_a_day_ahead_until_service_has_run_24_hours(
    db: DatabaseHarness, clock: ShiftedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert await ExpiryClock(db.clock_store, clock).now() is not None
    clock.shift = 40 * DAY
    restarted = ExpiryClock(db.clock_store, clock)
    assert await restarted.now() is None
    clock.passed = 23 * HOUR
    assert await restarted.now() is None
    assert caplog.text.count("more than a day ahead") == 1
    clock.passed = 24 * HOUR + 1
    assert await restarted.now() == pytest.approx(clock.time(), abs=60)
    assert "trusted again" in caplog.text


async def test_restarts_do_not_make_a_clock_that_is_ahead_trusted(
    db: DatabaseHarness, clock: ShiftedClock
) -> None:
    assert await ExpiryClock(db.clock_store, clock).now() is not None
    clock.shift = 1_000 * DAY
    for _ in range(3):
        restarted = ExpiryClock(db.clock_store, clock)
        assert await restarted.now() is None
        clock.passed += 7 * HOUR
        assert await restarted.now() is None
    restarted = ExpiryClock(db.clock_store, clock)
    assert await restarted.now() is None
    clock.passed += 4 * HOUR
    assert await restarted.now() is not None, "it has run for 25 hours in all"


async def test_clock_that_jumps_while_the_service_runs_is_not_trusted(
    db: DatabaseHarness, clock: ShiftedClock
) -> None:
    expiry = ExpiryClock(db.clock_store, clock)
    assert await expiry.now() is not None
    clock.passed += 100 * DAY
    clock.shift = 1.1 * DAY
    assert await expiry.now() is not None, "time has passed while the service was running"
    clock.shift = 3 * DAY
    assert await expiry.now() is None


async def test_clock_that_is_set_back_or_a_little_ahead_is_trusted(
    db: DatabaseHarness, clock: ShiftedClock
) -> None:
    expiry = ExpiryClock(db.clock_store, clock)
    for shift in (0.0, 0.9 * DAY, -1_000 * DAY, -999.5 * DAY):
        clock.shift = shift
        assert await expiry.now() is not None
    clock.shift = 0.0
    assert await expiry.now() is None, "the clock was a thousand days behind"


def test_waiting_time_counts_from_the_last_jump_of_the_clock(clock: ShiftedClock) -> None:
    times = WaitingTimes(clock)
    since = clock.time() - 700
    assert times.waited(since) == pytest.approx(700, abs=30)
    clock.shift = 1_000 * DAY
    assert times.waited(since) == pytest.approx(0, abs=30)
    clock.passed = 500
    assert times.waited(since) == pytest.approx(500, abs=30)
    assert times.waited(clock.time() - 100) == pytest.approx(100, abs=30)


def test_waiting_time_after_clock_was_set_back_counts_from_that_jump(clock: ShiftedClock) -> None:
    times = WaitingTimes(clock)
    since = clock.time()
    clock.shift = -1_000 * DAY
    assert times.waited(since) == pytest.approx(0, abs=30)
    clock.passed = 700
    assert times.waited(since) == pytest.approx(700, abs=30)
    assert WaitingTimes(clock).waited(since) == math.inf
