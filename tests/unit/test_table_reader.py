"""The table reader: headers, encodings, rows, errors and limits."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import pytest

from imgsvc.table.reader import TableReader
from imgsvc.table_types import ColumnRole, Product

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


def read_valid(table: str | bytes) -> list[Product]:
    """Return the products of a valid table. Assert that reading it byte by byte gives the same."""
    products, reader = read(table)
    assert reader.errors == []
    assert reader.products == len(products) > 0
    assert reader.images == sum(len(p.images) for p in products)
    assert read(table, 1)[0] == products
    return products


def values(table: str | bytes) -> list[tuple[str, str, list[str]]]:
    return [(p.serial_number, p.name, [i.text for i in p.images]) for p in read_valid(table)]


def shown_columns(reader: TableReader) -> list[tuple[str, ColumnRole]]:
    """Return the names and roles of the columns that are not dropped."""
    assert reader.table is not None
    columns = reader.table.columns
    pairs = zip(columns.names, columns.roles, strict=True)
    return [(name, role) for name, role in pairs if role is not ColumnRole.DROPPED]


def shown_names(reader: TableReader) -> tuple[str, ...]:
    return tuple(name for name, _ in shown_columns(reader))


def shown_extra(product: Product, reader: TableReader) -> tuple[str, ...]:
    """Return the cells that the status shows after its own."""
    assert reader.table is not None
    positions = reader.table.columns.status_positions
    return tuple("".join(product.extra[n : n + 1]) for n in positions)


Errors = list[tuple[str, int | None, str | None, str | None]]


def read_errors(table: str | bytes) -> Errors:
    """Return the errors of an invalid table as (code, row, column, value).

    Asserts that reading it byte by byte gives the same errors.
    """
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
def test_header_accepts_usual_spellings(header: str) -> None:
    assert values(f"{header}\n7,P,{A}\n") == [("7", "P", [A])]


def test_header_ignores_loose_spellings_if_exact_names_exist() -> None:
    products, reader = read(
        f"Name,Product Name,Image,Url,Input Image Urls,No.,S. No.\na,b,c,d,{A},e,f\n"
    )
    assert [(p.serial_number, p.name, p.extra) for p in products] == [
        ("f", "b", ("a", "c", "d", "e"))
    ]
    assert shown_columns(reader) == [
        ("Name", "extra"),
        ("Product Name", "name"),
        ("Image", "extra"),
        ("Url", "extra"),
        ("Input Image Urls", "image"),
        ("No.", "extra"),
        ("S. No.", "serial"),
    ]


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
def test_invalid_header_is_reported_with_code_and_column(header: str, errors: Errors) -> None:
    assert read_errors(f"{header}\n1,P,{A}\n" if '"' not in header else header) == errors


def test_error_shortens_long_column_names() -> None:
    table = f"Product Name,Input{'.' * 1000}Image Urls\n"
    assert read_errors(f"{table}P,x\n") == [("invalid_url", 2, f"Input{'.' * 94}…", "x")]


def test_rows_are_numbered_from_1_without_a_serial_column() -> None:
    table = f"Input Image Urls,Product Name\n{A},x\n\n{A},y\n"
    assert values(table) == [("1", "x", [A]), ("2", "y", [A])]


def test_serial_numbers_and_names_are_kept_unchanged() -> None:
    table = HEADER + f"007,P,{A}\n007,P,{A}\n, P ,{A}\n x ,=1+1,{A}\n"
    assert [v[:2] for v in values(table)] == [
        ("007", "P"),
        ("007", "P"),
        ("", " P "),
        (" x ", "=1+1"),
    ]


def test_extra_columns_are_kept_and_output_columns_dropped() -> None:
    products, reader = read(
        "Status,Color,S. No.,Product Name,request_id,Input Image Urls,OUTPUT IMAGE URLS,Error"
        ", Size ,Color\n"
        f'partial,red,1,P,x,{A},"{B},",2: timeout, "" ,\n'
    )
    names = ("Color", "S. No.", "Product Name", "Input Image Urls", " Size ", "Color")
    assert shown_names(reader) == names
    assert reader.table is not None
    assert reader.table.columns.extra == ("Color", " Size ", "Color")
    assert shown_extra(products[0], reader) == ("red", "", "")


def test_unnamed_columns_are_dropped_if_empty() -> None:
    table = f",Product Name,,Input Image Urls,,\n,x,,{A},,\n, y , ,{A},{B}\n"
    products, reader = read(table)
    assert shown_names(reader) == ("Product Name", "Input Image Urls")
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
            ("Product Name", "Input Image Urls", "", ""),
            [(" ", ""), ("", "1"), ("2", "3")],
        ),
    ],
    ids=[
        "index column",
        "filled in a later row",
        "after the named columns",
        "after the URLs and an output column",
    ],
)
def test_unnamed_columns_are_kept_if_they_have_a_value(
    table: str, names: tuple[str, ...], extra: list[tuple[str, ...]]
) -> None:
    products, reader = read(table)
    assert reader.errors == []
    assert shown_names(reader) == names
    assert [shown_extra(product, reader) for product in products] == extra


def test_row_longer_or_shorter_than_the_header_is_an_error() -> None:
    table = f"Product Name,Input Image Urls,Size,\nx,{A},S,note,more\ny,{A}\n"
    assert read_errors(table) == [
        ("wrong_cell_count", 2, None, "more"),
        ("wrong_cell_count", 3, None, f"y,{A}"),
    ]
    assert [error.message.partition(".")[0] for error in read(table)[1].errors] == [
        "The row has 5 cells, but the header has 4",
        "The row has 2 cells, but the header has 3",
    ]


def test_column_name_of_invisible_characters_counts_as_unnamed() -> None:
    products, reader = read(f"\u200b,Product Name,\ufeff \u3000,Input Image Urls\n,x,,{A}\n")
    assert len(products) == 1
    assert shown_names(reader) == ("Product Name", "Input Image Urls")


def test_trailing_unnamed_columns_are_limited_to_256() -> None:
    header = "Product Name,Input Image Urls,Size" + "," * 30_000
    longest = f"x,{A},S" + ",y" * 256
    products, reader = read(f"{header}\n{longest},,\nx,{A},\n")
    assert (len(products), len(shown_names(reader))) == (2, 2 + 257)
    assert read_errors(f"{header}\n{longest},z\n") == [("wrong_cell_count", 2, None, "z")]


def test_columns_are_available_after_the_header() -> None:
    reader = TableReader()
    reader.feed(b"Product Name,Input Image Urls")
    assert (reader.table, reader.headers) == (None, ())
    reader.feed(b"\n")
    assert reader.headers == ("Product Name", "Input Image Urls")


# --- encodings and dialects ------------------------------------------------------------------------

ROWS = f'S. No.,Product Name,Input Image Urls\r\n1,"Bücher, größer",{A}\r\n2,Ärger é,"{A},{B}"\r\n'
EXPECTED = [("1", "Bücher, größer", [A]), ("2", "Ärger é", [A, B])]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_reader_accepts_encodings_and_line_ends(encoding: str, end: str) -> None:
    assert values(ROWS.replace("\r\n", end).encode(encoding)) == EXPECTED
    assert values(ROWS.replace("\r\n", end).removesuffix(end).encode(encoding)) == EXPECTED


def test_reader_accepts_utf_16_big_endian_with_surrogate_pairs() -> None:
    table = b"\xfe\xff" + f"Product Name,Input Image Urls\n\U0001f600日本,{A}\n".encode("utf-16-be")
    assert values(table) == [("1", "\U0001f600日本", [A])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_reader_detects_the_delimiter(delimiter: str) -> None:
    header = delimiter.join(['"Color, size; or so"', "Product Name", '"Input Image\tUrls"'])
    row = delimiter.join(["x", "P", f'"{A}{delimiter}{B}"'])
    assert values(f"{header}\n{row}\n") == [("1", "P", [A, B])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_reader_detects_the_delimiter_of_an_unknown_header(delimiter: str) -> None:
    reader = read(delimiter.join(["a", "b", "c d"]) + "\n")[1]
    assert all('it has "a", "b", "c d".' in error.message for error in reader.errors)


def test_excel_separator_line_is_not_counted_as_a_row() -> None:
    table = f"sep=;\r\nProduct Name;Input Image Urls\r\nP;{A}\r\n"
    assert [p.row for p in read_valid(table)] == [2]


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
        (HEADER.encode("utf-32"), ("bad_encoding", 1, None, None)),
        (
            HEADER.encode() + "1,é".encode() + b"\n2,x\xc3",
            ("bad_encoding", 3, "Product Name", "C3"),
        ),
    ],
)
def test_invalid_bytes_are_bad_encoding_with_their_row_and_column(
    table: bytes, errors: tuple[str, int, str | None, str | None]
) -> None:
    assert read_errors(table)[-1] == errors


def test_incomplete_utf_8_character_after_ascii_is_read_as_windows_1252() -> None:
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
def test_binary_files_and_other_file_types_are_not_csv(data: bytes) -> None:
    assert [error[:2] for error in read_errors(data)] == [("not_csv", None)]


@pytest.mark.parametrize(
    "data", ["", "\ufeff", "\n", "\r\n \r\n\t\r\n", ",,\n , \n", "sep=,\n", '""\n']
)
def test_file_without_values_is_empty_file(data: str) -> None:
    reader = TableReader()
    reader.feed(data.encode())
    assert reader.close() == []
    assert [f.code for f in reader.errors] == ["empty_file"]


@pytest.mark.parametrize("rest", ["", "\n\n", ",,\n,,,,\n", "  ,\t\n"])
def test_header_without_rows_is_no_rows(rest: str) -> None:
    assert read_errors(HEADER + rest) == [("no_rows", None, None, None)]
    assert read_errors(HEADER.strip() + ("\n" + rest if rest else ""))[0][0] == "no_rows"


# --- rows and cells --------------------------------------------------------------------------------


def test_rows_are_numbered_like_spreadsheet_rows() -> None:
    table = (
        'S. No.,"Product\nName",Input Image Urls\r\n\r\n'
        f'1,"a\nb\r\nc",{A}\r\n,,\r\n   \n2,b,"{A}\n{B}"\r\r3,c,{A}\n\n\n4,d,{A}'
    )
    assert [(p.row, p.name) for p in read_valid(table)] == [
        (3, "a\nb\r\nc"),
        (6, "b"),
        (8, "c"),
        (11, "d"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_before_the_header_count_as_rows(end: str) -> None:
    table = f"{end * 50},,{end * 50}{HEADER.strip()}{end}1,P,{A}{end}"
    assert [p.row for p in read_valid(table)] == [102]


def test_quotes_are_read_as_rfc_4180_defines() -> None:
    table = HEADER + f'1,"a ""b"" c","{A}"\n2,12" wide,{A}\n3,"",\n"4","x"\t ,{A}\n5,"""",{A}\n'
    assert read_errors(table) == [
        ("empty_value", 4, "Product Name", ""),
        ("empty_value", 4, "Input Image Urls", ""),
    ]
    names = [name for _, name, _ in values(table.replace('3,"",\n', ""))]
    assert names == ['a "b" c', '12" wide', "x", '"']


def test_white_space_before_an_opening_quote_is_ignored() -> None:
    table = (
        'S. No., Product Name,\t"Input Image Urls"\n'
        f'1, "Mug, ""blue"" ",  "{A},{B}"\n "2" , cup " ,{A}\n 3 ,\t"a\n, ""b" , {A} \n'
    )
    assert values(table) == [
        ("1", 'Mug, "blue" ', [A, B]),
        ("2", ' cup " ', [A]),
        (" 3 ", 'a\n, "b', [A]),
    ]
    tabs = table.replace("\t", "").replace(",", "\t")
    assert [name for _, name, _ in values(tabs)] == ['Mug\t "blue" ', ' cup " ', 'a\n\t "b']


def test_text_after_a_quoted_cell_with_white_space_before_it_is_an_error() -> None:
    assert read_errors(f'{HEADER}1, "P" Q,{A}\n') == [("unclosed_quote", 2, "Product Name", None)]
    assert read_errors(f'{HEADER}1,P, "{A}') == [("unclosed_quote", 2, "Input Image Urls", None)]


@pytest.mark.parametrize("end", ["", "\r\n", "\x1a", "\r\n\x1a", "\0", "\r\n\0\0"])
def test_final_nul_and_control_z_are_not_part_of_the_last_row(end: str) -> None:
    assert values(f"{HEADER}1,P,{A}{end}") == [("1", "P", [A])]


def test_pipes_are_delimiters_or_separate_urls() -> None:
    assert values(f"Product Name|Input Image Urls\nP|{A}\n") == [("1", "P", [A])]
    assert values(f"Product Name,Input Image Urls\nA|B,{A}|{B}\n") == [("1", "A|B", [A, B])]
    assert values(f'Product Name|Input Image Urls\nP|"{A}|{B}"\n') == [("1", "P", [A, B])]
    assert values(f"Product Name|Input Image Urls\nP|{A}|{B}\n") == [("1", "P", [A, B])]


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
def test_unpaired_quotes_are_unclosed_quote(rows: str, errors: Errors) -> None:
    assert read_errors(HEADER + rows) == errors


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
def test_row_errors_are_the_same_in_short_and_long_files(rows: str, errors: Errors) -> None:
    assert read_errors(HEADER + rows) == errors
    before = f"0,fine,{A}\n" * 3000
    moved = [(code, 3002, column, value) for code, _, column, value in errors]
    assert read_errors(HEADER + before + rows + before) == moved


def test_url_error_message_names_the_position_of_the_url() -> None:
    reader = read(HEADER + f"1,P,{A} http:///a\n2,P,x\n")[1]
    assert reader.errors[0].message.startswith("URL 2 of 2 has no host name; ")
    assert reader.errors[1].message.startswith("The URL must be a complete web address, ")


def test_values_at_the_limits_are_valid() -> None:
    table = HEADER + f"1, {'x' * 512} ,{' '.join([A] * 1000)}\n2,P,http://h/{'x' * 8183}\n"
    assert [len(p.images) for p in read_valid(table)] == [1000, 1]


def test_quoted_cells_may_contain_tabs_and_line_breaks() -> None:
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
def test_unquoted_url_lists_in_the_last_column_are_joined(row: str, urls: list[str]) -> None:
    assert values(f"{HEADER}{row}\n")[0][2] == urls
    table = (HEADER + row + "\n").replace(",", ";")
    assert values(table)[0][2] == [url.replace(",", ";") for url in urls]


def test_unquoted_url_list_in_another_column_is_an_error() -> None:
    header = "Product Name,Input Image Urls,Color\n"
    assert read_errors(f"{header}P,{A},{B},red\n") == [("wrong_cell_count", 2, None, "red")]
    assert values(f"{header}P,{A},red,, ,\n") == [("1", "P", [A])]
    assert read_errors(f"{header}P,{A}\n")[0][0] == "wrong_cell_count"


# --- the whole table -------------------------------------------------------------------------------


def test_reader_keeps_the_first_100_errors_and_counts_all() -> None:
    reader = read(HEADER + "1,P,x y://\n" * 5000)[1]
    assert [f.row for f in reader.errors] == list(range(2, 52)) * 0 + [
        n // 2 + 2 for n in range(100)
    ]
    assert reader.error_count == 10_000


def test_reader_returns_no_products_after_an_error() -> None:
    reader = TableReader()
    row = f"1,P,{A}\n".encode()
    assert reader.feed(HEADER.encode() + row)
    assert reader.feed(b"x\n") == []
    assert reader.feed(row) == []
    assert reader.close() == []
    assert (reader.products, reader.images, reader.error_count) == (2, 2, 1)


def test_reading_stops_after_max_images() -> None:
    reader = TableReader(max_images=10)
    row = f"1,P,{A}\n".encode()
    reader.feed(HEADER.encode() + row * 10)
    assert reader.images == 10
    reader.feed(row)
    assert reader.images == 11
    reader.feed(row * 1000 + b"x\n")
    assert reader.close() == []
    assert (reader.images, reader.error_count) == (11, 0)


def test_record_is_limited_to_16_mib() -> None:
    limit = 16 * 2**20
    header = "Product Name,Input Image Urls,Note\n"
    start = f"P,{A},"
    largest = "x" * (limit - len(start))
    assert len(read(f"{header}{start}{largest}\n", 2**16)[0][0].extra[0]) == len(largest)
    for note in f"{largest}x", f'"{largest}\n"', "," * limit, '"",' * (limit // 3):
        reader = read(f"{header}{start}{note}\n{start}y\n,{A},z\n", 2**18)[1]
        assert [(f.code, f.row) for f in reader.errors] == [("too_long", 2), ("empty_value", 4)]


def test_memory_is_bounded_if_a_quote_is_never_closed() -> None:
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
        b"https://",
        b"http://h/a.jp,",
        b' "',
        b', "',
        b', "a" ',
        b"\x1a",
        b"\x00\n",
        b"|",
    ],
)
@pytest.mark.parametrize("start", ["", "a,b\n", HEADER, HEADER + '1,"', HEADER + "1,P," + A])
def test_reader_takes_linear_time_on_hostile_input(unit: bytes, start: str) -> None:
    """In quadratic time this would exceed the timeout of the test."""
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
        "short rows below unnamed columns before the named ones",
        "short rows below unnamed columns after the named ones",
        "detection of the delimiter",
    ],
)
def test_header_of_many_columns_is_scanned_once(header: str, rest: str, size: int | None) -> None:
    """If the header were scanned for each row or piece, this would exceed the timeout of the test."""
    reader = TableReader()
    reader.feed(header.encode())
    for start in range(0, len(rest), size or len(rest)):
        reader.feed(rest[start : start + (size or len(rest))].encode())
    reader.close()
    assert reader.error_count > 0


@pytest.mark.parametrize("row", ["x" * 2**19 + "://", "x," * 2**15, "x1," * 2**14])
def test_search_for_the_header_takes_linear_time(row: str) -> None:
    """In quadratic time this would exceed the timeout of the test."""
    read(f"{row}\n" * 9 + "x\n", 2**16)


# --- the cells of invalid rows -------------------------------------------------------------------


def error_cells(table: str) -> tuple[tuple[str, ...], list[tuple[str, ...] | None]]:
    """Return the shown columns of an invalid table, and the cells of each error."""
    assert read_errors(table)
    reader = read(table)[1]
    return reader.shown_columns, [error.cells for error in reader.errors]


def test_error_has_cells_of_its_row() -> None:
    columns, cells = error_cells(
        f'Colour,,Product Name,Input Image Urls\nred,x,Lamp,{A}\n\n"a, b",,,ftp://x\nred,,Mug,y\n'
    )
    assert columns == ("Colour", "Product Name", "Input Image Urls")
    assert cells == [("a, b", "", "ftp://x"), ("a, b", "", "ftp://x"), ("red", "Mug", "y")]


def test_row_with_another_number_of_cells_has_cells() -> None:
    columns, cells = error_cells(
        f"Product Name,Input Image Urls,Colour\nLamp\nLamp,{A},red,x\nA\x01B,{A},red\n"
    )
    assert columns == ("Product Name", "Input Image Urls", "Colour")
    assert cells == [("Lamp", "", ""), ("Lamp", A, "red", "x"), ("A\x01B", A, "red")]


def test_surplus_cells_of_urls_are_one_cell() -> None:
    columns, cells = error_cells(f"Product Name;Input Image Urls\nLamp;{A};{B};ftp://x;; \n")
    assert columns == ("Product Name", "Input Image Urls")
    assert cells == [("Lamp", f"{A};{B};ftp://x")]


def test_error_without_readable_cells_has_none() -> None:
    _, cells = error_cells(f'{HEADER}1,"Lamp"x,{A}\n2,,{A}\n')
    assert cells == [None, ("2", "", A)]
    assert error_cells("Title,Where\n1,2\n") == (("Title", "Where"), [None, None])


def test_cells_of_errors_are_limited() -> None:
    names = [f"Column {n}" for n in range(300)]
    urls = " ".join(f"https://a.example/{n}.jpg" for n in range(100)) + " ftp://x/y"
    table = f"{','.join(names)},Product Name,Input Image Urls\n{'x' * 999}{',' * 300},{urls}\n"
    columns, (for_name, for_url) = error_cells(table)
    assert columns == (*names[:48], "Product Name", "Input Image Urls")
    for cells in (for_name, for_url):
        assert cells is not None
        assert len(cells) == 50
        assert cells[0] == "x" * 198 + "…"
        assert all(len(cell) <= 200 for cell in cells)
    assert for_name is not None
    assert for_name[-1].startswith("https://a.example/0.jpg ")
    assert for_url is not None
    assert for_url[-1].startswith("…")
    assert for_url[-1].endswith("https://a.example/99.jpg ftp://x/y")
