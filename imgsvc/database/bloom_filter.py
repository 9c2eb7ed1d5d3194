"""A Bloom filter that finds probable duplicate URLs of a table in a few bytes per URL."""

from __future__ import annotations

_LAYER_BYTES = (1 << 14, 1 << 18, 1 << 22)
"""Sizes of the first, the second, and all further layers."""
_BYTES_PER_TEXT = 4


class BloomFilter:
    """A set of texts, stored as hashes only.

    `add` may return True for a new text (about 1 in 100), but never returns False for a text that was
    added before. The filter grows in layers: a small table needs 16 KiB, a million URLs need less than
    5 MiB.
    """

    def __init__(self) -> None:
        self._full: list[bytearray] = []
        self._layer = bytearray(_LAYER_BYTES[0])
        self._capacity = _LAYER_BYTES[0] // _BYTES_PER_TEXT

    def add(self, text: str) -> bool:
        """Add a text. Return whether it may have been added before."""
        number = hash(text)
        bits = 1 << (number >> 40 & 7) | 1 << (number >> 48 & 7)
        for layer in self._full:
            if layer[number & (len(layer) - 1)] & bits == bits:
                return True
        layer = self._layer
        position = number & (len(layer) - 1)
        byte = layer[position]
        if byte & bits == bits:
            return True
        layer[position] = byte | bits
        self._capacity -= 1
        if not self._capacity:
            self._grow()
        return False

    def _grow(self) -> None:
        self._full.append(self._layer)
        size = _LAYER_BYTES[min(len(self._full), len(_LAYER_BYTES) - 1)]
        self._layer = bytearray(size)
        self._capacity = size // _BYTES_PER_TEXT
