"""A queue in which everybody's things take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class FairQueue(Generic[_T]):
    """First in, first out for each owner, and owners take turns; what is put back goes first."""

    def __init__(self) -> None:
        self._first: deque[_T] = deque()
        self._owners: OrderedDict[Hashable, deque[_T]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[_T]:
        yield from self._first
        for things in self._owners.values():
            yield from things

    def put(self, owner: Hashable, thing: _T) -> None:
        self._owners.setdefault(owner, deque()).append(thing)
        self._length += 1

    def put_back(self, things: Iterable[_T]) -> None:
        """Let these be the next, in their order."""
        returned = list(things)
        self._first.extendleft(reversed(returned))
        self._length += len(returned)

    def next(self) -> _T:
        """Give the thing that `take` would take; raise IndexError where there is none."""
        if self._first:
            return self._first[0]
        for things in self._owners.values():
            return things[0]
        raise IndexError("nothing waits")

    def take(self) -> _T:
        """Take the next thing; its owner is then the last whose turn it is. Raises IndexError."""
        thing = self.next()
        self._length -= 1
        if self._first:
            return self._first.popleft()
        owner, things = self._owners.popitem(last=False)
        things.popleft()
        if things:
            self._owners[owner] = things
        return thing

    def discard(self, owner: Hashable, thing: _T) -> None:
        """Remove a thing, if it waits."""
        for things in (self._first, self._owners.get(owner)):
            if things is not None and thing in things:
                things.remove(thing)
                self._length -= 1
        if owner in self._owners and not self._owners[owner]:
            del self._owners[owner]

    def clear(self) -> None:
        self._first.clear()
        self._owners.clear()
        self._length = 0
