"""What holds for any table, and for any bytes at all."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from imgsvc.models import Product, Role
from imgsvc.table.cells import join_urls
from imgsvc.table.reader import TableReader

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


@dataclass
class Sheet:
    names: list[str]
    roles: list[Role]
    rows: list[list[str]]
    urls: list[list[str]]


@st.composite
def sheets(draw: st.DrawFn, cell: st.SearchStrategy[str]) -> Sheet:
    serial = draw(st.booleans())
    extras = draw(st.lists(cell.map(lambda text: f"Extra {text}"), max_size=3))
    columns = [("Product Name", Role.NAME), ("input_image_urls", Role.URLS)]
    columns += [("S. No.", Role.SERIAL)] * serial + [(name, Role.EXTRA) for name in extras]
    columns = draw(st.permutations(columns))
    rows, urls = [], []
    for _ in range(draw(st.integers(1, 4))):
        images = draw(st.lists(URL, min_size=1, max_size=3))
        values = {Role.NAME: cell.filter(str.strip), Role.URLS: st.just(join_urls(images))}
        rows.append([draw(values.get(role, cell)) for _, role in columns])
        urls.append(images)
    return Sheet([name for name, _ in columns], [role for _, role in columns], rows, urls)


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

    lines = [delimiter.join(map(quoted, row)) for row in [sheet.names, *sheet.rows]]
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
    known = [] if reader.fault_count else products
    return known, reader.faults, reader.fault_count, reader.columns, reader.products, reader.images


def back(product: Product, roles: list[Role]) -> list[str]:
    """A product's values, as the row they came from."""
    known = {
        Role.SERIAL: product.serial_number,
        Role.NAME: product.name,
        Role.URLS: join_urls(image.given for image in product.images),
    }
    extra = iter(product.extra)
    return [next(extra) if role is Role.EXTRA else known[role] for role in roles]


CUTS = st.lists(st.integers(0, 300), max_size=5)


@given(written(), CUTS)
def test_what_a_spreadsheet_writes_comes_back_value_for_value(
    table: tuple[Sheet, bytes], cuts: list[int]
) -> None:
    sheet, data = table
    products, reader = read(data, cuts)
    assert reader.faults == []
    assert reader.columns is not None
    assert (list(reader.columns.names), list(reader.columns.roles)) == (sheet.names, sheet.roles)
    assert len(products) == len(sheet.rows)
    for number, (product, row, urls) in enumerate(
        zip(products, sheet.rows, sheet.urls, strict=True)
    ):
        assert back(product, sheet.roles) == row
        assert [image.given for image in product.images] == urls
        assert product.row == number + 2
        assert Role.SERIAL in sheet.roles or product.serial_number == str(number + 1)


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
    assert products or reader.fault_count
    assert len(reader.faults) == min(reader.fault_count, 100)


@given(written(), st.randoms(use_true_random=False))
def test_a_damaged_table_does_no_harm(table: tuple[Sheet, bytes], chance: random.Random) -> None:
    data = bytearray(table[1])
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data))
        data[at : at + chance.randint(0, 3)] = chance.choice(
            [b"", b'"', b"\n", b"\x00", b"\xff", b",,"]
        )
    products, reader = read(bytes(data), [])
    assert products or reader.fault_count
