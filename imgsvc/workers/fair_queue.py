"""A queue that serves its owners by the time that their items take: least time first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_T = TypeVar("_T")

FIRST_ESTIMATE_SECONDS = 0.03
"""Estimated seconds of an owner's first item, in the order of an ordinary image."""
_ESTIMATE_WEIGHT = 0.25
"""Weight of an owner's newest item in the estimate of its next one."""
_MAX_IDLE_OWNERS = 256
"""Owners without items that are remembered, at least."""


@dataclass(slots=True)
class _Owner(Generic[_T]):
    """The items of an owner, the seconds charged to it, and the estimate of its next item."""

    used: float
    items: deque[_T] = field(default_factory=deque)
    estimate: float = FIRST_ESTIMATE_SECONDS


class FairQueue(Generic[_T]):
    """A queue that is first in, first out for each owner. The next owner is the one that used least.

    This is start-time fair queueing (Goyal, Vin and Cheng 1996). An owner that was away starts at the
    time at which the newest item was served, so that it neither gains nor loses by its absence.
    """

    def __init__(self) -> None:
        # Owners that used the same are served in the order of this dictionary.
        self._owners: OrderedDict[int, _Owner[_T]] = OrderedDict()
        self._virtual_time = 0.0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[_T]:
        for owner in self._owners.values():
            yield from owner.items

    def put(self, owner: int, item: _T) -> None:
        """Add an item behind the other items of its owner."""
        self._enter(owner).items.append(item)
        self._length += 1

    def requeue(self, owner: int, items: Iterable[_T]) -> None:
        """Put items before the other items of their owner, in their order."""
        requeued = list(items)
        self._enter(owner).items.extendleft(reversed(requeued))
        self._length += len(requeued)

    def next_owner(self) -> int:
        """Return the owner of the next item. Raise ValueError if the queue is empty."""
        waiting = (key for key, owner in self._owners.items() if owner.items)
        return min(waiting, key=lambda key: self._owners[key].used)

    def peek(self, owner: int) -> _T | None:
        """Return the first item of an owner, or None if it has no items."""
        found = self._owners.get(owner)
        return found.items[0] if found is not None and found.items else None

    def pop(self, owner: int) -> _T:
        """Remove and return the first item of an owner, which must have one.

        Charge the owner for the estimated time. Among those that used the same it becomes the last.
        """
        served = self._owners[owner]
        self._virtual_time = max(self._virtual_time, served.used)
        served.used += served.estimate
        self._owners.move_to_end(owner)
        self._length -= 1
        return served.items.popleft()

    def estimate(self, owner: int) -> float:
        """Return the estimated seconds of an item of this owner."""
        found = self._owners.get(owner)
        return FIRST_ESTIMATE_SECONDS if found is None else found.estimate

    def charge(self, owner: int, seconds: float) -> None:
        """Charge an owner for seconds beyond the estimate. Negative seconds are a refund."""
        if (found := self._owners.get(owner)) is not None:
            found.used += seconds

    def learn(self, owner: int, seconds: float) -> None:
        """Improve the estimate of an owner: one of its items has taken this time."""
        if (found := self._owners.get(owner)) is not None:
            found.estimate += _ESTIMATE_WEIGHT * (seconds - found.estimate)

    def used(self) -> dict[int, float]:
        """Return the seconds that owners have used more than an owner that enters now."""
        ahead = {key: owner.used - self._virtual_time for key, owner in self._owners.items()}
        return {key: seconds for key, seconds in ahead.items() if seconds > 0}

    def discard(self, owner: int, item: _T) -> None:
        """Remove an item if it is in the queue."""
        found = self._owners.get(owner)
        if found is not None and item in found.items:
            found.items.remove(item)
            self._length -= 1

    def clear(self) -> None:
        """Remove all items."""
        self._owners.clear()
        self._length = 0

    def _enter(self, key: int) -> _Owner[_T]:
        """Return an owner that is about to get an item."""
        owner = self._owners.get(key)
        if owner is None:
            self._forget_idle_owners()
            owner = self._owners[key] = _Owner(self._virtual_time)
        elif not owner.items:
            owner.used = max(owner.used, self._virtual_time)
        return owner

    def _forget_idle_owners(self) -> None:
        """Forget owners for which a new start makes no difference to the order, if they are many."""
        if len(self._owners) >= 2 * _MAX_IDLE_OWNERS:
            idle = [
                key
                for key, owner in self._owners.items()
                if not owner.items and owner.used <= self._virtual_time
            ]
            for key in idle[:-_MAX_IDLE_OWNERS]:
                del self._owners[key]
