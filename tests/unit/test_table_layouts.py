"""The layouts of shop systems: recognised by their own headers, returned with only the URLs changed.

`tests/data/layouts/NAME.csv` has the header that the system documents. In `NAME.compressed.csv` the URL
number k of the file is `https://img.example/k.jpg`.
"""

from __future__ import annotations

import csv
import io
import re
from itertools import count
from pathlib import Path

import pytest

from imgsvc.table.groups import ProductGroups
from imgsvc.table.layouts import LAYOUTS, recognise
from imgsvc.table.reader import TableReader
from imgsvc.table.writer import input_row
from imgsvc.table_types import (
    ColumnRole,
    InputTable,
    Product,
    TableOptions,
)
from tests.harness.tables import whole_row

DATA = Path(__file__).parents[1] / "data" / "layouts"
NO_OPTIONS = TableOptions()
A, B = "https://a.example/1.jpg", "http://b.example/2.jpg"


def read(
    table: str | bytes, options: TableOptions = NO_OPTIONS
) -> tuple[list[Product], TableReader]:
    reader = TableReader(options)
    data = table.encode() if isinstance(table, str) else table
    products = reader.feed(data)
    return products + reader.close(), reader


def read_valid(
    table: str | bytes, options: TableOptions = NO_OPTIONS
) -> tuple[list[Product], InputTable]:
    products, reader = read(table, options)
    assert reader.errors == []
    assert reader.table is not None
    return products, reader.table


def columns_of(table: InputTable, role: ColumnRole) -> list[str]:
    pairs = zip(table.columns.names, table.columns.roles, strict=True)
    return [name for name, its in pairs if its is role]


def rebuilt(
    products: list[Product], table: InputTable, *, remove_missing: bool = False, failed: int = 0
) -> list[list[str]]:
    """Return the table's rows with outputs. Image number `failed` has none."""
    numbers = count(1)
    rows = [list(row) for row in (*table.rows_above, table.columns.names)]
    for product in products:
        outputs = [
            None if n == failed else f"https://img.example/{n}.jpg"
            for _, n in zip(product.images, numbers, strict=False)
        ]
        row = whole_row(product)
        rows.append(list(input_row(table.columns, row, outputs, remove_missing=remove_missing)))
    return rows


# --- shop systems ------------------------------------------------------------------------------

GOLDEN: list[tuple[str, str, tuple[list[str], str, str | None], list[tuple[str, int]]]] = [
    (
        "standard",
        "standard",
        (["Input Image Urls"], "Product Name", None),
        [(" Mug ", 2), ("=1+1", 1)],
    ),
    (
        "shopify",
        "shopify",
        (["Image Src", "Variant Image"], "Title", "Handle"),
        [("Mug, blue", 2), ("Mug, blue", 2), ("Cup", 1), ("Mug, blue", 1), ("Pot", 0)],
    ),
    (
        "shopify_new",
        "shopify",
        (["Product image URL", "Variant image URL"], "Title", "URL handle"),
        [("Mug", 2), ("Mug", 1), ("Mug", 1), ("C", 1)],
    ),
    (
        "woocommerce",
        "woocommerce",
        (["Images"], "Name", None),
        [("Mug", 2), ("Mug - Blue", 0), ("Mug - Red", 1), ("Cup", 0)],
    ),
    (
        "magento",
        "magento",
        (["base_image", "small_image", "thumbnail_image", "additional_images"], "name", None),
        [("Duffle Bag", 5), ("Backpack", 0), ("Backpack", 1)],
    ),
    (
        "google",
        "google",
        (["image_link", "additional_image_link"], "title", None),
        [("Mug", 3), ("Mug", 1), ("Cup", 0)],
    ),
    (
        "prestashop",
        "prestashop",
        (["Image URLs (x,y,z...)"], "Name *", None),
        [("Mug", 2), ("Cup; small", 1), ("Pot", 0)],
    ),
    (
        "bigcommerce",
        "bigcommerce",
        (
            [f"Product Image {kind} - {n}" for n in (1, 2) for kind in ("File", "URL")],
            "Product Name",
            None,
        ),
        [("Mug", 2), ("[S]Size=Small", 0), ("Cup", 1)],
    ),
    (
        "bigcommerce_v3",
        "bigcommerce",
        (["Variant Image URL", "Internal Image URL (Export)", "Image URL (Import)"], "Name", None),
        [("Mug", 0), ("Mug", 1), ("Mug", 1), ("Mug", 1), ("Cup", 0), ("Cup", 1)],
    ),
    (
        "wix",
        "wix",
        (["productImageUrl"], "name", "handleId"),
        [("Mug", 2), ("Mug", 0), ("Cup", 1), ("Mug", 1)],
    ),
    (
        "etsy",
        "etsy",
        ([f"IMAGE{n}" for n in range(1, 11)], "TITLE", None),
        [("Mug", 2), ("Cup", 2)],
    ),
    (
        "amazon",
        "amazon",
        (["main_image_url", "other_image_url1", "other_image_url2"], "item_name", None),
        [("Mug", 2), ("Mug", 2), ("Cup", 0)],
    ),
    (
        "squarespace",
        "squarespace",
        (["Hosted Image URLs"], "Title", "Product ID [Non Editable]"),
        [("Mug", 2), ("Mug", 1), ("Cup", 2), ("Cup", 1)],
    ),
    (
        "generic",
        "generic",
        (["Image 1", "Photo 2", "image_url_3"], "Product Title", None),
        [("Mug, big", 2), ("Mug, big", 1), ("Cup", 1)],
    ),
]


@pytest.mark.parametrize(("file", "layout", "columns", "rows"), GOLDEN, ids=[g[0] for g in GOLDEN])
def test_layout_of_a_shop_system_is_recognised_and_returned(
    file: str,
    layout: str,
    columns: tuple[list[str], str, str | None],
    rows: list[tuple[str, int]],
) -> None:
    images, name, group = columns
    products, table = read_valid((DATA / f"{file}.csv").read_bytes())
    assert table.layout == layout
    assert columns_of(table, ColumnRole.IMAGE) == images
    assert columns_of(table, ColumnRole.NAME) == [name]
    assert columns_of(table, ColumnRole.GROUP) == ([] if group is None else [group])
    assert [(product.name, len(product.images)) for product in products] == rows
    expected = (DATA / f"{file}.compressed.csv").read_bytes().decode()
    reader = csv.reader(io.StringIO(expected, newline=""), delimiter=table.delimiter or "")
    assert rebuilt(products, table) == list(reader)


def test_every_golden_table_is_tested() -> None:
    files = {file.name.partition(".")[0] for file in DATA.iterdir()}
    assert files == {golden[0] for golden in GOLDEN}


def test_page_lists_the_layouts_in_order_with_headers_that_identify_them() -> None:
    text = (DATA.parents[2] / "docs" / "reference" / "csv.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z]+)` \| (.*) \|$", text.partition("| layout |")[2], re.MULTILINE)
    assert [name for name, _ in rows] == list(dict.fromkeys(layout.name for layout in LAYOUTS))
    for name, columns in rows:
        for alternative in re.split(", or ", columns):
            headers = re.findall("`([^`]+)`", alternative)
            assert recognise(headers) == name, headers


@pytest.mark.parametrize(
    ("header", "layout"),
    [
        ("Input Image Urls,Images,Name,SKU", "standard"),
        ("Images,Name,SKU", "woocommerce"),
        ("images,NAME,published", "woocommerce"),
        ("Images,Name", "generic"),
        ("Image Src,Handle,base_image", "shopify"),
        ("Image Src,Title", "generic"),
        ("base_image,name", "magento"),
        ("image link,title", "google"),
        ("Product Image File - 1,x", "bigcommerce"),
        ("Product Image URL - 1,x", "generic"),
        ("productImageUrl,name", "generic"),
        ("IMAGE1,TITLE", "generic"),
        ("IMAGE1,CURRENCY_CODE", "etsy"),
        ("main_image_url,item_name", "amazon"),
        ("Hosted Image URLs,Title", "squarespace"),
        *(
            (f"{header},SKU", "generic")
            for header in ("Image", "photos", "Picture", "Product Image")
        ),
        *((f"{header},SKU", "generic") for header in ("Image 1 URL", "image_url_2", "Photo #3")),
        *(
            (f"{header},SKU", "generic")
            for header in ("ImageSrc", "Image Links", "URL", "input urls")
        ),
        ("Image Alt Text,SKU", None),
        ("Image Position,Product URL", None),
        (f"Image,{A}", None),
        ("", None),
    ],
)
def test_recognise_returns_the_first_layout_that_matches(header: str, layout: str | None) -> None:
    assert recognise(header.split(",")) == layout


# --- the header --------------------------------------------------------------------------------


def test_more_exact_header_of_the_images_wins() -> None:
    products, table = read_valid(f"Name,URL,Image URL\nMug,https://shop.example/p,{A}\n")
    assert columns_of(table, ColumnRole.IMAGE) == ["Image URL"]
    assert columns_of(table, ColumnRole.EXTRA) == ["URL"]
    assert products[0].extra == ("https://shop.example/p",)


def test_best_name_column_wins_in_the_generic_layout() -> None:
    _, table = read_valid(f"Product,Name,Title,Image\n1,2,3,{A}\n")
    assert columns_of(table, ColumnRole.NAME) == ["Title"]


def test_rows_above_the_header_are_kept_and_not_read() -> None:
    table = f"Acme\n\n,exported,\nSKU,Name,Image\n1,Mug,{A}\n"
    products, found = read_valid(table)
    assert found.rows_above == (("Acme",), ("", "exported", ""))
    assert [(p.row, p.name) for p in products] == [(5, "Mug")]


def test_separator_line_is_kept_above_the_header() -> None:
    products, found = read_valid(f"sep=|\r\nName|Image\r\nMug|{A}\r\n")
    assert (found.delimiter, found.rows_above) == ("|", (("sep=", ""),))
    assert [p.row for p in products] == [2]


@pytest.mark.parametrize(("lines", "is_found"), [(9, True), (10, False)])
def test_header_is_searched_in_the_first_ten_rows(lines: int, is_found: bool) -> None:
    _, reader = read("title,x\n" * lines + f"Name,Image\nMug,{A}\n")
    assert [error.code for error in reader.errors] == ([] if is_found else ["missing_column"] * 2)


def test_row_with_a_url_is_never_the_header() -> None:
    _, reader = read(f"Image,{A}\nMug,{B}\n")
    assert [(error.code, error.row) for error in reader.errors] == [("missing_column", 1)] * 2


def test_single_cell_above_the_header_is_a_title() -> None:
    _, table = read_valid(f"Product images\nName,Picture\nMug,{A}\n")
    assert table.columns.names == ("Name", "Picture")


def test_table_may_have_only_an_image_column() -> None:
    products, table = read_valid(f"Images\n{A}\n{B}\n")
    assert [(p.name, p.serial_number) for p in products] == [("Row 2", "1"), ("Row 3", "2")]
    assert table.columns.names == ("Images",)


def test_amazon_labels_without_field_names_are_the_header() -> None:
    products, table = read_valid(f"SKU\tProduct Name\tMain Image URL\nM1\tMug\t{A}\n")
    assert (table.layout, table.columns.names[0]) == ("amazon", "SKU")
    assert [(p.row, p.name) for p in products] == [(2, "Mug")]


def test_rows_above_the_header_are_limited_to_1_mib() -> None:
    _, reader = read(f"{'x' * 2**20}y\n,z\nName,Image\nMug,{A}\n")
    assert [(error.code, error.row) for error in reader.errors] == [("too_long", 1)]
    _, reader = read(f"{'x' * 2**20},y\nName,Foto\nMug,{A}\n")
    assert [(error.code, error.row) for error in reader.errors] == [("missing_column", 1)] * 2
    assert read(f"{'x' * (2**20 - 1)}\nName,Image\nMug,{A}\n")[1].errors == []


def test_missing_column_names_the_headers_and_those_with_image_urls() -> None:
    table = f"Title,Web,Foto,Bild\nMug,https://shop.example/p,{A},\nCup,,,{B}?v=1\n"
    _, reader = read(table)
    errors = reader.errors
    assert reader.headers == ("Title", "Web", "Foto", "Bild")
    assert [error.column for error in errors] == ["Product Name", "Input Image Urls"]
    assert 'it has "Title", "Web", "Foto", "Bild".' in errors[1].message
    assert 'Image URLs seem to be in "Foto", "Bild": choose it as imageColumn.' in errors[1].message


def test_status_csv_with_a_status_column_of_the_shop_keeps_it() -> None:
    products, table = read_valid(
        "S. No.,Product Name,Input Image Urls,Output Image Urls,Request Id,Status,Error,Status\n"
        f"1,Mug,{A},,r,completed,,draft\n2,Cup,,,r,completed,,active\n"
    )
    assert table.columns.extra == ("Status",)
    assert [p.extra[table.columns.status_positions[0]] for p in products] == ["draft", "active"]


def test_status_csv_may_have_further_columns_named_like_the_standard_ones() -> None:
    own = ("Product Name", "Input Image Urls", "Serial Number")
    products, table = read_valid(
        "S. No.,Product Name,Input Image Urls,Output Image Urls,Request Id,Status,Error,"
        f"{','.join(own)}\n7,Mug,{A},,r,completed,,Cup,x,9\n"
    )
    assert table.columns.extra == own
    assert [(p.serial_number, p.name, [i.text for i in p.images]) for p in products] == [
        ("7", "Mug", [A])
    ]


def test_status_of_a_shop_is_an_extra_column() -> None:
    _, table = read_valid(f"Handle,Title,Image Src,Status\nmug,Mug,{A},active\n")
    assert columns_of(table, ColumnRole.EXTRA) == ["Status"]


# --- options -----------------------------------------------------------------------------------


def test_image_columns_and_name_column_can_be_chosen() -> None:
    options = TableOptions(name_column="artikel", image_columns=("Foto", " Bild "))
    products, table = read_valid(f"Artikel;Foto;Bild;Image\nMug;{A};{B};x\n", options)
    assert table.layout == "generic"
    assert columns_of(table, ColumnRole.IMAGE) == ["Foto", "Bild"]
    assert columns_of(table, ColumnRole.NAME) == ["Artikel"]
    assert [(p.name, [i.text for i in p.images]) for p in products] == [("Mug", [A, B])]


def test_chosen_column_finds_the_header_below_other_rows() -> None:
    options = TableOptions(image_columns=("Foto",))
    _, table = read_valid(f"Images of May,\nImage,Name\nFoto,Name\n{A},Mug\n", options)
    assert table.columns.names == ("Foto", "Name")


def test_chosen_columns_keep_the_layout_and_its_group() -> None:
    options = TableOptions(image_columns=("Variant Image",))
    products, table = read_valid(
        f"Handle,Title,Image Src,Variant Image\nmug,Mug,{A},{B}\nmug,,,{B}\n", options
    )
    assert table.layout == "shopify"
    assert [(p.name, len(p.images)) for p in products] == [("Mug", 1), ("Mug", 1)]


def test_several_chosen_columns_are_no_duplicates_in_the_standard_layout() -> None:
    options = TableOptions(image_columns=("Input Image Urls", "Zoom"))
    products, table = read_valid(f"Product Name,Input Image Urls,Zoom\nMug,{A},{B}\n", options)
    assert (table.layout, len(products[0].images)) == ("standard", 2)


def test_chosen_column_that_is_missing_is_reported_by_its_name() -> None:
    options = TableOptions(name_column="Titel", image_columns=("Foto", "Bild"))
    _, reader = read(f"Name,Image,Foto\nMug,{A},{B}\n", options)
    assert [(e.code, e.column) for e in reader.errors] == [
        ("missing_column", "Bild"),
        ("missing_column", "Titel"),
    ]


# --- names and positions -----------------------------------------------------------------------


def test_row_without_name_takes_that_of_its_group_or_of_the_row_above() -> None:
    products, _ = read_valid(
        f"Handle,Title,Variant SKU,Image Src\na,A,,{A}\nb,B,,{A}\na,,S,{A}\n,,S,{A}\n,C,,{A}\n,,,{A}\n"
        f"d,,S4,{A}\nd,,,{A}\n"
    )
    names = ["A", "B", "A", "A", "C", "C", "S4", "d"]
    assert [p.name for p in products] == names
    assert [p.first_position for p in products] == [1, 1, 2, 3, 1, 2, 1, 2]


def test_row_without_any_name_takes_its_sku_handle_id_or_number() -> None:
    table = f"ID,SKU,Handle,Image\n1,s,h,{A}\n1,,h,{A}\n1,,,{A}\n,,,{A}\n"
    assert [p.name for p in read_valid(table)[0]] == ["s", "h", "1", "Row 5"]


def test_name_of_a_group_is_the_latest_one() -> None:
    products, _ = read_valid(f"Handle,Title,Image Src\na,A,{A}\na,B,{A}\na,,{A}\n")
    assert [(p.name, p.first_position) for p in products] == [("A", 1), ("B", 2), ("B", 3)]


def test_groups_are_remembered_up_to_a_limit() -> None:
    groups = ProductGroups(limit=2)
    for key in "abca":
        groups.find(key, key.upper() if key != "a" else "")
    assert [groups.find(key, "").name for key in "ca"] == ["C", ""]
    long = "k" * 10_000
    groups.find(long, "Long")
    assert groups.find(long, "").name == "Long"
    assert groups.find("k" * 9_999, "").name == ""


def test_source_cells_are_kept_only_if_name_and_urls_do_not_rebuild_them() -> None:
    products, _ = read_valid(f'Name,Image\nMug,{A}\nMug,"{A},{B}"\nMug,"{A}, {B}"\n,{A}\nMug,\n')
    assert [p.source is None for p in products] == [True, True, False, False, True]
    assert products[2].source is not None
    assert products[2].source.images == (("", A, ", ", B, ""),)
    assert products[3].source is not None
    assert products[3].source.name == ""


# --- image cells -------------------------------------------------------------------------------


def test_text_in_image_cells_passes_through_outside_the_standard_layout() -> None:
    text = f'Name,Image,Image 2\nMug,mug.jpg,"big.jpg, {A}"\nCup,N/A,data:x\n'
    products, table = read_valid(text)
    assert [[i.text for i in p.images] for p in products] == [[A], []]
    assert rebuilt(products, table)[1:] == [
        ["Mug", "mug.jpg", "big.jpg, https://img.example/1.jpg"],
        ["Cup", "N/A", "data:x"],
    ]
    assert read("Name,Image\nMug,ftp://x/y\n")[1].errors[0].code == "unsupported_scheme"
    assert read("Product Name,Input Image Urls\nMug,N/A\n")[1].errors[0].code == "invalid_url"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("Mug,mug.jpg\n", "Write full URLs"),
        ("Mug,N/A\nCup,-\nPot,None\nPan,NULL\nJar,\n", "No row has an image."),
        ("", "The file has a header but no products."),
    ],
)
def test_table_without_any_url_is_no_rows(rows: str, message: str) -> None:
    _, reader = read(f"Name,Image\n{rows}")
    assert [error.code for error in reader.errors] == ["no_rows"]
    assert message in reader.errors[0].message


def test_row_without_image_needs_allow_empty_in_the_standard_layout() -> None:
    table = f"Product Name,Input Image Urls\nMug,{A}\nCup,\n"
    assert read(table)[1].errors[0].code == "empty_value"
    products, _ = read_valid(table, TableOptions(allow_empty=True))
    assert [len(p.images) for p in products] == [1, 0]
    _, reader = read("Product Name,Input Image Urls\nCup,\n", TableOptions(allow_empty=True))
    assert [error.code for error in reader.errors] == ["no_rows"]


def test_urls_of_all_image_columns_count_for_the_limit() -> None:
    cell = " ".join([A] * 600)
    _, reader = read(f"Name,Image,Image 2\nMug,{cell},{cell}\n")
    assert [(e.code, e.column) for e in reader.errors] == [("too_many_urls", "Image 2")]


def test_missing_output_keeps_its_url_or_is_removed() -> None:
    products, table = read_valid(f'Name,Image,SKU\nMug,"{A}; {B}",M\nCup,{A},C\n')
    assert rebuilt(products, table, failed=2)[1][1] == f"https://img.example/1.jpg; {B}"
    removed = rebuilt(products, table, failed=2, remove_missing=True)
    assert removed[1] == ["Mug", "https://img.example/1.jpg", "M"]
    removed = rebuilt(products, table, failed=3, remove_missing=True)
    assert removed[2] == ["Cup", "", "C"]


# --- skipped rows ------------------------------------------------------------------------------

SKIP = TableOptions(skip_invalid=True)


def test_invalid_rows_are_skipped_with_their_errors_and_cells() -> None:
    table = f"Product Name,Input Image Urls,Size\nMug,{A},S\n,ftp://x,M\nCup,{B},L\nPot\n"
    products, reader = read(table, SKIP)
    assert not reader.refused
    assert (reader.products, reader.skipped, reader.images, reader.error_count) == (2, 2, 2, 3)
    assert [p.serial_number for p in products] == ["1", "2", "3", "4"]
    assert [bool(p.errors) for p in products] == [False, True, False, True]
    assert products[1].cells == ("", "ftp://x", "M")
    assert [error.code for error in products[1].errors] == ["empty_value", "unsupported_scheme"]
    assert products[1].extra == ("M",)
    assert products[3].cells == ("Pot",)
    assert [error.row for error in reader.errors] == [3, 3, 5]
    assert reader.errors[0].cells == ("", "ftp://x", "M")


def test_skipped_row_has_at_most_100_errors() -> None:
    urls = " ".join(f"x{n}://h" for n in range(300))
    products, reader = read(f"Product Name,Input Image Urls\nMug,{urls}\nMug,{A}\n" * 1, SKIP)
    assert (len(products[0].errors), reader.error_count, len(reader.errors)) == (100, 300, 100)


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (f'Product Name,Input Image Urls\nMug,{A}\nCup,"{A}\n', "unclosed_quote"),
        (f"Name,x\nMug,{A}\n", "missing_column"),
        (f"Product Name,Input Image Urls\nCup,{A}\x81\n", "control_character"),
        ("Product Name,Input Image Urls\n,x\nMug,y\n", "no_rows"),
    ],
)
def test_errors_of_the_file_refuse_it_despite_skipping(table: str, code: str) -> None:
    _, reader = read(table, SKIP)
    assert reader.refused
    assert code in [error.code for error in reader.errors]
    assert len(reader.errors) <= 100


# --- worksheets --------------------------------------------------------------------------------


def test_rows_of_a_worksheet_are_read_like_those_of_a_file() -> None:
    reader = TableReader()
    products = reader.feed_rows(
        1, [["Acme"], [], ["SKU", "Name", "Image", "Note"], ["1", "Mug", A]]
    )
    products += reader.feed_rows(9, [["2", "Cup", f"{A} {B}", "x"]])
    products += reader.close()
    assert reader.errors == []
    assert [(p.row, p.name, p.extra) for p in products] == [
        (4, "Mug", ("1", "")),
        (9, "Cup", ("2", "x")),
    ]
    assert reader.table is not None
    assert (reader.table.encoding, reader.table.delimiter) == (None, None)
    assert reader.table.rows_above == (("Acme",),)


def test_control_character_in_a_worksheet_is_an_error() -> None:
    reader = TableReader()
    reader.feed_rows(1, [["Name", "Image"], ["M\x01", A]])
    reader.close()
    assert [(e.code, e.row) for e in reader.errors] == [("control_character", 2)]


def test_empty_worksheet_is_empty_file() -> None:
    reader = TableReader()
    assert reader.feed_rows(1, [[], [""]]) + reader.close() == []
    assert [error.code for error in reader.errors] == ["empty_file"]
