"""ZIP archives, written forwards: stored entries of known size, no seeking, ZIP64 where needed. Pure.

Sizes and checksums stand before each entry's data, not after: readers that stream can't find the end of
a stored entry otherwise. What `zipfile` keeps in memory for each entry is here the caller's to put
away.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from datetime import UTC, datetime

LIMIT = 0xFFFF_FFFF
_MOST_ENTRIES = 0xFFFF
_UTF8 = 0x0800
_ZIP64 = 45
_PLAIN = 20
_MOST_NAME_BYTES = 120

_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE
)


class Archive:
    """Gives the bytes that stand between the entries' data. `moment` is the entries' time."""

    def __init__(self, moment: float) -> None:
        time = datetime.fromtimestamp(moment, UTC)
        year = min(max(time.year, 1980), 2107)
        self._date = (year - 1980) << 9 | time.month << 5 | time.day
        self._time = time.hour << 11 | time.minute << 5 | time.second // 2
        self._offset = 0
        self._central_bytes = 0
        self._entries = 0

    def entry(self, name: str, size: int, crc: int) -> tuple[bytes, bytes]:
        """Give what stands before an entry's data, and its record in the directory at the end.

        An entry is smaller than 4 GiB.
        """
        if size >= LIMIT:
            raise ValueError("an entry must be smaller than 4 GiB")
        encoded = name.encode()
        far = self._offset >= LIMIT
        needs = _ZIP64 if far else _PLAIN
        common = struct.pack(
            "<HHHHLLLH", _UTF8, 0, self._time, self._date, crc, size, size, len(encoded)
        )
        local = struct.pack("<4sH", b"PK\3\4", _PLAIN) + common + struct.pack("<H", 0) + encoded
        extra = struct.pack("<HHQ", 1, 8, self._offset) if far else b""
        central = (
            struct.pack("<4sHH", b"PK\1\2", 3 << 8 | needs, needs)
            + common
            + struct.pack(
                "<HHHHLL", len(extra), 0, 0, 0, 0o100644 << 16, LIMIT if far else self._offset
            )
            + encoded
            + extra
        )
        self._offset += len(local) + size
        self._central_bytes += len(central)
        self._entries += 1
        return local, central

    def end(self) -> bytes:
        """Give what stands after the directory."""
        entries, size, offset = self._entries, self._central_bytes, self._offset
        end64 = b""
        if entries >= _MOST_ENTRIES or size >= LIMIT or offset >= LIMIT:
            version = 3 << 8 | _ZIP64
            end64 = struct.pack(
                "<4sQHHLLQQQQ", b"PK\6\6", 44, version, _ZIP64, 0, 0, entries, entries, size, offset
            ) + struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)
        entries = min(entries, _MOST_ENTRIES)
        end = struct.pack(
            "<4sHHHHLLH", b"PK\5\6", 0, 0, entries, entries, min(size, LIMIT), min(offset, LIMIT), 0
        )
        return end64 + end


class Measure:
    """Foretells an archive's size from its entries' names and sizes."""

    def __init__(self) -> None:
        self._archive = Archive(0.0)
        self._data_bytes = 0

    def add(self, name: str, size: int) -> None:
        local, central = self._archive.entry(name, size, 0)
        self._data_bytes += len(local) + size + len(central)

    def total(self) -> int:
        return self._data_bytes + len(self._archive.end())


def safe_name(text: str) -> str:
    """Make a product's name fit to begin a file's name, on any system.

    No folders, no characters or names that a system keeps for itself, not hidden, not too long.
    """
    text = unicodedata.normalize("NFC", text)
    kept = "".join(" " if c.isspace() else c for c in text if c.isspace() or c.isprintable())
    kept = re.sub(r'[<>:"/\\|?*~]+', "_", kept)
    kept = re.sub(r" +", " ", kept).strip(" .")
    kept = kept.encode("utf-8", "ignore")[:_MOST_NAME_BYTES].decode("utf-8", "ignore").strip(" .")
    return f"_{kept}" if _RESERVED.fullmatch(kept) else kept or "product"


class Names:
    """Gives each product a name that no other product of the archive has."""

    def __init__(self) -> None:
        # Hashes, not names: a clash of two costs one of them a needless number.
        self._taken: set[int] = set()

    def stem(self, product: str, row: int) -> str:
        """`row` tells products of the same name apart, on systems that ignore case as well."""
        name = safe_name(product)
        stem, tries = name, 0
        while (key := hash(stem.casefold())) in self._taken:
            tries += 1
            stem = f"{name} ({row})" if tries == 1 else f"{name} ({row}.{tries})"
        self._taken.add(key)
        return stem
