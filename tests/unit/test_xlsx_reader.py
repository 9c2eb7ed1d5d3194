"""Reading .xlsx files: what programs write, and what attackers write."""

from __future__ import annotations

import io
import time
import tracemalloc
import zipfile
from datetime import datetime

import openpyxl
import pytest

from imgsvc.errors import FileErrorCode
from imgsvc.table.xlsx import LINE_BYTES, MAX_PIECE_BYTES, read_rows
from imgsvc.table.xlsx_package import XlsxError
from tests.xlsx_files import (
    HEADER,
    MAIN,
    batches,
    one_sheet,
    shared_strings,
    styles,
    table_of,
    text_row,
    workbook,
    worksheet,
    written,
    zipped,
)


def error_of(data: bytes, max_bytes: int = 2**30) -> XlsxError:
    with pytest.raises(XlsxError) as caught:
        batches(data, max_bytes)
    return caught.value


# --- what programs write ---------------------------------------------------------------------------


def test_rows_of_another_library_are_read() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["Product Name", "Input Image Urls", "Price", "Since", "Changed", "Sold"])
    now = datetime(2026, 11, 28, 14, 5)  # noqa: DTZ001
    sheet.append(["Lamp & <co>", "https://a.example/1.jpg", 19.99, now.date(), now, True])
    sheet["A5"] = "00123\n"
    file = io.BytesIO()
    book.save(file)
    assert table_of(file.getvalue()) == {
        1: ["Product Name", "Input Image Urls", "Price", "Since", "Changed", "Sold"],
        2: [
            "Lamp & <co>",
            "https://a.example/1.jpg",
            "19.99",
            "2026-11-28",
            "2026-11-28 14:05:00",
            "TRUE",
        ],
        5: ["00123\n"],
    }


def test_cells_of_every_type_are_text() -> None:
    row = (
        '<row r="3"><c r="A3" t="s"><v>1</v></c><c r="C3" t="str"><f>A1</f><v>a_x0041_</v></c>'
        '<c r="D3" t="b"><v>0</v></c><c r="E3" t="e"><v>#N/A</v></c><c r="F3"><v>1E2</v></c>'
        '<c r="G3" s="1"><v>46354</v></c><c r="H3" s="2"><v>46354.5</v></c>'
        '<c r="I3" t="d"><v>2026-11-28T00:00:00</v></c>'
        '<c r="J3" t="inlineStr"><is><r><t>in</t></r><r><t xml:space="preserve">line </t></r></is></c>'
        '<c r="K3" s="9"/></row>'
    )
    strings = shared_strings(
        "<t>unused</t>", "<r><t>東</t></r><r><t>京</t></r><rPh><t>とう</t></rPh>"
    )
    data = one_sheet(row, sharedStrings=strings, styles=styles(0, 14, "yyyy\\-mm\\-dd hh:mm"))
    assert table_of(data) == {
        3: [
            "東京",
            "",
            "aA",
            "FALSE",
            "#N/A",
            "100",
            "2026-11-28",
            "2026-11-28 12:00:00",
            "2026-11-28",
            "inline ",
        ]
    }


def test_workbook_may_count_days_from_1904() -> None:
    parts = workbook(
        worksheet('<row r="1"><c r="A1" s="0"><v>44892</v></c></row>'),
        properties='<workbookPr date1904="1"/>',
    )
    assert table_of(zipped({**parts, "xl/styles.xml": styles(14)})) == {1: ["2026-11-28"]}


def test_rows_and_cells_without_a_reference_follow_each_other() -> None:
    first = "<row><c><v>1</v></c><c><v>2</v></c></row>"
    fourth = '<row r="4"><c r="B4"><v>3</v></c><c><v>4</v></c></row>'
    assert table_of(one_sheet(first + fourth)) == {1: ["1", "2"], 4: ["", "3", "4"]}


def test_elements_with_a_namespace_prefix_are_read() -> None:
    parts = workbook(
        f'<x:worksheet xmlns:x="{MAIN}"><x:sheetData><x:row r="1"><x:c r="A1"><x:v>5</x:v></x:c>'
        "</x:row></x:sheetData></x:worksheet>"
    )
    assert table_of(zipped(parts)) == {1: ["5"]}


def test_names_of_parts_may_differ_in_case_and_slashes() -> None:
    parts = workbook(worksheet(text_row(1, "a")))
    parts["XL\\WorkSheets\\Sheet1.xml"] = parts.pop("xl/worksheets/sheet1.xml")
    parts["xl/_rels/workbook.xml.rels"] = parts["xl/_rels/workbook.xml.rels"].replace(
        "worksheets/", "/xl/worksheets/"
    )
    assert table_of(zipped(parts)) == {1: ["a"]}


def test_merged_cell_has_its_value_in_its_first_cell() -> None:
    first = '<row r="1"><c r="A1"><v>1</v></c><c r="B1"/></row>'
    second = '<row r="2"><c r="A2"/><c r="B2"><v>2</v></c></row>'
    merged = worksheet(first + second).replace(
        "</sheetData>", '</sheetData><mergeCell ref="A1:A2"/>'
    )
    assert table_of(zipped(workbook(merged))) == {1: ["1"], 2: ["", "2"]}


def test_first_sheet_with_a_recognised_layout_is_read() -> None:
    cover, products = worksheet(text_row(1, "Prices")), worksheet(text_row(3, *HEADER))
    assert table_of(zipped(workbook(cover, products))) == {3: [*HEADER]}
    late = worksheet(text_row(11, *HEADER))
    assert table_of(zipped(workbook(cover, late))) == {1: ["Prices"]}


def test_formula_without_a_value_matters_only_in_the_sheet_that_is_read() -> None:
    cover = worksheet('<row r="1"><c r="A1"><f>TODAY()</f></c></row>')
    assert table_of(zipped(workbook(cover, worksheet(text_row(1, *HEADER))))) == {1: [*HEADER]}


def test_formula_without_a_value_below_the_header_is_an_error_of_its_sheet() -> None:
    formula = '<row r="2"><c r="A2"><f>1+1</f></c></row>'
    sheets = workbook(worksheet(text_row(1, "Notes")), worksheet(text_row(1, *HEADER) + formula))
    assert error_of(zipped(sheets)).row == 2


def test_hidden_sheets_are_read_only_if_none_is_visible() -> None:
    hidden, shown = worksheet(text_row(1, *HEADER)), worksheet(text_row(1, "a"))
    assert table_of(zipped(workbook(hidden, shown, states={0: "veryHidden"}))) == {1: ["a"]}
    assert table_of(zipped(workbook(hidden, states={0: "hidden"}))) == {1: [*HEADER]}


@pytest.mark.parametrize("cell", ["<f>SUM(B1:B2)</f>", "<f>SUM(B1:B2)</f><v></v>", "<f/>"])
def test_formula_without_a_cached_value_is_an_error_that_names_the_cell(cell: str) -> None:
    error = error_of(one_sheet(f'<row r="7"><c r="AB7">{cell}</c></row>'))
    assert error.code is FileErrorCode.EMPTY_VALUE
    assert error.row == 7
    assert "Cell AB7 has a formula" in error.message
    assert "save it again" in error.message


def test_formula_with_an_empty_text_is_an_empty_cell() -> None:
    cells = (
        '<c r="A1" t="str"><f>""</f><v></v></c><c r="B1" t="inlineStr"><f>""</f><is><t/></is></c>'
        '<c r="C1"><v>1</v></c>'
    )
    assert table_of(one_sheet(f'<row r="1">{cells}</row>')) == {1: ["", "", "1"]}


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('<c r="A1" t="e"><f>_xlfn.IMAGE("https://a/1.jpg")</f><v>#VALUE!</v></c>', "IMAGE"),
        ('<c r="A1"><f>IMAGE("https://a/1.jpg")</f></c>', "IMAGE"),
        ('<c r="A1"><f>HYPERLINK("https://a/1.jpg")</f></c>', "HYPERLINK"),
    ],
)
def test_formula_with_a_url_is_passed_on_if_it_has_no_value(cell: str, text: str) -> None:
    assert table_of(one_sheet(f'<row r="1">{cell}</row>')) == {1: [f'={text}("https://a/1.jpg")']}


def test_formula_with_an_error_value_gives_its_text() -> None:
    cell = '<c r="A1" t="e"><f>1/0</f><v>#DIV/0!</v></c>'
    assert table_of(one_sheet(f'<row r="1">{cell}</row>')) == {1: ["#DIV/0!"]}


def test_hyperlink_formula_gives_its_cached_text() -> None:
    cell = '<c r="A1" t="str"><f>HYPERLINK("https://a/","Lamp")</f><v>Lamp</v></c>'
    assert table_of(one_sheet(f'<row r="1">{cell}</row>')) == {1: ["Lamp"]}


# --- pieces ----------------------------------------------------------------------------------------


def test_pieces_are_small_even_if_a_row_is_long() -> None:
    rows = [("n", "x" * 32_767), *(("a", str(n)) for n in range(5_000)), ("y" * 30_000,) * 100]
    data = written(*rows)
    pieces = list(read_rows(io.BytesIO(data), 2**30))
    assert max(map(len, pieces)) <= MAX_PIECE_BYTES
    assert len(pieces[0]) < 3 * LINE_BYTES
    assert list(table_of(data).values()) == [list(row) for row in rows]


# --- other files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ({"mimetype": "application/vnd.oasis.opendocument.spreadsheet", "content.xml": ""}, ".ods"),
        ({"xl/workbook.bin": b"\x83"}, ".xlsb"),
        ({"word/document.xml": "<w/>"}, "Word"),
        ({"Index/Document.iwa": ""}, "Numbers"),
        ({"products.csv": "a,b"}, "a ZIP archive"),
    ],
)
def test_other_archives_are_not_csv_and_say_how_to_export(
    parts: dict[str, str | bytes], kind: str
) -> None:
    error = error_of(zipped(parts))
    assert error.code is FileErrorCode.NOT_CSV
    assert kind in error.message
    assert "or as .xlsx, and upload" in error.message


def test_archive_with_a_password_says_so() -> None:
    data = bytearray(one_sheet(text_row(1, "a")))
    flags = 0
    while (flags := data.find(b"PK\1\2", flags + 1)) >= 0:
        data[flags + 8] |= 1
    error = error_of(bytes(data))
    assert error.code is FileErrorCode.NOT_CSV
    assert "password" in error.message


def damaged_files() -> dict[str, bytes]:
    good = one_sheet(text_row(1, *HEADER) + text_row(2, "a", "https://a/1.jpg"))
    flipped = bytearray(written(*[(str(n), "https://a/1.jpg") for n in range(1_000)]))
    flipped[len(flipped) // 2] ^= 0xFF
    cut = worksheet(text_row(1, "a"))[:-30]
    no_target = workbook(worksheet(""))
    del no_target["xl/worksheets/sheet1.xml"]
    return {
        "cut": good[: len(good) // 2],
        "flipped": bytes(flipped),
        "xml": zipped(workbook(cut)),
        "empty part": zipped(workbook("")),
        "no part": zipped(no_target),
        "no sheet": zipped(workbook()),
        "bzip2": zipped(workbook(worksheet(text_row(1, "a"))), zipfile.ZIP_BZIP2),
        "lzma": zipped(workbook(worksheet(text_row(1, "a"))), zipfile.ZIP_LZMA),
        "row order": one_sheet(text_row(5, "a") + text_row(4, "b")),
        "row number": one_sheet(text_row(1_048_577, "a")),
        "row text": one_sheet('<row r="x"/>'),
        "column": one_sheet('<row r="1"><c r="XFE1"><v>1</v></c></row>'),
        "shared string": one_sheet('<row r="1"><c r="A1" t="s"><v>99</v></c></row>'),
        "encoding": zipped(workbook('<?xml version="1.0" encoding="EBCDIC"?><a/>')),
    }


@pytest.mark.parametrize(("name", "data"), damaged_files().items(), ids=list(damaged_files()))
def test_damaged_file_is_not_csv_and_says_how_to_export(name: str, data: bytes) -> None:
    error = error_of(data)
    assert error.code is FileErrorCode.NOT_CSV
    assert error.message.startswith("The .xlsx file is damaged: ")
    assert "or as .xlsx, and upload" in error.message


def test_part_that_is_larger_than_its_directory_says_is_damaged() -> None:
    data = one_sheet(text_row(1, "x" * 100_000))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = archive.getinfo("xl/worksheets/sheet1.xml").file_size
    assert error_of(data.replace(size.to_bytes(4, "little"), (50).to_bytes(4, "little"))).code is (
        FileErrorCode.NOT_CSV
    )


# --- hostile files -----------------------------------------------------------------------------------


def peak_of(data: bytes, max_bytes: int = 2**30) -> tuple[int, XlsxError | None]:
    """Read a file. Return the highest use of memory in bytes, and its error."""
    tracemalloc.start()
    try:
        decoder_error = None
        try:
            for piece in read_rows(io.BytesIO(data), max_bytes):
                assert len(piece) <= MAX_PIECE_BYTES
        except XlsxError as error:
            decoder_error = error
        return tracemalloc.get_traced_memory()[1], decoder_error
    finally:
        tracemalloc.stop()


def test_zip_bomb_is_too_large_before_it_is_unpacked() -> None:
    data = one_sheet(text_row(1, "a" * 50_000_000))
    assert len(data) < 100_000
    error = error_of(data, 2**20)
    assert error.code is None
    assert "1 MiB when it is unpacked" in error.message
    assert "Split it" in error.message


def test_long_cell_is_too_long_and_is_not_kept() -> None:
    data = one_sheet(text_row(1, *HEADER) + text_row(2, "a" * 40_000_000))
    error = error_of(data)
    assert error.code is FileErrorCode.TOO_LONG
    assert error.row == 2
    peak, _ = peak_of(data)
    assert peak < 40_000_000


def test_long_shared_string_is_too_long() -> None:
    strings = shared_strings(f"<t>{'a' * 20_000_000}</t>")
    assert error_of(one_sheet("", sharedStrings=strings)).code is FileErrorCode.TOO_LONG


def test_shared_string_in_every_cell_is_limited() -> None:
    rows = "".join(f'<row r="{n}"><c t="s"><v>0</v></c></row>' for n in range(1, 2_001))
    data = one_sheet(rows, sharedStrings=shared_strings(f"<t>{'a' * 100_000}</t>"))
    peak, _ = peak_of(data, 2**23)
    assert peak < 2**23
    error = error_of(data, 2**23)
    assert error.code is None
    assert "The table in the .xlsx file is larger than 8 MiB" in error.message


def test_million_empty_rows_take_no_memory() -> None:
    empty = "".join(f'<row r="{n}"><c r="A{n}"/></row>' for n in range(2, 100_001))
    data = one_sheet(
        text_row(1, *HEADER) + empty + '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    )
    peak, error = peak_of(data)
    assert error is None
    assert peak < 10_000_000
    (first, header), (last, cells) = batches(data)
    assert (first, header, last, cells[0][-1]) == (1, [[*HEADER]], 1_048_576, "1")


def test_declared_size_is_ignored() -> None:
    sheet = worksheet(text_row(1, "a")).replace(
        "<sheetData>", '<dimension ref="A1:XFD1048576"/><sheetData>'
    )
    assert batches(zipped(workbook(sheet))) == [(1, [["a"]])]


@pytest.mark.parametrize("part", ["xl/worksheets/sheet1.xml", "xl/workbook.xml", "_rels/.rels"])
def test_document_type_declaration_is_refused(part: str) -> None:
    parts = workbook(worksheet(text_row(1, "&bomb;")))
    entities = '<!ENTITY a "ha"><!ENTITY bomb "&a;&a;"><!ENTITY x SYSTEM "file:///etc/passwd">'
    parts[part] = f"<!DOCTYPE r [{entities}]>{parts[part]}"
    error = error_of(zipped(parts))
    assert error.code is FileErrorCode.NOT_CSV
    assert "document type declaration" in error.message


def test_deeply_nested_elements_are_read() -> None:
    deep = "<a>" * 200_000 + "</a>" * 200_000
    sheet = f'<worksheet xmlns="{MAIN}">{deep}<sheetData>{text_row(1, "a")}</sheetData></worksheet>'
    assert table_of(zipped(workbook(sheet))) == {1: ["a"]}


def test_many_sheets_are_searched_in_little_time() -> None:
    start = time.process_time()
    sheets = [worksheet(text_row(1, "a"))] * 500
    assert table_of(zipped(workbook(*sheets))) == {1: ["a"]}
    assert time.process_time() - start < 30
