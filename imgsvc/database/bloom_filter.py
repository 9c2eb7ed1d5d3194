"""Has this URL come before in the table? A cautious answer in a few bytes a URL."""

from __future__ import annotations

_SIZES = (1 << 14, 1 << 18, 1 << 22)
_BYTES_PER_TEXT = 4


class BloomFilter:
    """Remembers texts by hash alone.

    `add` may say of a new text that it came before (of about one in a hundred), but never of one that
    came before that it is new. A Bloom filter in layers: a small table costs 16 KiB, and a million
    URLs less than 5 MiB.
    """

    def __init__(self) -> None:
        self._full: list[bytearray] = []
        self._layer = bytearray(_SIZES[0])
        self._room = _SIZES[0] // _BYTES_PER_TEXT

    def add(self, text: str) -> bool:
        """Remember a text; tell whether it may have come before."""
        number = hash(text)
        bits = 1 << (number >> 40 & 7) | 1 << (number >> 48 & 7)
        for layer in self._full:
            if layer[number & (len(layer) - 1)] & bits == bits:
                return True
        layer = self._layer
        place = number & (len(layer) - 1)
        byte = layer[place]
        if byte & bits == bits:
            return True
        layer[place] = byte | bits
        self._room -= 1
        if not self._room:
            self._grow()
        return False

    def _grow(self) -> None:
        self._full.append(self._layer)
        size = _SIZES[min(len(self._full), len(_SIZES) - 1)]
        self._layer = bytearray(size)
        self._room = size // _BYTES_PER_TEXT
