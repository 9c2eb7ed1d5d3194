"""Tests of the crash policy: which crashes count against an image."""

from __future__ import annotations

import random
import signal

import pytest

from imgsvc.workers.crash_policy import (
    KILL_RETRY_DELAY_SECONDS,
    KILL_WINDOW_SECONDS,
    MAX_CRASHES,
    MAX_UNATTRIBUTED_CRASHES,
    UNKNOWN_EXIT,
    CrashPolicy,
    CrashRecord,
)

KILL = -signal.SIGKILL


@pytest.mark.parametrize("code", [-signal.SIGSEGV, -signal.SIGABRT, 0, 1, 3])
def test_third_crash_quarantines_image_even_if_other_workers_were_killed(code: int) -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    crash_policy.record_idle_crash(KILL, 0)
    assert [crash_policy.record_crash(record, code, now) for now in range(MAX_CRASHES)] == [
        0,
        0,
        None,
    ]


@pytest.mark.parametrize("code", [KILL, UNKNOWN_EXIT, None])
def test_third_kill_quarantines_image_if_no_other_worker_was_killed(code: int | None) -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    assert [crash_policy.record_crash(record, code, now) for now in range(3)] == [
        0,
        KILL_RETRY_DELAY_SECONDS,
        None,
    ]


@pytest.mark.parametrize("idle", [True, False])
def test_third_kill_does_not_quarantine_image_if_another_worker_was_killed(idle: bool) -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    assert crash_policy.record_crash(record, KILL, 0) == 0
    assert crash_policy.record_crash(record, KILL, 0.1) == KILL_RETRY_DELAY_SECONDS
    if idle:
        crash_policy.record_idle_crash(KILL, 0.5)
    else:
        crash_policy.record_crash(CrashRecord(), KILL, 0.5)
    assert crash_policy.record_crash(record, KILL, 1) is not None


def test_kill_of_another_worker_before_the_window_does_not_clear_image() -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    crash_policy.record_idle_crash(KILL, 0)
    later = KILL_WINDOW_SECONDS + 1
    assert [crash_policy.record_crash(record, KILL, later + i) for i in range(3)][-1] is None


def test_crash_of_another_worker_does_not_clear_image_of_kills() -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    crash_policy.record_idle_crash(-signal.SIGSEGV, 0)
    assert [crash_policy.record_crash(record, KILL, i) for i in range(3)][-1] is None


def test_unattributed_crashes_quarantine_image_at_their_limit() -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    crash_policy.record_idle_crash(KILL, 0)
    delays = [crash_policy.record_crash(record, KILL, 1) for _ in range(MAX_UNATTRIBUTED_CRASHES)]
    assert delays == [0.0] * (MAX_UNATTRIBUTED_CRASHES - 1) + [None]
    other = CrashRecord()
    assert [crash_policy.record_unattributed(other) for _ in range(MAX_UNATTRIBUTED_CRASHES)] == [
        0.0
    ] * (MAX_UNATTRIBUTED_CRASHES - 1) + [None]


def test_random_kills_quarantine_no_image() -> None:
    """About 10,000 kills, on average 0.2 s apart. A retried image is killed again in half the cases."""
    chance = random.Random(1)
    crash_policy, now = CrashPolicy(), 0.0
    for _ in range(5_000):
        record = CrashRecord()
        while True:
            now += chance.expovariate(5)
            assert crash_policy.record_crash(record, KILL, now) is not None
            if chance.random() < 0.5:
                break
