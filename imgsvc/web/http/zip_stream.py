"""Streamed ZIP archives: uncompressed entries of known size, ZIP64 if needed. No seeking, no I/O.

Sizes and checksums are written before each entry's data, because streaming readers cannot find the end
of an uncompressed entry otherwise. Unlike `zipfile`, nothing is kept in memory for each entry: the
caller stores the central directory records.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime

from imgsvc.web.http.file_names import safe_name

ZIP64_LIMIT = 0xFFFF_FFFF
"""Sizes and offsets from this value on need ZIP64 fields."""
_MAX_ZIP_ENTRIES = 0xFFFF
"""Number of entries from which on ZIP64 records are needed."""
_UTF8_FLAG = 0x0800
"""General purpose flag: the name is UTF-8."""
_ZIP64_VERSION = 45
"""Version needed to extract an entry with ZIP64 fields: 4.5."""
_DEFAULT_VERSION = 20
"""Version needed to extract other entries: 2.0."""
_MAX_NAME_BYTES = 120
"""Maximum UTF-8 length of the part of a file name that comes from the product's name."""


class ZipBuilder:
    """Builds the headers and directory of an archive.

    `timestamp`, in Unix seconds, is the modification time of all entries.
    """

    def __init__(self, timestamp: float) -> None:
        time = datetime.fromtimestamp(timestamp, UTC)
        year = min(max(time.year, 1980), 2107)
        self._date = (year - 1980) << 9 | time.month << 5 | time.day
        self._time = time.hour << 11 | time.minute << 5 | time.second // 2
        self._offset = 0
        self._central_bytes = 0
        self._entries = 0

    def entry(self, name: str, size: int, crc: int) -> tuple[bytes, bytes]:
        """Return the local header of an entry and its central directory record.

        Raise `ValueError` if the entry has 4 GiB or more.
        """
        if size >= ZIP64_LIMIT:
            raise ValueError("an entry must be smaller than 4 GiB")
        encoded = name.encode()
        needs_zip64 = self._offset >= ZIP64_LIMIT
        version_needed = _ZIP64_VERSION if needs_zip64 else _DEFAULT_VERSION
        common = struct.pack(
            "<HHHHLLLH", _UTF8_FLAG, 0, self._time, self._date, crc, size, size, len(encoded)
        )
        local = (
            struct.pack("<4sH", b"PK\3\4", _DEFAULT_VERSION)
            + common
            + struct.pack("<H", 0)
            + encoded
        )
        extra = struct.pack("<HHQ", 1, 8, self._offset) if needs_zip64 else b""
        central = (
            struct.pack("<4sHH", b"PK\1\2", 3 << 8 | version_needed, version_needed)
            + common
            + struct.pack(
                "<HHHHLL",
                len(extra),
                0,
                0,
                0,
                0o100644 << 16,
                ZIP64_LIMIT if needs_zip64 else self._offset,
            )
            + encoded
            + extra
        )
        self._offset += len(local) + size
        self._central_bytes += len(central)
        self._entries += 1
        return local, central

    def end(self) -> bytes:
        """Return the records that follow the central directory."""
        entries, size, offset = self._entries, self._central_bytes, self._offset
        end64 = b""
        if entries >= _MAX_ZIP_ENTRIES or size >= ZIP64_LIMIT or offset >= ZIP64_LIMIT:
            version = 3 << 8 | _ZIP64_VERSION
            end64 = struct.pack(
                "<4sQHHLLQQQQ",
                b"PK\6\6",
                44,
                version,
                _ZIP64_VERSION,
                0,
                0,
                entries,
                entries,
                size,
                offset,
            ) + struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)
        entries = min(entries, _MAX_ZIP_ENTRIES)
        end = struct.pack(
            "<4sHHHHLLH",
            b"PK\5\6",
            0,
            0,
            entries,
            entries,
            min(size, ZIP64_LIMIT),
            min(offset, ZIP64_LIMIT),
            0,
        )
        return end64 + end


class ZipSizer:
    """Computes the size of an archive from the names and sizes of its entries."""

    def __init__(self) -> None:
        self._builder = ZipBuilder(0.0)
        self._data_bytes = 0

    def add(self, name: str, size: int) -> None:
        """Add an entry of `size` bytes."""
        local, central = self._builder.entry(name, size, 0)
        self._data_bytes += len(local) + size + len(central)

    def total_bytes(self) -> int:
        """Return the size of the archive with all entries added so far."""
        return self._data_bytes + len(self._builder.end())


class UniqueNames:
    """Assigns each product of an archive a unique file name stem."""

    def __init__(self) -> None:
        # Hashes need less memory than names. A collision only adds a number that is not needed.
        self._used: set[int] = set()

    def unique_stem(self, product: str, row: int) -> str:
        """Return the stem for a product. `row` is added if the name is used already, ignoring case."""
        name = safe_name(product, _MAX_NAME_BYTES) or "product"
        stem, attempts = name, 0
        while (key := hash(stem.casefold())) in self._used:
            attempts += 1
            stem = f"{name} ({row})" if attempts == 1 else f"{name} ({row}.{attempts})"
        self._used.add(key)
        return stem
