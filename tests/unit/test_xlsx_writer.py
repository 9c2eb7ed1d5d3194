"""Writing .xlsx files: every cell is text, and other programs read the same text."""

from __future__ import annotations

import io
import warnings
import zipfile

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.table.xlsx_values import MAX_CELL_UNITS, MAX_COLUMNS, MAX_ROWS
from imgsvc.table.xlsx_writer import WorksheetLimitError, XlsxWriter
from tests.xlsx_files import table_of, written

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", '=IMAGE("https://a/1.jpg")', "00123", "1E5", "TRUE"]


def trimmed(row: list[str]) -> list[str]:
    while row and not row[-1]:
        row = row[:-1]
    return row


@given(st.lists(st.lists(st.text(max_size=20), max_size=4), max_size=5))
def test_written_table_is_read_back(rows: list[list[str]]) -> None:
    expected = {
        number: trimmed(row)
        for number, row in enumerate(rows, 1)
        if "".join(row) and not "".join(row).isspace()
    }
    readable = {  # XML cannot hold a lone surrogate, and neither can a file name or a URL
        number: [cell.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for cell in row]
        for number, row in expected.items()
    }
    assert table_of(written(*map(tuple, rows))) == readable


def test_another_library_reads_text_and_no_formulas() -> None:
    data = written(("S. No.", '<b> & "c"'), tuple(FORMULAS), ("", "😀\ttab", " a "))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no named style
        sheet = openpyxl.load_workbook(io.BytesIO(data)).active
    assert sheet is not None
    rows = [[cell.value for cell in row if cell.value is not None] for row in sheet.iter_rows()]
    assert rows == [["S. No.", '<b> & "c"'], FORMULAS, ["😀\ttab", " a "]]
    cells = [cell for row in sheet.iter_rows() for cell in row if cell.value is not None]
    assert {cell.data_type for cell in cells} <= {"s", "inlineStr"}
    assert {cell.number_format for cell in cells} == {"@"}


def test_parts_are_returned_while_rows_are_written() -> None:
    with XlsxWriter() as writer:
        parts = [
            writer.write([(str(n), f"https://a.example/{n * 7919}.jpg") for n in range(m, m + 500)])
            for m in range(0, 20_000, 500)
        ]
        end = writer.close()
    assert sum(map(bool, parts)) > 5
    with zipfile.ZipFile(io.BytesIO(b"".join([*parts, end]))) as archive:
        assert archive.testzip() is None


def test_cell_may_have_as_many_utf_16_units_as_excel_allows() -> None:
    assert table_of(written(("a" * MAX_CELL_UNITS,)))
    assert table_of(written(("😀" * (MAX_CELL_UNITS // 2),)))
    with (
        XlsxWriter() as writer,
        pytest.raises(WorksheetLimitError, match="Cell B2 has 32,768 char"),
    ):
        writer.write([("",), ("", "😀" * (MAX_CELL_UNITS // 2 + 1))])


def test_row_beyond_the_last_one_is_refused() -> None:
    with XlsxWriter() as writer:
        writer.write([()] * MAX_ROWS)
        with pytest.raises(WorksheetLimitError, match="more than 1,048,576 rows"):
            writer.write([()])


def test_row_with_too_many_columns_is_refused() -> None:
    with XlsxWriter() as writer:
        writer.write([("a",) * MAX_COLUMNS])
        with pytest.raises(WorksheetLimitError, match="Row 2 has 16,385 cells"):
            writer.write([("a",) * (MAX_COLUMNS + 1)])


def test_sheet_beyond_two_gigabytes_is_refused() -> None:
    refused = pytest.raises(WorksheetLimitError, match="too large for a worksheet, after row 20")
    with XlsxWriter(max_sheet_bytes=1_000) as writer, refused:
        writer.write([("a" * 50,)] * 20)
