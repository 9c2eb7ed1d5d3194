"""What holds for any table, and for any bytes at all."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from imgsvc.models import ColumnRole, Columns, Product
from imgsvc.table.cells import join_urls
from imgsvc.table.reader import TableReader
from imgsvc.table.writer import encode_rows
from imgsvc.urls import BLANKS

# --- what a spreadsheet can write --------------------------------------------------------------------

CELL = st.text(
    st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from(',;\t\r\n"= '), max_size=8
)
WESTERN = st.text(st.sampled_from('äöüßéÄ,;\t\r\n"= abcxyz'), max_size=8)
URL = st.sampled_from(
    [
        "https://a.example/1.jpg",
        "http://b.example/w_100,h_100/2.jpg?x=1;y=2&z=%2F",
        "https://c.example/my photo.jpg",
        "HTTPS://D.example:8443/x?u=http://e/f",
        "https://bücher.example/ü.jpg",
    ]
)


BLANK = st.sampled_from(["", "", " ", "\t"])


@dataclass
class Sheet:
    """What is written, and the columns of it, by number, that are to come back."""

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
    extras = draw(st.lists(cell.map(lambda text: f"Extra {text}") | BLANK, max_size=5))
    columns = [("Product Name", ColumnRole.NAME), ("input_image_urls", ColumnRole.URLS)]
    columns += [("S. No.", ColumnRole.SERIAL)] * serial + [
        (name, ColumnRole.EXTRA) for name in extras
    ]
    columns = draw(st.permutations(columns))
    names, roles = [name for name, _ in columns], [role for _, role in columns]
    sheet = Sheet(names, roles, [], [], [])
    padding = sheet.width if roles[sheet.width - 1] is ColumnRole.URLS else len(names)
    cells = [cell] * len(names)
    for number, name in enumerate(names):
        if not name.strip():
            cells[number] = BLANK if number >= padding or draw(st.booleans()) else BLANK | cell
    for _ in range(draw(st.integers(1, 4))):
        images = draw(st.lists(URL, min_size=1, max_size=3))
        cells[roles.index(ColumnRole.NAME)] = cell.filter(str.strip)
        cells[roles.index(ColumnRole.URLS)] = st.just(join_urls(images))
        sheet.rows.append([draw(each) for each in cells])
        sheet.urls.append(images)
    for number, name in enumerate(names):
        if name.strip() or any(row[number].strip(BLANKS) for row in sheet.rows):
            sheet.kept.append(number)
    return sheet


@st.composite
def written(draw: st.DrawFn) -> tuple[Sheet, bytes]:
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]))
    sheet = draw(sheets(WESTERN if encoding == "cp1252" else CELL))
    delimiter = draw(st.sampled_from(",;\t"))
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


def state(products: list[Product], reader: TableReader) -> object:
    known = [] if reader.error_count else products
    return known, reader.errors, reader.error_count, reader.columns, reader.products, reader.images


def back(product: Product, columns: Columns) -> list[str]:
    """A product's values, as the row they came from."""
    known = {
        ColumnRole.SERIAL: product.serial_number,
        ColumnRole.NAME: product.name,
        ColumnRole.URLS: join_urls(image.given for image in product.images),
    }
    extra = iter([*product.extra, *[""] * 9][place] for place in columns.extra_positions)
    return [next(extra) if role is ColumnRole.EXTRA else known[role] for role in columns.roles]


CUTS = st.lists(st.integers(0, 300), max_size=5)


@given(written(), CUTS)
def test_what_a_spreadsheet_writes_comes_back_value_for_value(
    table: tuple[Sheet, bytes], cuts: list[int]
) -> None:
    sheet, data = table
    products, reader = read(data, cuts)
    assert reader.errors == []
    columns = reader.columns
    assert columns is not None
    assert list(columns.names) == [sheet.names[number] for number in sheet.kept]
    assert list(columns.roles) == [sheet.roles[number] for number in sheet.kept]
    assert len(products) == len(sheet.rows)
    for number, (product, row, urls) in enumerate(
        zip(products, sheet.rows, sheet.urls, strict=True)
    ):
        assert back(product, columns) == [row[number] for number in sheet.kept]
        assert [image.given for image in product.images] == urls
        assert product.row == number + 2
        assert ColumnRole.SERIAL in sheet.roles or product.serial_number == str(number + 1)


@given(written(), st.sampled_from(["", "Status", "Error"]))
def test_what_came_back_is_read_again_as_it_is(table: tuple[Sheet, bytes], ours: str) -> None:
    """A column of ours is dropped, and then no longer parts the URLs from what has no name."""
    sheet, _ = table
    names = [*sheet.names[: sheet.width], ours, *sheet.names[sheet.width :]]
    rows = [[*row[: sheet.width], "", *row[sheet.width :]] for row in sheet.rows]
    products, reader = read(encode_rows([names, *rows]), [])
    for _ in range(2):
        assert reader.errors == []
        columns = reader.columns
        assert columns is not None
        rows = [back(product, columns) for product in products]
        products, reader = read(encode_rows([columns.names, *rows]), [])
        assert reader.columns == replace(
            columns, extra_positions=tuple(range(len(columns.extra_positions)))
        )
        assert [back(product, reader.columns) for product in products] == rows


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
        *(b"Product Name,Input Image Urls\n", b"S. No.,Product Name,Input Image Urls\r"),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=5), max_size=40).map(b"".join), CUTS)
def test_any_bytes_give_a_result_or_faults_however_they_come(data: bytes, cuts: list[int]) -> None:
    whole = state(*read(data, []))
    assert state(*read(data, cuts)) == whole
    assert state(*read(data, list(range(len(data))))) == whole
    products, reader = read(data, [])
    assert products or reader.error_count
    assert len(reader.errors) == min(reader.error_count, 100)


@given(written(), st.randoms(use_true_random=False))
def test_a_damaged_table_does_no_harm(table: tuple[Sheet, bytes], chance: random.Random) -> None:
    data = bytearray(table[1])
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data))
        data[at : at + chance.randint(0, 3)] = chance.choice(
            [b"", b'"', b"\n", b"\x00", b"\xff", b",,"]
        )
    products, reader = read(bytes(data), [])
    assert products or reader.error_count
