"""Properties of the table reader for any table and for any bytes."""

from __future__ import annotations

import csv
import io
import random
import re
from dataclasses import dataclass

from hypothesis import example, given
from hypothesis import strategies as st

from imgsvc.table.cells import join_urls
from imgsvc.table.reader import TableReader
from imgsvc.table.writer import encode_rows, input_row
from imgsvc.table_types import ColumnRole, InputTable, Product
from imgsvc.urls import WHITE_SPACE
from tests.harness.tables import whole_row

# --- tables as spreadsheet programs write them -------------------------------------------------------

CELL = st.text(
    st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from(',;\t\r\n"= '), max_size=8
)
WESTERN = st.text(st.sampled_from('äöüßéÄ,;\t\r\n"= abcxyz'), max_size=8).filter(
    lambda text: re.search("[äöüßéÄ]{3}", text) is None  # which is implausible
)
URL = st.sampled_from(
    [
        "https://a.example/1.jpg",
        "http://b.example/w_100,h_100/2.jpg?x=1;y=2&z=%2F",
        "https://c.example/my photo.jpg",
        "HTTPS://D.example:8443/x?u=http://e/f",
        "https://bücher.example/ü.jpg",
    ]
)


EMPTY = st.sampled_from(["", "", " ", "\t"])


@dataclass
class Sheet:
    """A generated table. `kept` are the numbers of the columns that the reader must keep."""

    names: list[str]
    roles: list[ColumnRole]
    rows: list[list[str]]
    urls: list[list[str]]
    kept: list[int]

    @property
    def width(self) -> int:
        return 1 + max(number for number, name in enumerate(self.names) if name.strip())


@st.composite
def sheets(draw: st.DrawFn, cell: st.SearchStrategy[str]) -> Sheet:
    serial = draw(st.booleans())
    extras = draw(st.lists(cell.map(lambda text: f"Extra {text}") | EMPTY, max_size=5))
    columns = [("Product Name", ColumnRole.NAME), ("input_image_urls", ColumnRole.IMAGE)]
    columns += [("S. No.", ColumnRole.SERIAL)] * serial + [
        (name, ColumnRole.EXTRA) for name in extras
    ]
    columns = draw(st.permutations(columns))
    names, roles = [name for name, _ in columns], [role for _, role in columns]
    sheet = Sheet(names, roles, [], [], [])
    padding = sheet.width if roles[sheet.width - 1] is ColumnRole.IMAGE else len(names)
    cells = [cell] * len(names)
    for number, name in enumerate(names):
        if not name.strip():
            cells[number] = EMPTY if number >= padding or draw(st.booleans()) else EMPTY | cell
    for _ in range(draw(st.integers(1, 4))):
        images = draw(st.lists(URL, min_size=1, max_size=3))
        cells[roles.index(ColumnRole.NAME)] = cell.filter(str.strip)
        cells[roles.index(ColumnRole.IMAGE)] = st.just(join_urls(images))
        sheet.rows.append([draw(strategy) for strategy in cells])
        sheet.urls.append(images)
    for number, name in enumerate(names):
        if name.strip() or any(row[number].strip(WHITE_SPACE) for row in sheet.rows):
            sheet.kept.append(number)
    return sheet


@st.composite
def encoded_sheets(draw: st.DrawFn) -> tuple[Sheet, bytes]:
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]))
    sheet = draw(sheets(WESTERN if encoding == "cp1252" else CELL))
    delimiter = draw(st.sampled_from(",;\t|"))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    all_quoted = draw(st.booleans())

    def quoted(value: str) -> str:
        if all_quoted or any(mark in value for mark in f'{delimiter}"\r\n'):
            return '"' + value.replace('"', '""') + '"'
        return value

    lines = [delimiter.join(map(quoted, sheet.names))]
    for row in sheet.rows:
        end_of_row = len(row)
        while end_of_row > sheet.width and not row[end_of_row - 1] and draw(st.booleans()):
            end_of_row -= 1
        lines.append(delimiter.join(map(quoted, row[:end_of_row])))
    text = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    return sheet, mark + text.encode(encoding)


def read(data: bytes, cuts: list[int]) -> tuple[list[Product], TableReader]:
    reader = TableReader()
    products: list[Product] = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        products += reader.feed(data[at:cut])
        at = max(at, cut)
    products += reader.close()
    return products, reader


def reader_state(products: list[Product], reader: TableReader) -> object:
    known = [] if reader.refused else products
    return known, reader.errors, reader.error_count, reader.table, reader.products, reader.images


def unchanged_row(product: Product, table: InputTable) -> list[str]:
    """Return a product's row with its own URLs as outputs."""
    urls = [image.text for image in product.images]
    return list(input_row(table.columns, whole_row(product), urls))


CUTS = st.lists(st.integers(0, 300), max_size=5)


@given(encoded_sheets(), CUTS)
def test_reader_returns_every_value_of_a_spreadsheet(
    table: tuple[Sheet, bytes], cuts: list[int]
) -> None:
    sheet, data = table
    products, reader = read(data, cuts)
    assert reader.errors == []
    table_read = reader.table
    assert table_read is not None
    columns = table_read.columns
    assert list(columns.names) == sheet.names[: len(columns.names)]
    assert [n for n, r in enumerate(columns.roles) if r is not ColumnRole.DROPPED] == sheet.kept
    assert [columns.roles[n] for n in sheet.kept] == [sheet.roles[n] for n in sheet.kept]
    assert len(products) == len(sheet.rows)
    for number, (product, row, urls) in enumerate(
        zip(products, sheet.rows, sheet.urls, strict=True)
    ):
        cells = unchanged_row(product, table_read)
        assert [cells[n] for n in sheet.kept] == [row[n] for n in sheet.kept]
        assert not any(
            cell.strip(WHITE_SPACE) for n, cell in enumerate(cells) if n not in sheet.kept
        )
        assert [image.text for image in product.images] == urls
        assert product.row == number + 2
        assert ColumnRole.SERIAL in sheet.roles or product.serial_number == str(number + 1)


@given(encoded_sheets(), st.sampled_from(["", "Status", "Error"]))
def test_reader_reads_a_status_csv_like_the_original(
    table: tuple[Sheet, bytes], output_column: str
) -> None:
    """A dropped output column no longer separates the URLs from unnamed columns after them."""
    sheet, _ = table
    names = [*sheet.names[: sheet.width], output_column, *sheet.names[sheet.width :]]
    rows = [[*row[: sheet.width], "", *row[sheet.width :]] for row in sheet.rows]
    products, reader = read(encode_rows([names, *rows]), [])
    for _ in range(2):
        assert reader.errors == []
        table_read = reader.table
        assert table_read is not None
        rows = [unchanged_row(product, table_read) for product in products]
        products, reader = read(encode_rows([table_read.columns.names, *rows]), [])
        assert reader.table is not None
        assert reader.table.columns == table_read.columns
        assert [unchanged_row(product, reader.table) for product in products] == rows


# --- tables of shop systems ------------------------------------------------------------------------

LAYOUT_HEADERS = st.sampled_from(
    [
        "Product Name|Input Image Urls",
        "Name|SKU|Images",
        "Handle|Title|Image Src|Variant Image",
        "URL handle|Title|Product image URL",
        "sku|name|base_image|additional_images",
        "id|title|link|image_link|additional_image_link",
        "Name *|Image URLs (x,y,z...)",
        "Product Name|Product Image File - 1|Product Image URL - 1",
        "Item|Name|Internal Image URL (Export)|Image URL (Import)",
        "handleId|fieldType|name|productImageUrl",
        "TITLE|CURRENCY_CODE|IMAGE1|IMAGE2",
        "item_sku|item_name|main_image_url|other_image_url1",
        "Product ID [Non Editable]|Title|Hosted Image URLs",
        "Image 1|photo_2|Picture URL",
        "S. No.|Name|URL",
    ]
).map(lambda header: header.split("|"))
TEXT_AND_URLS = st.tuples(
    st.lists(st.sampled_from(["", "a.jpg", "N/A"]), max_size=2), st.lists(URL, max_size=3)
).map(lambda parts: [*parts[0], *parts[1]])
IMAGE_CELL = st.tuples(st.sampled_from([", ", ",", "|", " ", "\n", " ; "]), TEXT_AND_URLS).map(
    lambda cell: cell[0].join(cell[1])
)
"""Text after a URL would be part of the URL."""
OUTPUT = "https://img.example/{}.jpg"


@st.composite
def shop_tables(draw: st.DrawFn) -> list[list[str]]:
    """Return the header and the rows of a table in one of the layouts, with further columns."""
    extras = draw(
        st.lists(st.sampled_from(["Colour", "Size", "", "Status", "Ümlaut, a"]), max_size=3)
    )
    header = draw(st.permutations([*draw(LAYOUT_HEADERS), *extras]))
    while not header[-1]:
        header.append(header.pop(0))
    reader = TableReader()
    reader.feed_rows(1, [header, ["", ""]])
    reader.close()
    assert reader.table is not None
    standard = reader.table.layout == "standard"
    rows = [header]
    for _ in range(draw(st.integers(1, 5))):
        row = []
        for role in reader.table.columns.roles:
            if role is ColumnRole.IMAGE:
                cell = draw(URL if standard else IMAGE_CELL)
            elif role is ColumnRole.NAME and standard:
                cell = draw(CELL.filter(lambda text: text.strip(WHITE_SPACE)))
            else:
                cell = draw(CELL)
            row.append(cell)
        rows.append(row)
    rows.append(["Last" if r is ColumnRole.NAME else "" for r in reader.table.columns.roles])
    rows[-1][reader.table.columns.roles.index(ColumnRole.IMAGE)] = "https://a.example/1.jpg"
    return rows


@given(shop_tables(), st.sampled_from(",;\t|"), CUTS)
def test_table_of_any_layout_comes_back_with_only_urls_changed(
    rows: list[list[str]], delimiter: str, cuts: list[int]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    products, reader = read(text.getvalue().encode(), cuts)
    assert reader.errors == []
    table = reader.table
    assert table is not None
    assert table.delimiter == delimiter
    assert list(table.columns.names) == rows[0]
    blank = [row for row in rows[1:] if not "".join(row).strip(WHITE_SPACE)]
    assert len(products) == len(rows) - 1 - len(blank)
    given = [row for row in rows[1:] if row not in blank]
    number = 0
    for product, row in zip(products, given, strict=True):
        assert unchanged_row(product, table) == row
        outputs = [OUTPUT.format(number + n) for n in range(len(product.images))]
        number += len(outputs)
        found = input_row(table.columns, whole_row(product), outputs)
        images = [n for n, role in enumerate(table.columns.roles) if role is ColumnRole.IMAGE]
        assert [c for n, c in enumerate(found) if n not in images] == [
            c for n, c in enumerate(row) if n not in images
        ]
        rest = " ".join(found[n] for n in images)
        assert re.findall(r"https://img\.example/[0-9]+\.jpg", rest) == outputs
        assert [image.text for image in product.images if image.text in rest] == []


@given(st.lists(st.text(st.sampled_from("ab/.:-?&=,;|\\'\" %"), max_size=8), max_size=4))
@example(["a."])
@example(["a", "b."])
@example(["a&amp;b"])
@example(["w_1,h_1/a", "b"])
def test_plain_cells_are_read_like_all_others(parts: list[str]) -> None:
    """A table with one image column has a fast path, a table with two has none."""
    cell = ",".join(f"https://h.example/{part}" for part in parts)
    one, first = read(encode_rows([["Name", "Image"], ["Mug", cell]]), [])
    two, second = read(encode_rows([["Name", "Image", "Image 2"], ["Mug", cell, ""]]), [])
    assert [(e.code, e.value) for e in first.errors] == [(e.code, e.value) for e in second.errors]
    assert [p.images for p in one] == [p.images for p in two]


# --- any bytes ---------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(b"S. No.", b"Product Name", b"Input Image Urls", b"Status", b"sep=", b"PK\x03\x04"),
        *(b"https://a/1.jpg", b"http://", b"ftp://x/y", b"x", b" ", b"\xe9", b"\xc3\xa9", b"\x81"),
        *(
            b",",
            b";",
            b"\t",
            b'"',
            b'""',
            b"\n",
            b"\r",
            b"\r\n",
            b"\x00",
            b"\x01",
            b"\x1c",
            b"\xc2\x85",
        ),
        *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"x,https://a/1.jpg\n"),
        *(b"|", b' "', b"\t ", b"\x1a", b"\x96", b"\xcc\xce", b"\xe9e", b"\x00S", b"S\x00"),
        *(b"Product Name,Input Image Urls\n", b"S. No.,Product Name,Input Image Urls\r"),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=5), max_size=40).map(b"".join), CUTS)
def test_reader_result_does_not_depend_on_chunk_boundaries_for_any_bytes(
    data: bytes, cuts: list[int]
) -> None:
    whole = reader_state(*read(data, []))
    assert reader_state(*read(data, cuts)) == whole
    assert reader_state(*read(data, list(range(len(data))))) == whole
    products, reader = read(data, [])
    assert products or reader.error_count
    assert len(reader.errors) == min(reader.error_count, 100)


@given(encoded_sheets(), st.randoms(use_true_random=False))
def test_reader_returns_products_or_errors_for_a_damaged_table(
    table: tuple[Sheet, bytes], rng: random.Random
) -> None:
    data = bytearray(table[1])
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 3)] = rng.choice([b"", b'"', b"\n", b"\x00", b"\xff", b",,"])
    products, reader = read(bytes(data), [])
    assert products or reader.error_count
