"""Which death of a worker is whose."""

from __future__ import annotations

import random
import signal

import pytest

from imgsvc.workers.crash_policy import (
    KILL_PAUSE_SECONDS,
    LOST_LIMIT,
    MAX_CRASHES,
    MEMORY_SECONDS,
    UNKNOWN_EXIT,
    CrashPolicy,
    CrashRecord,
)

KILL = -signal.SIGKILL


@pytest.mark.parametrize("code", [-signal.SIGSEGV, -signal.SIGABRT, 0, 1, 3])
def test_the_third_crash_convicts_whatever_others_do(code: int) -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    crash_policy.idle_crash(KILL, 0)
    assert [crash_policy.crash(record, code, now) for now in range(MAX_CRASHES)] == [0, 0, None]


@pytest.mark.parametrize("code", [KILL, UNKNOWN_EXIT, None])
def test_the_third_kill_convicts_where_no_other_worker_was_killed(code: int | None) -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    assert [crash_policy.crash(record, code, now) for now in range(3)] == [
        0,
        KILL_PAUSE_SECONDS,
        None,
    ]


@pytest.mark.parametrize("idle", [True, False])
def test_kills_that_hit_others_as_well_convict_nobody_at_once(idle: bool) -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    assert crash_policy.crash(record, KILL, 0) == 0
    assert crash_policy.crash(record, KILL, 0.1) == KILL_PAUSE_SECONDS
    if idle:
        crash_policy.idle_crash(KILL, 0.5)
    else:
        crash_policy.crash(CrashRecord(), KILL, 0.5)
    assert crash_policy.crash(record, KILL, 1) is not None


def test_a_kill_long_ago_excuses_nobody() -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    crash_policy.idle_crash(KILL, 0)
    later = MEMORY_SECONDS + 1
    assert [crash_policy.crash(record, KILL, later + i) for i in range(3)][-1] is None


def test_a_crash_of_another_excuses_no_kill() -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    crash_policy.idle_crash(-signal.SIGSEGV, 0)
    assert [crash_policy.crash(record, KILL, i) for i in range(3)][-1] is None


def test_nothing_is_tried_for_ever() -> None:
    crash_policy, record = CrashPolicy(), CrashRecord()
    crash_policy.idle_crash(KILL, 0)
    tries = [crash_policy.crash(record, KILL, 1) for _ in range(LOST_LIMIT)]
    assert tries == [0.0] * (LOST_LIMIT - 1) + [None]
    lost = CrashRecord()
    assert [crash_policy.cleared(lost) for _ in range(LOST_LIMIT)] == [0.0] * (LOST_LIMIT - 1) + [
        None
    ]


def test_kills_at_random_convict_no_picture() -> None:
    """10,000 kills, 0.2 s apart, each of which hits a picture again that takes half that time."""
    chance = random.Random(1)
    crash_policy, now = CrashPolicy(), 0.0
    for _ in range(5_000):
        record = CrashRecord()
        while True:
            now += chance.expovariate(5)
            assert crash_policy.crash(record, KILL, now) is not None
            if chance.random() < 0.5:
                break
