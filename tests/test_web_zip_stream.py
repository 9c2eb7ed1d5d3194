"""ZIP archives, held against the standard library's reader."""

from __future__ import annotations

import io
import zipfile
import zlib
from datetime import UTC, datetime
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from imgsvc.web import zip_stream
from imgsvc.web.zip_stream import Archive, Measure, Names, safe_name

MOMENT = datetime(2026, 7, 3, 12, 34, 56, tzinfo=UTC).timestamp()


def build(entries: list[tuple[str, bytes]]) -> bytes:
    out, directory, size = b"", b"", Measure()
    zipped = Archive(MOMENT)
    for name, data in entries:
        size.add(name, len(data))
        local, central = zipped.entry(name, len(data), zlib.crc32(data))
        out += local + data
        directory += central
    out += directory + zipped.end()
    assert len(out) == size.total()
    return out


def check(data: bytes, entries: list[tuple[str, bytes]]) -> None:
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
def test_it_is_read_as_it_was_written(files: dict[str, bytes]) -> None:
    check(build(list(files.items())), list(files.items()))


def test_zip64_takes_over_where_offsets_are_too_large() -> None:
    entries = [(f"{n}.bin", bytes([n]) * 100) for n in range(10)]
    with mock.patch.object(zip_stream, "LIMIT", 500):
        data = build(entries)
    # The reader looks for the marks of 32 bits, which a limit for the test does not write.
    marked = data.replace((500).to_bytes(4, "little"), b"\xff\xff\xff\xff")
    check(marked, entries)


def test_zip64_takes_over_where_entries_are_too_many() -> None:
    entries = [(f"{n}", b"") for n in range(70_000)]
    with zipfile.ZipFile(io.BytesIO(build(entries))) as zipped:
        assert zipped.namelist() == [name for name, _ in entries]


@given(st.text(max_size=300))
def test_a_name_is_safe_everywhere(text: str) -> None:
    name = safe_name(text)
    assert name
    assert len(name.encode()) <= 121
    assert not set(name) & set('<>:"/\\|?*\0')
    assert name == name.strip(" .")
    assert name.isprintable()
    assert safe_name(name) == name or name.startswith("_")


def test_names_that_would_do_harm() -> None:
    cases = {
        "../../etc/passwd": "_.._etc_passwd",
        "C:\\Windows\\x": "C_Windows_x",
        "CON": "_CON",
        "lpt1.jpg": "_lpt1.jpg",
        ".hidden": "hidden",
        "a\nb\tc": "a b c",
        "a\u202egpj.exe": "agpj.exe",
        "...": "product",
        "": "product",
        "Lamp, desk": "Lamp, desk",
        "e\u0301": "é",
    }
    assert {text: safe_name(text) for text in cases} == cases


def test_products_of_one_name_are_told_apart() -> None:
    names = Names()
    given = ["Lamp", "lamp", "LAMP", "Lamp (2)", "Lamp (5)", "Lamp"]
    stems = [names.stem(name, row) for row, name in enumerate(given, 1)]
    assert stems[0] == "Lamp"
    assert len({stem.casefold() for stem in stems}) == len(given)
