"""Fit Huffman tables to photographs, and print `imgsvc/images/native/huffman_tables.h`.

The native module writes these tables for `effort = "fast"`. They save the second pass that optimised
tables need, and most of the bytes that the tables of the standard (1992, fitted to a few photographs at
high quality) waste. Run `python3 -m tests.bench.huffman_tables > FILE`.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Iterator

from imgsvc.images.formats.jpeg_segments import DHT, FRAME_MARKERS, SOS, segments
from imgsvc.images.native import requantise
from tests import sample_images

QUALITY = 45
"""The quality of most outputs: half of the 90 that cameras and shops use."""
SIZES = ((500, 500), (1_200, 1_200), (320, 240))
IMAGES = 24
"""Images of each size."""
Key = tuple[str, int]
"""A table: DC or AC, and 0 for luminance or 1 for chrominance."""
LEGAL = {
    "DC": range(12),
    "AC": [0x00, 0xF0, *(run * 16 + bits for run in range(16) for bits in range(1, 11))],
}
"""The symbols that baseline coefficients can need (ITU-T T.81, annex F)."""
HEADER = """\
/* Huffman tables fitted to photographs at quality {quality}, printed by tests/bench/huffman_tables.py.

   `bits` are the numbers of codes of 1 to 16 bits; `symbols` are in the order of their codes. */
typedef struct {{
  unsigned char bits[16], symbols[162];
}} HuffmanTable;
"""


class BitReader:
    """Reads the coded data of a scan without restart markers."""

    def __init__(self, coded: bytes) -> None:
        self._window = self._window_bits = 0
        self._data = coded.replace(b"\xff\x00", b"\xff")
        self._position = 0

    def read(self, count: int) -> int:
        """Return the next bits as a number."""
        while self._window_bits < count:
            byte = self._data[self._position] if self._position < len(self._data) else 255
            self._window = self._window << 8 | byte
            self._window_bits += 8
            self._position += 1
        self._window_bits -= count
        value = self._window >> self._window_bits
        self._window &= (1 << self._window_bits) - 1
        return value

    def symbol(self, codes: dict[tuple[int, int], int]) -> int:
        """Return the next symbol of a Huffman table."""
        code = 0
        for length in range(1, 17):
            code = code << 1 | self.read(1)
            if (length, code) in codes:
                return codes[length, code]
        raise ValueError("not a Huffman code")


def code_table(lengths: bytes, symbols: bytes) -> dict[tuple[int, int], int]:
    """Return the symbol of each code, by length and code."""
    codes: dict[tuple[int, int], int] = {}
    code = position = 0
    for length, count in enumerate(lengths, 1):
        for _ in range(count):
            codes[length, code] = symbols[position]
            code, position = code + 1, position + 1
        code <<= 1
    return codes


def symbols_of(data: bytes) -> Iterator[tuple[Key, int]]:
    """Yield the symbols of a baseline JPEG with one scan, and the table of each."""
    tables: dict[Key, dict[tuple[int, int], int]] = {}
    for marker, start, end in segments(data):
        body = data[start + 4 : end]
        if marker == DHT:
            while body:
                count = sum(body[1:17])
                key = ("AC" if body[0] >> 4 else "DC", body[0] & 15)
                tables[key] = code_table(body[1:17], body[17 : 17 + count])
                body = body[17 + count :]
        elif marker in FRAME_MARKERS:
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            sampling = [(body[7 + 3 * n] >> 4, body[7 + 3 * n] & 15) for n in range(body[5])]
        elif marker == SOS:
            across, down = sampling[0]
            mcus = -(-width // (8 * across)) * -(-height // (8 * down))
            order = [min(n, 1) for n, (h, v) in enumerate(sampling) for _ in range(h * v)]
            yield from _scan_symbols(BitReader(body[4 + 2 * len(sampling) :]), tables, order * mcus)


def _scan_symbols(
    reader: BitReader, tables: dict[Key, dict[tuple[int, int], int]], order: list[int]
) -> Iterator[tuple[Key, int]]:
    for table in order:
        symbol = reader.symbol(tables["DC", table])
        yield ("DC", table), symbol
        reader.read(symbol)
        position = 1
        while position < 64:
            symbol = reader.symbol(tables["AC", table])
            yield ("AC", table), symbol
            if symbol == 0:
                break
            reader.read(symbol & 15)
            position += (symbol >> 4) + 1


def fitted_table(counts: dict[int, int]) -> tuple[list[int], list[int]]:
    """Return the numbers of codes of 1 to 16 bits, and the symbols (ITU-T T.81, annex K.2)."""
    weights = {symbol: max(1, count) for symbol, count in counts.items()}
    weights[256] = 0  # a reserved code, so that no code has only ones
    trees = [(weight, [symbol]) for symbol, weight in weights.items()]
    lengths = dict.fromkeys(weights, 0)
    while len(trees) > 1:
        trees.sort(key=lambda tree: (-tree[0], min(tree[1])))
        (one, left), (other, right) = trees.pop(), trees.pop()
        for symbol in left + right:
            lengths[symbol] += 1
        trees.append((one + other, left + right))
    bits = [0] * 64
    for length in lengths.values():
        bits[length] += 1
    for length in range(63, 16, -1):
        while bits[length]:
            shorter = max(each for each in range(length - 1) if bits[each])
            bits[length] -= 2
            bits[length - 1] += 1
            bits[shorter + 1] += 2
            bits[shorter] -= 1
    bits[max(length for length in range(17) if bits[length])] -= 1
    order = sorted(counts, key=lambda symbol: (lengths[symbol], -weights[symbol], symbol))
    return bits[1:17], order


def corpus() -> Iterator[bytes]:
    """Yield the photographs, and some products on white, as JPEGs."""
    for width, height in SIZES:
        for number in range(IMAGES):
            yield sample_images.encoded(1_000 + number, "jpg", width, height)


def main() -> None:
    counts = {(kind, table): Counter[int]() for kind in LEGAL for table in (0, 1)}
    for data in corpus():
        output = requantise(data, QUALITY, small=True)
        assert output is not None
        image = Counter(symbols_of(output))
        for (key, symbol), count in image.items():
            counts[key][symbol] += count
    out = io.StringIO()
    out.write(HEADER.format(quality=QUALITY))
    for kind, legal in LEGAL.items():
        out.write(f"\nstatic const HuffmanTable {kind}_TABLES[2] = {{\n")
        for table in (0, 1):
            bits, symbols = fitted_table({each: counts[kind, table][each] for each in legal})
            rows = [symbols[at : at + 20] for at in range(0, len(symbols), 20)]
            text = ",\n      ".join(", ".join(map(str, row)) for row in rows)
            out.write(f"    {{{{{', '.join(map(str, bits))}}},\n     {{{text}}}}},\n")
        out.write("};\n")
    sys.stdout.write(out.getvalue())


if __name__ == "__main__":
    main()
