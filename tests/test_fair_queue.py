"""Owners take turns, whatever each of them has brought."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.workers.fair_queue import FairQueue


def taken(queue: FairQueue[str]) -> list[str]:
    things = []
    while queue:
        things.append(queue.next())
        assert queue.take() == things[-1]
    return things


def test_owners_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.put("large", f"L{number}")
    queue.put("small", "S0")
    queue.put("small", "S1")
    assert list(queue) == ["L0", "L1", "L2", "L3", "S0", "S1"]
    assert taken(queue) == ["L0", "S0", "L1", "S1", "L2", "L3"]


def test_what_is_put_back_goes_first_and_what_is_discarded_does_not_go() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put(1, "a")
    queue.put(1, "b")
    queue.put(2, "c")
    queue.put_back(["x", "y"])
    queue.discard(1, "b")
    queue.discard(2, "y")
    queue.discard(2, "unknown")
    assert len(queue) == 3
    assert taken(queue) == ["x", "a", "c"]
    with pytest.raises(IndexError):
        queue.take()


@given(st.lists(st.integers(0, 3)))
def test_nobody_is_overtaken_by_more_than_one_of_each(owners: list[int]) -> None:
    queue: FairQueue[str] = FairQueue()
    for number, owner in enumerate(owners):
        queue.put(owner, f"{owner}:{number}")
    order = taken(queue)
    assert sorted(order) == sorted(f"{o}:{n}" for n, o in enumerate(owners))
    left = Counter(owners)
    since: Counter[int] = Counter()
    for thing in order:
        owner = int(thing[0])
        left[owner] -= 1
        for other in left:
            since[other] = 0 if other == owner else since[other] + (left[other] > 0)
            assert since[other] <= len(left)
