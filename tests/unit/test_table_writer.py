"""Writing CSV as defined by RFC 4180."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.table.reader import TableReader
from imgsvc.table.writer import encode_rows

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from('\r\n\t", ;='))


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("", ""),
        ("a", "a"),
        ("a b", "a b"),
        ("a,b", '"a,b"'),
        ('a"b', '"a""b"'),
        ("a\rb", '"a\rb"'),
        ("a\nb", '"a\nb"'),
        (" a", '" a"'),
        ("a\u00a0", '"a\u00a0"'),
        ("=1+1", "=1+1"),
        ("a;b", "a;b"),
        ("ü日", "ü日"),
    ],
)
def test_encode_rows_quotes_cells_only_if_necessary(cell: str, written: str) -> None:
    quoted = '"x"' if written[:1] == '"' and cell.strip() != cell else "x"
    assert encode_rows([["x", cell], ["y", "z"]]).decode() == f"{quoted},{written}\r\ny,z\r\n"


def test_encode_rows_writes_empty_tables_and_empty_rows() -> None:
    assert encode_rows([]) == b""
    assert encode_rows([[""], ["a"]]) == b'""\r\na\r\n'


@given(st.lists(st.lists(TEXT, min_size=1, max_size=4), max_size=4))
def test_encode_rows_is_readable_by_csv_module(rows: list[list[str]]) -> None:
    assert (
        list(csv.reader(io.StringIO(encode_rows(rows).decode(), newline=""), strict=True)) == rows
    )


@given(st.lists(st.tuples(TEXT.filter(str.strip), TEXT, TEXT), min_size=1, max_size=4))
def test_encode_rows_is_readable_by_table_reader(rows: list[tuple[str, str, str]]) -> None:
    header = ["Product Name", "Input Image Urls", "S. No.", "Color"]
    table = encode_rows([header, *([name, "http://h/", *more] for name, *more in rows)])
    reader = TableReader()
    products = reader.feed(table) + reader.close()
    assert reader.errors == []
    assert [(p.name, p.serial_number, *p.extra) for p in products] == rows
