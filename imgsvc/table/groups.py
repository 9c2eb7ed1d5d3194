"""Rows that belong to one product: their name, and the number of their images so far."""

from __future__ import annotations

from collections import OrderedDict

MAX_GROUPS = 10_000
"""Maximum number of products that are remembered, the latest ones."""
_MAX_KEY_LENGTH = 512
"""Longer group cells are remembered by their hash."""


class ProductGroup:
    """The rows of one product so far. `name` is the last name given in one of them, or ""."""

    __slots__ = ("images", "name")

    def __init__(self) -> None:
        self.name = ""
        self.images = 0


class ProductGroups:
    """Finds the product that a row belongs to.

    Rows with the same group cell belong to one product. A row without a group cell belongs to the
    product of the row above, unless it has a name of its own.
    """

    def __init__(self, limit: int = MAX_GROUPS) -> None:
        self._limit = limit
        self._groups: OrderedDict[object, ProductGroup] = OrderedDict()
        self._last = ProductGroup()

    def find(self, key: str, name: str) -> ProductGroup:
        """Return the group of a row with this group cell and this name; both may be "".

        The group takes the row's name.
        """
        if key:
            short = key if len(key) <= _MAX_KEY_LENGTH else (len(key), hash(key))
            group = self._groups.pop(short, None) or ProductGroup()
            self._groups[short] = group
            if len(self._groups) > self._limit:
                self._groups.popitem(last=False)
        elif name:
            group = ProductGroup()
        else:
            group = self._last
        if name:
            group.name = name
        self._last = group
        return group
