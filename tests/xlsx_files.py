""".xlsx files for tests, made of XML, so that they can be as unusual or as hostile as a test needs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from imgsvc.table.xlsx import PieceDecoder, RowBatch, read_rows
from imgsvc.table.xlsx_writer import XlsxWriter

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
HEADER = ("Product Name", "Input Image Urls")


def relations(*targets: tuple[str, str]) -> str:
    """Return the XML of a part's relations: pairs of type and target. Their ids are rId1, rId2 etc."""
    items = "".join(
        f'<Relationship Id="rId{n}" Type="{RELATIONS}/{kind}" Target="{target}"/>'
        for n, (kind, target) in enumerate(targets, 1)
    )
    return f'<Relationships xmlns="{PACKAGE}">{items}</Relationships>'


def worksheet(rows: str) -> str:
    """Return the XML of a worksheet with these `row` elements."""
    return f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>'


def text_row(number: int, *cells: str) -> str:
    """Return a `row` element with these texts, which are XML."""
    items = "".join(f'<c t="inlineStr"><is><t>{cell}</t></is></c>' for cell in cells)
    return f'<row r="{number}">{items}</row>'


def workbook(
    *sheets: str, states: Mapping[int, str] | None = None, properties: str = ""
) -> dict[str, str]:
    """Return the parts of a workbook with these worksheets. `states` hides some of them, by index."""
    hidden = states or {}
    items = "".join(
        f'<sheet name="Sheet{n}" sheetId="{n}" state="{hidden.get(n - 1, "visible")}" r:id="rId{n}"/>'
        for n in range(1, len(sheets) + 1)
    )
    targets = [("worksheet", f"worksheets/sheet{n}.xml") for n in range(1, len(sheets) + 1)]
    return {
        "_rels/.rels": relations(("officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}">{properties}'
        f"<sheets>{items}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": relations(
            *targets, ("sharedStrings", "sharedStrings.xml"), ("styles", "styles.xml")
        ),
        **{f"xl/worksheets/sheet{n}.xml": sheet for n, sheet in enumerate(sheets, 1)},
    }


def shared_strings(*items: str) -> str:
    """Return the XML of shared strings. Each item is the content of an `si` element."""
    return f'<sst xmlns="{MAIN}">{"".join(f"<si>{item}</si>" for item in items)}</sst>'


def styles(*formats: int | str) -> str:
    """Return the XML of styles. Style n has the number format n: a number, or a format code."""
    codes = "".join(
        f'<numFmt numFmtId="{200 + n}" formatCode="{code}"/>'
        for n, code in enumerate(formats)
        if isinstance(code, str)
    )
    cells = "".join(
        f'<xf numFmtId="{code if isinstance(code, int) else 200 + n}"/>'
        for n, code in enumerate(formats)
    )
    return (
        f'<styleSheet xmlns="{MAIN}"><numFmts>{codes}</numFmts><cellStyleXfs><xf numFmtId="14"/>'
        f"</cellStyleXfs><cellXfs>{cells}</cellXfs></styleSheet>"
    )


def zipped(parts: Mapping[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a ZIP archive of these parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def one_sheet(rows: str, **more: str) -> bytes:
    """Return an .xlsx file with one worksheet, and with more parts: `styles=`, `sharedStrings=`."""
    extra = {f"xl/{name}.xml": content for name, content in more.items()}
    return zipped({**workbook(worksheet(rows)), **extra})


def written(*rows: tuple[str, ...]) -> bytes:
    """Return an .xlsx file with these rows, made by the service's own writer."""
    with XlsxWriter() as writer:
        return writer.write(rows) + writer.close()


def batches(data: bytes, max_bytes: int = 2**30) -> list[RowBatch]:
    """Return what the service reads from an .xlsx file. Raise `XlsxError` if it is invalid."""
    decoder = PieceDecoder()
    return [
        batch for piece in read_rows(io.BytesIO(data), max_bytes) for batch in decoder.feed(piece)
    ]


def table_of(data: bytes) -> dict[int, list[str]]:
    """Return the cells of an .xlsx file by row."""
    return {
        first + index: cells for first, rows in batches(data) for index, cells in enumerate(rows)
    }
