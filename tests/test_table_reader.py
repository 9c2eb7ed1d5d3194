"""The Validator, case by case."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import pytest

from imgsvc.models import ColumnRole, Product
from imgsvc.table.reader import TableReader

HEADER = "S. No.,Product Name,Input Image Urls\n"
A, B = "https://a.example/1.jpg", "http://b.example/2.jpg"


def read(table: str | bytes, size: int | None = None) -> tuple[list[Product], TableReader]:
    """Read a table whole, or in pieces of `size` bytes."""
    data = table.encode() if isinstance(table, str) else table
    reader = TableReader()
    products: list[Product] = []
    for start in range(0, len(data), size or len(data)):
        products += reader.feed(data[start : start + (size or len(data))])
    products += reader.close()
    return products, reader


def good(table: str | bytes) -> list[Product]:
    """Read a table that has no fault: whole, and byte by byte."""
    products, reader = read(table)
    assert reader.errors == []
    assert reader.products == len(products) > 0
    assert reader.images == sum(len(p.images) for p in products)
    assert read(table, 1)[0] == products
    return products


def values(table: str | bytes) -> list[tuple[str, str, list[str]]]:
    return [(p.serial_number, p.name, [i.given for i in p.images]) for p in good(table)]


Wrong = list[tuple[str, int | None, str | None, str | None]]


def wrong(table: str | bytes) -> Wrong:
    """What is wrong with a table: code, row, column, value. The same whole and byte by byte."""
    reader = read(table)[1]
    assert reader.error_count > 0
    assert reader.feed(b"") == reader.close() == []
    assert len(table) > 50_000 or reader.errors == read(table, 1)[1].errors
    assert all(len(f.message) < 500 and f.message.endswith(".") for f in reader.errors)
    return [(f.code, f.row, f.column, f.value) for f in reader.errors]


# --- the header --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "S. No.,Product Name,Input Image Urls",
        "s.no,PRODUCT_NAME,input_image_urls",
        " S No ,productname,InputImageURLs",
        "Serial Number,Product-Name,Input Image URL",
        "Sr. No.,Product Name,Input Images",
        "Sl.No,Product Name,Input Image Link",
        "Serial No.,product.name,Input  Image\u00a0Url(s)",
        "No.,Product,Image URLs",
        "#,Name,Images",
        "\u200bS. No.,Product Title,url",
        '"S. No.","Product\nName","Input Image Urls"',
    ],
)
def test_spellings(header: str) -> None:
    assert values(f"{header}\n7,P,{A}\n") == [("7", "P", [A])]


def test_loose_spellings_give_way_to_the_name_itself() -> None:
    products, reader = read(
        f"Name,Product Name,Image,Url,Input Image Urls,No.,S. No.\na,b,c,d,{A},e,f\n"
    )
    assert [(p.serial_number, p.name, p.extra) for p in products] == [
        ("f", "b", ("a", "c", "d", "e"))
    ]
    assert reader.columns is not None
    assert reader.columns.names == (
        "Name",
        "Product Name",
        "Image",
        "Url",
        "Input Image Urls",
        "No.",
        "S. No.",
    )
    assert reader.columns.roles == tuple(
        map(ColumnRole, ["extra", "name", "extra", "extra", "urls", "extra", "serial"])
    )


@pytest.mark.parametrize(
    ("header", "errors"),
    [
        (
            "a,b",
            [
                ("missing_column", 1, "Product Name", None),
                ("missing_column", 1, "Input Image Urls", None),
            ],
        ),
        ("Product Name,x", [("missing_column", 1, "Input Image Urls", None)]),
        ("Name,Product,Input Image Urls", [("missing_column", 1, "Product Name", None)]),
        (
            "Product Name,Input Image Urls,PRODUCT_NAME",
            [("duplicate_column", 1, "PRODUCT_NAME", None)],
        ),
        (
            "S.No,Serial Number,Product Name,Input Image Urls",
            [("duplicate_column", 1, "Serial Number", None)],
        ),
        (
            "Product Name,Input Image Urls,Input Image URL",
            [("duplicate_column", 1, "Input Image URL", None)],
        ),
        ("\n\nProduct Name,b", [("missing_column", 3, "Input Image Urls", None)]),
        ('Product Name,"Input Image Urls\n', [("unclosed_quote", 1, None, None)]),
        ("Product Name,Input Image\x01 Urls", [("not_csv", None, None, None)]),
    ],
)
def test_headers_that_will_not_do(header: str, errors: Wrong) -> None:
    assert wrong(f"{header}\n1,P,{A}\n" if '"' not in header else header) == errors


def test_a_fault_shows_the_beginning_of_a_long_column_name() -> None:
    table = f"Product Name,Input{'.' * 1000}Image Urls\n"
    assert wrong(f"{table}P,x\n") == [("invalid_url", 2, f"Input{'.' * 94}…", "x")]


def test_a_missing_serial_number_is_counted() -> None:
    table = f"Input Image Urls,Product Name\n{A},x\n\n{A},y\n"
    assert values(table) == [("1", "x", [A]), ("2", "y", [A])]


def test_serial_numbers_and_names_are_kept_as_they_are() -> None:
    table = HEADER + f"007,P,{A}\n007,P,{A}\n, P ,{A}\n x ,=1+1,{A}\n"
    assert [v[:2] for v in values(table)] == [
        ("007", "P"),
        ("007", "P"),
        ("", " P "),
        (" x ", "=1+1"),
    ]


def test_further_columns_come_along_and_ours_are_dropped() -> None:
    products, reader = read(
        "Status,Color,S. No.,Product Name,request_id,Input Image Urls,OUTPUT IMAGE URLS,Error"
        ", Size ,Color\n"
        f'partial,red,1,P,x,{A},"{B},",2: timeout, "" ,\n'
    )
    assert reader.columns is not None
    assert reader.columns.names == (
        "Color",
        "S. No.",
        "Product Name",
        "Input Image Urls",
        " Size ",
        "Color",
    )
    assert reader.columns.extra == ("Color", " Size ", "Color")
    assert products[0].extra == ("red", ' "" ', "")


def test_columns_without_a_name_are_dropped_where_they_are_empty() -> None:
    table = f",Product Name,,Input Image Urls,,\n,x,,{A},,\n, y , ,{A},{B}\n"
    products, reader = read(table)
    assert reader.columns is not None
    assert reader.columns.names == ("Product Name", "Input Image Urls")
    assert reader.columns.extra_positions == ()
    assert [len(p.images) for p in products] == [1, 2]


@pytest.mark.parametrize(
    ("table", "names", "extra"),
    [
        (
            f",Product Name,Input Image Urls\n0,x,{A}\n1,y,{A}\n",
            ("", "Product Name", "Input Image Urls"),
            [("0",), ("1",)],
        ),
        (
            f",Product Name, ,Input Image Urls,Size\n,x,,{A},\n ,y,note,{A},S\n",
            ("Product Name", " ", "Input Image Urls", "Size"),
            [("", ""), ("note", "S")],
        ),
        (
            f"Product Name,Input Image Urls,Size,,,,\nx,{A},S\ny,{A},,, 1,,\nz,{A},,,,, ,,\n",
            ("Product Name", "Input Image Urls", "Size", ""),
            [("S", ""), ("", " 1"), ("", "")],
        ),
        (
            f"Product Name,Input Image Urls,Error,,\nx,{A},late, ,\ny,{A},,,1\nz,{A},,2,3\n",
            ("Product Name", "", "", "Input Image Urls"),
            [(" ", ""), ("", "1"), ("2", "3")],
        ),
    ],
    ids=["an index", "from a later row on", "behind the others", "behind the URLs, but for ours"],
)
def test_columns_without_a_name_are_kept_where_they_hold_anything(
    table: str, names: tuple[str, ...], extra: list[tuple[str, ...]]
) -> None:
    products, reader = read(table)
    assert reader.errors == []
    assert reader.columns is not None
    assert reader.columns.names == names
    extra_positions = reader.columns.extra_positions
    assert [
        tuple("".join(product.extra[place : place + 1]) for place in extra_positions)
        for product in products
    ] == extra


def test_what_stands_beyond_the_header_is_a_fault() -> None:
    table = f"Product Name,Input Image Urls,Size,\nx,{A},S,note,more\ny,{A}\n"
    assert wrong(table) == [
        ("wrong_cell_count", 2, None, "more"),
        ("wrong_cell_count", 3, None, f"y,{A}"),
    ]
    assert [fault.message.partition(".")[0] for fault in read(table)[1].errors] == [
        "The row has 5 cells, the header 4",
        "The row has 2 cells, the header 3",
    ]


def test_a_name_of_invisible_characters_is_none() -> None:
    products, reader = read(f"\u200b,Product Name,\ufeff \u3000,Input Image Urls\n,x,,{A}\n")
    assert len(products) == 1
    assert reader.columns is not None
    assert reader.columns.names == ("Product Name", "Input Image Urls")


def test_a_row_does_not_make_all_others_as_wide_as_it_likes() -> None:
    header = "Product Name,Input Image Urls,Size" + "," * 30_000
    most = f"x,{A},S" + ",y" * 256
    products, reader = read(f"{header}\n{most},,\nx,{A},\n")
    assert reader.columns is not None
    assert (len(products), len(reader.columns.extra_positions)) == (2, 257)
    assert wrong(f"{header}\n{most},z\n") == [("wrong_cell_count", 2, None, "z")]


def test_columns_are_known_with_the_header() -> None:
    reader = TableReader()
    assert reader.columns is None
    reader.feed(b"Product Name,Input Image Urls")
    assert reader.columns is None
    reader.feed(b"\n")
    assert reader.columns is not None


# --- encodings and dialects ------------------------------------------------------------------------

ROWS = f'S. No.,Product Name,Input Image Urls\r\n1,"Bücher, größer",{A}\r\n2,Ärger é,"{A},{B}"\r\n'
EXPECTED = [("1", "Bücher, größer", [A]), ("2", "Ärger é", [A, B])]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(encoding: str, end: str) -> None:
    assert values(ROWS.replace("\r\n", end).encode(encoding)) == EXPECTED
    assert values(ROWS.replace("\r\n", end).removesuffix(end).encode(encoding)) == EXPECTED


def test_utf_16_big_endian_and_beyond_the_basic_plane() -> None:
    table = b"\xfe\xff" + f"Product Name,Input Image Urls\n\U0001f600日本,{A}\n".encode("utf-16-be")
    assert values(table) == [("1", "\U0001f600日本", [A])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters(delimiter: str) -> None:
    header = delimiter.join(['"Color, size; or so"', "Product Name", '"Input Image\tUrls"'])
    row = delimiter.join(["x", "P", f'"{A}{delimiter}{B}"'])
    assert values(f"{header}\n{row}\n") == [("1", "P", [A, B])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_of_a_strange_header_is_found(delimiter: str) -> None:
    reader = read(delimiter.join(["a", "b", "c d"]) + "\n")[1]
    assert all('it has "a", "b", "c d".' in fault.message for fault in reader.errors)


def test_excels_hint_is_no_row() -> None:
    table = f"sep=;\r\nProduct Name;Input Image Urls\r\nP;{A}\r\n"
    assert [p.row for p in good(table)] == [2]


@pytest.mark.parametrize(
    ("table", "errors"),
    [
        (
            HEADER.encode() + "1,é,x\n2,".encode() + b"\xe9,x\n",
            ("bad_encoding", 3, "Product Name", "E9"),
        ),
        (
            b"\xef\xbb\xbf" + HEADER.encode() + b"1,\xe9,x\n",
            ("bad_encoding", 2, "Product Name", "E9"),
        ),
        (HEADER.encode() + b"1,\x81,x\n", ("bad_encoding", 2, "Product Name", "81")),
        (HEADER.encode() + b"1,\xe9,x\n2,x\x9d,x\n", ("bad_encoding", 3, "Product Name", "9D")),
        (HEADER.encode("utf-16")[:-1], ("bad_encoding", 1, None, "0A")),
        (HEADER.encode("utf-16") + b"\x00\xd8a\x00", ("bad_encoding", 2, "S. No.", "00 D8")),
        (HEADER.encode("utf-16-le"), ("bad_encoding", 1, None, None)),
        (HEADER.encode("utf-16-be"), ("bad_encoding", 1, None, None)),
        (HEADER.encode("utf-32"), ("bad_encoding", 1, None, None)),
        (
            HEADER.encode() + "1,é".encode() + b"\n2,x\xc3",
            ("bad_encoding", 3, "Product Name", "C3"),
        ),
    ],
)
def test_bad_encodings(table: bytes, errors: tuple[str, int, str | None, str | None]) -> None:
    assert wrong(table)[-1] == errors


def test_a_cut_off_character_after_ascii_is_windows_1252() -> None:
    assert values(f"Product Name,Input Image Urls\nx,{A}\nÃ,{A}/Ã".encode("cp1252"))[1][1] == "Ã"


def _archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        _archive(),
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"GIF89a",
        b"\x1f\x8b\x08\x00",
        b'<?xml version="1.0"?>\n<?mso-application progid="Excel.Sheet"?>',
        b"\n<!DOCTYPE html><html>",
        b"{\\rtf1\\ansi",
        bytes(range(256)),
        b"\x00",
        b"\x7fELF\x02\x01\x01" + bytes(50),
        b"S. No.,Product Name,Input\x00Image Urls\n",
        b"abc\x01\x02\x03\xff\xfe",
    ],
)
def test_what_is_no_csv(data: bytes) -> None:
    assert [fault[:2] for fault in wrong(data)] == [("not_csv", None)]


@pytest.mark.parametrize(
    "data", ["", "\ufeff", "\n", "\r\n \r\n\t\r\n", ",,\n , \n", "sep=,\n", '""\n']
)
def test_empty_files(data: str) -> None:
    reader = TableReader()
    reader.feed(data.encode())
    assert reader.close() == []
    assert [f.code for f in reader.errors] == ["empty_file"]


@pytest.mark.parametrize("rest", ["", "\n\n", ",,\n,,,,\n", "  ,\t\n"])
def test_no_rows(rest: str) -> None:
    assert wrong(HEADER + rest) == [("no_rows", None, None, None)]
    assert wrong(HEADER.strip() + ("\n" + rest if rest else ""))[0][0] == "no_rows"


# --- rows and cells --------------------------------------------------------------------------------


def test_rows_are_numbered_as_a_spreadsheet_shows_them() -> None:
    table = (
        'S. No.,"Product\nName",Input Image Urls\r\n\r\n'
        f'1,"a\nb\r\nc",{A}\r\n,,\r\n   \n2,b,"{A}\n{B}"\r\r3,c,{A}\n\n\n4,d,{A}'
    )
    assert [(p.row, p.name) for p in good(table)] == [
        (3, "a\nb\r\nc"),
        (6, "b"),
        (8, "c"),
        (11, "d"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_before_the_header_are_counted(end: str) -> None:
    table = f"{end * 50},,{end * 50}{HEADER.strip()}{end}1,P,{A}{end}"
    assert [p.row for p in good(table)] == [102]


def test_quotes() -> None:
    table = HEADER + f'1,"a ""b"" c","{A}"\n2,12" wide,{A}\n3,"",\n"4","x"\t ,{A}\n5,"""",{A}\n'
    assert wrong(table) == [
        ("empty_value", 4, "Product Name", ""),
        ("empty_value", 4, "Input Image Urls", ""),
    ]
    names = [name for _, name, _ in values(table.replace('3,"",\n', ""))]
    assert names == ['a "b" c', '12" wide', "x", '"']


@pytest.mark.parametrize(
    ("rows", "errors"),
    [
        (f'1,P,{A}\n2,"P,{A}\n3,P,{A}\n', [("unclosed_quote", 3, "Product Name", None)]),
        (f'1,P,"{A}', [("unclosed_quote", 2, "Input Image Urls", None)]),
        (f'1,P,{A},"', [("unclosed_quote", 2, "Input Image Urls", None)]),
        (
            f'"12" wide",P,{A}\n2,P,x\n',
            [("unclosed_quote", 2, "S. No.", None), ("invalid_url", 3, "Input Image Urls", "x")],
        ),
        (
            f'1,"P,{A}\n2,"P",{A}\n3,,{A}\n',
            [("unclosed_quote", 2, "Product Name", None), ("empty_value", 3, "Product Name", "")],
        ),
        (f'1,"P" "Q",{A}\n', [("unclosed_quote", 2, "Product Name", None)]),
    ],
)
def test_quotes_that_are_not_paired(rows: str, errors: Wrong) -> None:
    assert wrong(HEADER + rows) == errors


@pytest.mark.parametrize(
    ("rows", "errors"),
    [
        ("1,P\n", [("wrong_cell_count", 2, None, "1,P")]),
        ("1\n", [("wrong_cell_count", 2, None, "1")]),
        (f"1, ,{A}\n", [("empty_value", 2, "Product Name", " ")]),
        ("1,P, ,;\n", [("empty_value", 2, "Input Image Urls", " ,;")]),
        (f"1,{'x' * 513},{A}\n", [("too_long", 2, "Product Name", "x" * 99 + "…")]),
        ("1,P,ftp://h/a\n", [("unsupported_scheme", 2, "Input Image Urls", "ftp://h/a")]),
        (
            f"1,P,http://h/{'x' * 8184}\n",
            [("too_long", 2, "Input Image Urls", "http://h/" + "x" * 90 + "…")],
        ),
        (
            f"1,P,{A} http:///a {B} x://y\n",
            [
                ("invalid_url", 2, "Input Image Urls", "http:///a"),
                ("unsupported_scheme", 2, "Input Image Urls", "x://y"),
            ],
        ),
        (
            f"1,P,{' '.join([A] * 1001)}\n",
            [("too_many_urls", 2, "Input Image Urls", f"{A} {A} {A} {A} {A}"[:99] + "…")],
        ),
        (f"1,a\0b,{A}\n", [("control_character", 2, "Product Name", "a\0b")]),
        ("1,P,http://h/\x1b\n", [("control_character", 2, "Input Image Urls", "http://h/\x1b")]),
        (
            f"\x07,\x7f,{A}\n",
            [
                ("control_character", 2, "S. No.", "\x07"),
                ("control_character", 2, "Product Name", "\x7f"),
                ("empty_value", 2, "Product Name", ""),
            ],
        ),
        (f"1,ü\x85,{A}\n", [("control_character", 2, "Product Name", "ü\x85")]),
        (f"1,a\x0cb,{A}\n", [("control_character", 2, "Product Name", "a\x0cb")]),
    ],
)
def test_faults_of_a_row(rows: str, errors: Wrong) -> None:
    assert wrong(HEADER + rows) == errors
    before = f"0,fine,{A}\n" * 3000
    moved = [(code, 3002, column, value) for code, _, column, value in errors]
    assert wrong(HEADER + before + rows + before) == moved


def test_the_message_counts_urls() -> None:
    reader = read(HEADER + f"1,P,{A} http:///a\n2,P,x\n")[1]
    assert reader.errors[0].message.startswith("URL 2 of 2 cannot be used: ")
    assert reader.errors[1].message.startswith("The URL cannot be used: ")


def test_limits_are_reached() -> None:
    table = HEADER + f"1, {'x' * 512} ,{' '.join([A] * 1000)}\n2,P,http://h/{'x' * 8183}\n"
    assert [len(p.images) for p in good(table)] == [1000, 1]


def test_tabs_and_line_breaks_stand_in_cells() -> None:
    assert values(HEADER + f'1,"a\tb\rc\nd",{A}\n') == [("1", "a\tb\rc\nd", [A])]


@pytest.mark.parametrize(
    ("row", "urls"),
    [
        (f"1,P,{A},{B}", [A, B]),
        (f"1,P,{A}, {B} ,,", [A, B]),
        (f"1,P,{A},,{B}", [A, B]),
        (
            "1,P,https://cdn/w_1,h_1/a.jpg,https://cdn/w_2,h_2/b.jpg",
            ["https://cdn/w_1,h_1/a.jpg", "https://cdn/w_2,h_2/b.jpg"],
        ),
        (f'1,P,"{A},",{B}', [A, B]),
        (f'1,P,{A},"https://cdn/w_1,h_1/a.jpg"', [A, "https://cdn/w_1,h_1/a.jpg"]),
        (f"1,P,,{A}", [A]),
    ],
)
def test_lists_that_were_never_quoted(row: str, urls: list[str]) -> None:
    assert values(f"{HEADER}{row}\n")[0][2] == urls
    table = (HEADER + row + "\n").replace(",", ";")
    assert values(table)[0][2] == [url.replace(",", ";") for url in urls]


def test_a_list_spills_only_from_the_last_column() -> None:
    header = "Product Name,Input Image Urls,Color\n"
    assert wrong(f"{header}P,{A},{B},red\n") == [("wrong_cell_count", 2, None, "red")]
    assert values(f"{header}P,{A},red,, ,\n") == [("1", "P", [A])]
    assert wrong(f"{header}P,{A}\n")[0][0] == "wrong_cell_count"


# --- in all ----------------------------------------------------------------------------------------


def test_the_first_hundred_faults_and_the_whole_count() -> None:
    reader = read(HEADER + "1,P,x y://\n" * 5000)[1]
    assert [f.row for f in reader.errors] == list(range(2, 52)) * 0 + [
        n // 2 + 2 for n in range(100)
    ]
    assert reader.error_count == 10_000


def test_no_products_once_there_is_a_fault() -> None:
    reader = TableReader()
    row = f"1,P,{A}\n".encode()
    assert reader.feed(HEADER.encode() + row)
    assert reader.feed(b"x\n") == []
    assert reader.feed(row) == []
    assert reader.close() == []
    assert (reader.products, reader.images, reader.error_count) == (2, 2, 1)


def test_reading_stops_at_too_many_images() -> None:
    reader = TableReader(max_images=10)
    row = f"1,P,{A}\n".encode()
    reader.feed(HEADER.encode() + row * 10)
    assert reader.images == 10
    reader.feed(row)
    assert reader.images == 11
    reader.feed(row * 1000 + b"x\n")
    assert reader.close() == []
    assert (reader.images, reader.error_count) == (11, 0)


def test_a_record_of_16_mib_is_taken_and_a_larger_one_is_not() -> None:
    limit = 16 * 2**20
    header = "Product Name,Input Image Urls,Note\n"
    start = f"P,{A},"
    fits = "x" * (limit - len(start))
    assert len(read(f"{header}{start}{fits}\n", 2**16)[0][0].extra[0]) == len(fits)
    for note in f"{fits}x", f'"{fits}\n"', "," * limit, '"",' * (limit // 3):
        reader = read(f"{header}{start}{note}\n{start}y\n,{A},z\n", 2**18)[1]
        assert [(f.code, f.row) for f in reader.errors] == [("too_long", 2), ("empty_value", 4)]


def test_memory_is_bounded_where_a_quote_is_never_closed() -> None:
    reader = TableReader()
    reader.feed(HEADER.encode() + b'1,"')
    tracemalloc.start()
    for _ in range(100):
        reader.feed(b"x" * 2**18)
        reader.feed(b'""\r\n,' * 2**15)
    reader.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(f.code, f.row, f.column) for f in reader.errors] == [
        ("unclosed_quote", 2, "Product Name")
    ]
    assert peak < 60 * 2**20


@pytest.mark.parametrize(
    "unit",
    [
        b"x",
        b'"',
        b'""',
        b",",
        b'"",',
        b'"a"b,',
        b"\n",
        b"\r",
        b"\r\n",
        b'"\n',
        b"a,\n",
        b" ",
        b"\xc3\xa9",
        b"=;\t",
    ],
)
@pytest.mark.parametrize("start", ["", HEADER, HEADER + '1,"', HEADER + "1,P," + A])
def test_hostile_input_takes_linear_time(unit: bytes, start: str) -> None:
    """With quadratic time these would not end before the test's time-out."""
    for count, size in (2**19, 2**18), (2**12, 1):
        read(start.encode() + unit * (count // len(unit)), size)


@pytest.mark.parametrize(
    ("header", "rest", "size"),
    [
        ("," * 30_000 + HEADER, "1,P\n" * 2**18, None),
        (
            "Product Name,Input Image Urls,Size" + "," * 30_000,
            f"\nx,{A}" + ",y" * 250 + f"\nx,{A},\n" * 2**17 + "z",
            None,
        ),
        ("a," * 30_000 + 'b;"\n', "x" * 2**13, 1),
    ],
    ids=[
        "short rows below many unnamed columns",
        "rows that end before many unnamed columns",
        "the search for the delimiter",
    ],
)
def test_a_header_of_many_columns_is_looked_at_once(
    header: str, rest: str, size: int | None
) -> None:
    """Looked at for each row, or each piece, this would not end before the test's time-out."""
    reader = TableReader()
    reader.feed(header.encode())
    for start in range(0, len(rest), size or len(rest)):
        reader.feed(rest[start : start + (size or len(rest))].encode())
    reader.close()
    assert reader.error_count > 0
