"""A queue that serves its owners in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class FairQueue(Generic[_T]):
    """A round-robin queue: first in, first out for each owner. Requeued items come first."""

    def __init__(self) -> None:
        self._requeued: deque[_T] = deque()
        self._owners: OrderedDict[Hashable, deque[_T]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[_T]:
        yield from self._requeued
        for items in self._owners.values():
            yield from items

    def put(self, owner: Hashable, item: _T) -> None:
        """Add an item behind the other items of its owner."""
        self._owners.setdefault(owner, deque()).append(item)
        self._length += 1

    def requeue(self, items: Iterable[_T]) -> None:
        """Put items before all others, in their order."""
        requeued = list(items)
        self._requeued.extendleft(reversed(requeued))
        self._length += len(requeued)

    def peek(self) -> _T:
        """Return the item that `pop` would remove. Raise IndexError if the queue is empty."""
        if self._requeued:
            return self._requeued[0]
        for items in self._owners.values():
            return items[0]
        raise IndexError("the queue is empty")

    def pop(self) -> _T:
        """Remove and return the next item; its owner becomes the last in turn. Raise IndexError."""
        item = self.peek()
        self._length -= 1
        if self._requeued:
            return self._requeued.popleft()
        owner, items = self._owners.popitem(last=False)
        items.popleft()
        if items:
            self._owners[owner] = items
        return item

    def discard(self, owner: Hashable, item: _T) -> None:
        """Remove an item if it is in the queue."""
        for items in (self._requeued, self._owners.get(owner)):
            if items is not None and item in items:
                items.remove(item)
                self._length -= 1
        if owner in self._owners and not self._owners[owner]:
            del self._owners[owner]

    def clear(self) -> None:
        """Remove all items."""
        self._requeued.clear()
        self._owners.clear()
        self._length = 0
