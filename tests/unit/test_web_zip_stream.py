"""Tests of streamed ZIP archives, read back with the standard library."""

from __future__ import annotations

import io
import zipfile
import zlib
from datetime import UTC, datetime
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from imgsvc.web.http import zip_stream
from imgsvc.web.http.zip_stream import UniqueNames, ZipBuilder, ZipSizer

TIMESTAMP = datetime(2026, 7, 3, 12, 34, 56, tzinfo=UTC).timestamp()


def build(entries: list[tuple[str, bytes]]) -> bytes:
    """Return an archive, after checking that its size was computed correctly."""
    out, directory, sizer = bytearray(), bytearray(), ZipSizer()
    builder = ZipBuilder(TIMESTAMP)
    for name, data in entries:
        sizer.add(name, len(data))
        local, central = builder.entry(name, len(data), zlib.crc32(data))
        out += local + data
        directory += central
    out += directory + builder.end()
    assert len(out) == sizer.total_bytes()
    return bytes(out)


def check(data: bytes, entries: list[tuple[str, bytes]]) -> None:
    """Check that the standard library reads these entries, uncompressed and with their time."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        assert zipped.testzip() is None
        assert [(i.filename, zipped.read(i)) for i in zipped.infolist()] == entries
        for info in zipped.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (2026, 7, 3, 12, 34, 56)


@given(
    st.dictionaries(
        st.from_regex(r"[a-zäöü€字]{1,20}\.jpg", fullmatch=True), st.binary(max_size=300)
    )
)
def test_zip_round_trips_through_zipfile(files: dict[str, bytes]) -> None:
    check(build(list(files.items())), list(files.items()))


def test_zip64_is_used_when_offset_exceeds_limit() -> None:
    entries = [(f"{n}.bin", bytes([n]) * 100) for n in range(10)]
    with mock.patch.object(zip_stream, "ZIP64_LIMIT", 500):
        data = build(entries)
    # Readers look for the value 0xFFFFFFFF, but the patched limit writes 500.
    marked = data.replace((500).to_bytes(4, "little"), b"\xff\xff\xff\xff")
    check(marked, entries)


def test_zip64_is_used_when_entry_count_exceeds_limit() -> None:
    entries = [(f"{n}", b"") for n in range(70_000)]
    with zipfile.ZipFile(io.BytesIO(build(entries))) as zipped:
        assert zipped.namelist() == [name for name, _ in entries]


def test_unique_stem_differs_for_products_with_same_name() -> None:
    names = UniqueNames()
    products = ["Lamp", "lamp", "LAMP", "Lamp (2)", "Lamp (5)", "Lamp"]
    stems = [names.unique_stem(name, row) for row, name in enumerate(products, 1)]
    assert stems[0] == "Lamp"
    assert len({stem.casefold() for stem in stems}) == len(products)
