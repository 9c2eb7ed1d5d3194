"""Kinds of tables that people upload: each is read as they mean it, or refused with the right error."""

from __future__ import annotations

import pytest

from imgsvc.table.reader import TableReader
from imgsvc.table_types import TableOptions

HEADER = "S. No.,Product Name,Input Image Urls\r\n"
A, B, C = (f"https://cdn.example/a/{n}.jpg" for n in (1, 2, 3))

KINDS: dict[str, tuple[str | bytes, list[tuple[str, list[str]]]]] = {
    "amazon": (
        (
            "TemplateType=fptcustom\tVersion=2024\tdo not modify\t\r\n"
            "SKU\tProduct Name\tMain Image URL\tOther Image Url\r\n"
            "item_sku\titem_name\tmain_image_url\tother_image_url1\r\n"
            f"P1\tPlate\t{A}\t{B}\r\n"
        ),
        [("Plate", [A, B])],
    ),
    "entity": (
        f"{HEADER}1,Plate,https://cdn.example/i?a=7&amp;b=9\r\n",
        [("Plate", ["https://cdn.example/i?a=7&b=9"])],
    ),
    "apostrophe": (f"{HEADER}1,Plate,'{A}\r\n", [("Plate", [A])]),
    "blank before a quote": (
        f'S. No., Product Name, Input Image Urls\r\n1, "Plate, blue", "{A},{B}"\r\n',
        [("Plate, blue", [A, B])],
    ),
    "blank before a quoted name": (f'{HEADER}1, "Plate", {A}\r\n', [("Plate", [A])]),
    "Ctrl-Z": (f"{HEADER}1,Plate,{A}\r\n\x1a", [("Plate", [A])]),
    "formula": (f'{HEADER}1,Plate,"=IMAGE(""{A}"")"\r\n', [("Plate", [A])]),
    "full stop": (f"{HEADER}1,Plate,{A}.\r\n", [("Plate", [A])]),
    "Google Merchant": (
        (
            "id\ttitle\tlink\timage_link\tadditional_image_link\r\n"
            f"1\tPlate\thttps://shop.example/p/1\t{A}\t{B},{C}\r\n"
        ),
        [("Plate", [A, B, C])],
    ),
    "numbered columns": (
        f"S. No.,Product Name,Image 1,Image 2,Image 3\r\n1,Plate,{A},{B},\r\n",
        [("Plate", [A, B])],
    ),
    "JSON list": (f'{HEADER}1,Plate,"[""{A}"",""{B}""]"\r\n', [("Plate", [A, B])]),
    "Python list": (f"{HEADER}1,Plate,\"['{A}', '{B}']\"\r\n", [("Plate", [A, B])]),
    "pipes": (f"{HEADER}1,Plate,{A}|{B} | {C}\r\n", [("Plate", [A, B, C])]),
    "PrestaShop": (
        (
            "Product ID;Active (0/1);Name *;Image URLs (x,y,z...);Delete existing images\r\n"
            f"1;1;Plate;{A},{B};0\r\n"
        ),
        [("Plate", [A, B])],
    ),
    "Shopify": (
        (
            "Handle,Title,Variant SKU,Image Src,Image Alt Text\r\n"
            f"plate,Plate,,{A},\r\nplate,,,{B},\r\nplate,,P2,,\r\nbowl,Bowl,B1,{C},\r\n"
        ),
        [("Plate", [A]), ("Plate", [B]), ("Plate", []), ("Bowl", [C])],
    ),
    "typographic quotes": (f"{HEADER}1,Plate,“{A}, {B}”\r\n", [("Plate", [A, B])]),
    "title above": (
        f"Acme catalogue,,\r\nexported 2026-11-01,,\r\n{HEADER}1,Plate,{A}\r\n",
        [("Plate", [A])],
    ),
    "URL of the page": (
        f"Name,URL,Image URL\r\nPlate,https://shop.example/p/1,{A}\r\n",
        [("Plate", [A])],
    ),
    "UTF-16 without a mark": (f"{HEADER}1,Plate,{A}\r\n".encode("utf-16-le"), [("Plate", [A])]),
    "WooCommerce": (
        (
            "ID,Type,SKU,Name,Published,Images,Parent\r\n"
            f'1,variable,P,Plate,1,"{A}, {B}",\r\n2,variation,P-1,Plate - Blue,1,,id:1\r\n'
        ),
        [("Plate", [A, B]), ("Plate - Blue", [])],
    ),
    "protocol-relative": (f"{HEADER}1,Plate,//cdn.example/a/1.jpg\r\n", [("Plate", [A])]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_table_of_this_kind_is_read_as_meant(kind: str) -> None:
    data, rows = KINDS[kind]
    reader = TableReader()
    products = reader.feed(data.encode() if isinstance(data, str) else data) + reader.close()
    assert reader.errors == []
    assert [(p.name, [image.text for image in p.images]) for p in products] == rows


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (f"{HEADER}1,Тарелка,{A}\r\n".encode("cp1251"), "bad_encoding"),
        (f"{HEADER}1,蓝色杯子,{A}\r\n".encode("gbk"), "bad_encoding"),
        (b"<table><tr><td>Product Name</td></tr></table>", "not_csv"),
        (f"{HEADER}1,Plate,{A}\r\n2,Cup,\r\n".encode(), "empty_value"),
    ],
    ids=["cp1251", "GBK", "a web page", "a row without an image"],
)
def test_table_of_this_kind_is_refused(data: bytes, code: str) -> None:
    reader = TableReader()
    assert reader.feed(data) + reader.close() == []
    assert [error.code for error in reader.errors] == [code]


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [("Тарелка", "cp1251", "Тарелка"), ("蓝色杯子", "gbk", "蓝色杯子"), ("皿", "shift_jis", "皿")],
)
def test_table_in_a_given_encoding_is_read(text: str, encoding: str, name: str) -> None:
    reader = TableReader(TableOptions(encoding=encoding))
    products = reader.feed(f"{HEADER}1,{text},{A}\r\n".encode(encoding)) + reader.close()
    assert reader.table is not None
    assert reader.table.encoding == encoding
    assert [product.name for product in products] == [name]


def test_row_without_an_image_is_read_if_rows_may_be_empty() -> None:
    reader = TableReader(TableOptions(allow_empty=True))
    products = reader.feed(f"{HEADER}1,Plate,{A}\r\n2,Cup,\r\n".encode()) + reader.close()
    assert [(p.name, len(p.images)) for p in products] == [("Plate", 1), ("Cup", 0)]
