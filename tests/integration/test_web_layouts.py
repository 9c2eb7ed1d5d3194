"""Tests of uploads in a shop's own layout, and of the CSV in that layout, through the HTTP API."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imgsvc.web.schema.responses import AcceptedUpload, DryRunResult, RequestList, StatusResponse
from tests.harness.http import HttpHarness, HttpResponse, open_http

CSV = {"Content-Type": "text/csv"}
A = "http://a.example"
SHOP = (
    "Report of 28 November\r\n"
    "Handle;Title;Image Src;Price;Variant Image\r\n"
    f"mug;Mug;{A}/1.jpg;1,50;{A}/2.jpg\r\n"
    f"mug;;{A}/3.jpg;;\r\n"
    "bag;Bag;;9;\r\n"
    f'cup;Cup;"{A}/4.jpg; {A}/5.jpg";3;{A}/6.jpg\r\n'
).encode()
INVALID = (
    f"S. No.,Product Name,Input Image Urls,Colour\n1,Lamp,{A}/1.jpg,red\n"
    f"2,,ftp://b.example/2.jpg,blue\n3,Shelf,{A}/3.jpg,green\n4,Desk\n"
).encode()


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def upload(http: HttpHarness, body: bytes, query: str = "") -> Any:
    """Upload a file, and return the JSON of the 201."""
    response = await http.post(f"/processImages{query}", body, CSV)
    assert response.status == 201, response.body
    AcceptedUpload.model_validate_json(response.body, strict=True)
    return response.json()


async def finish(http: HttpHarness, failed: Sequence[str] = ()) -> None:
    """Fail the images whose URLs have these endings. Complete the others."""
    claims = await http.claim()
    await http.complete([c for c in claims if not c.url.endswith(tuple(failed))])
    await http.fail([c for c in claims if c.url.endswith(tuple(failed))])


async def outputs_of(http: HttpHarness, request_id: str) -> dict[str, str]:
    """Return the output URL of each completed image by its input URL."""
    status = (await http.get(f"/checkStatus/{request_id}?format=json")).json()
    images = [image for product in status["products"] for image in product["images"]]
    return {image["inputUrl"]: image["outputUrl"] for image in images if image["outputUrl"]}


def replaced(text: bytes, outputs: dict[str, str]) -> bytes:
    for url, output in outputs.items():
        text = text.replace(url.encode(), output.encode())
    return text


def rows_of(response: HttpResponse) -> list[list[str]]:
    return list(csv.reader(io.StringIO(response.body.decode(), newline="")))


async def test_upload_and_status_say_how_the_table_was_read(http: HttpHarness) -> None:
    accepted = await upload(http, SHOP, "?name=Spring%20sale.csv")
    expected = {
        "name": "Spring sale.csv",
        "layout": "shopify",
        "encoding": "utf-8",
        "skipped": 0,
        "errors": [],
        "errorCount": 0,
        "products": 4,
        "images": 6,
    }
    assert expected.items() <= accepted.items()
    response = await http.get(f"/checkStatus/{accepted['requestId']}?format=json")
    status = response.json()
    StatusResponse.model_validate_json(response.body, strict=True)
    assert (status["name"], status["layout"], status["skipped"]) == (
        "Spring sale.csv",
        "shopify",
        0,
    )
    assert [p["productName"] for p in status["products"]] == ["Mug", "Mug", "Bag", "Cup"]
    assert status["products"][2]["status"] == "completed"
    assert status["products"][2]["errors"] == []
    listed = await http.get("/listRequests")
    RequestList.model_validate_json(listed.body, strict=True)
    assert [each["name"] for each in listed.json()["requests"]] == ["Spring sale.csv"]


async def test_layout_input_returns_upload_with_only_urls_replaced(http: HttpHarness) -> None:
    request_id = (await upload(http, SHOP))["requestId"]
    path = f"/checkStatus/{request_id}?layout=input"
    assert (await http.get(path)).body == SHOP
    await finish(http, failed=["/2.jpg", "/5.jpg"])
    outputs = await outputs_of(http, request_id)
    assert len(outputs) == 4
    response = await http.get(path)
    assert response.body == replaced(SHOP, outputs)
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    empty = replaced(SHOP, outputs).replace(f"{A}/2.jpg".encode(), b"")
    empty = empty.replace(
        f'"{outputs[f"{A}/4.jpg"]}; {A}/5.jpg"'.encode(), outputs[f"{A}/4.jpg"].encode()
    )
    assert (await http.get(f"{path}&failed=empty")).body == empty


async def test_standard_layout_has_names_groups_and_all_images(http: HttpHarness) -> None:
    request_id = (await upload(http, SHOP))["requestId"]
    header, *rows = rows_of(await http.get(f"/checkStatus/{request_id}"))
    assert header[7:] == ["Handle", "Price"]
    assert [row[:4] for row in rows] == [
        ["1", "Mug", f"{A}/1.jpg,{A}/2.jpg", ","],
        ["2", "Mug", f"{A}/3.jpg", ""],
        ["3", "Bag", "", ""],
        ["4", "Cup", f"{A}/4.jpg,{A}/5.jpg,{A}/6.jpg", ",,"],
    ]
    assert [row[5:] for row in rows][2:] == [
        ["completed", "", "bag", "9"],
        ["pending", "", "cup", "3"],
    ]


async def test_only_failed_keeps_all_columns_and_only_failed_urls(http: HttpHarness) -> None:
    request_id = (await upload(http, SHOP))["requestId"]
    await finish(http, failed=["/2.jpg", "/5.jpg"])
    response = await http.get(f"/checkStatus/{request_id}?only=failed&layout=input")
    assert rows_of(response) == [
        ["Handle", "Title", "Image Src", "Price", "Variant Image"],
        ["mug", "Mug", "", "1,50", f"{A}/2.jpg"],
        ["cup", "Cup", f"{A}/5.jpg", "3", ""],
    ]


@pytest.mark.parametrize(
    ("mark", "codec", "name"),
    [
        (b"\xef\xbb\xbf", "utf-8", "utf-8"),
        (b"", "cp1252", "cp1252"),
        (b"\xff\xfe", "utf-16-le", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be", "utf-16-be"),
    ],
)
async def test_encoding_input_returns_the_uploaded_bytes(
    http: HttpHarness, mark: bytes, codec: str, name: str
) -> None:
    text = f"Product Name\tInput Image Urls\tNote\r\nFlasche grün\t{A}/1.jpg\tÜbergröße\r\n"
    accepted = await upload(http, mark + text.encode(codec))
    assert accepted["encoding"] == name
    path = f"/checkStatus/{accepted['requestId']}?layout=input"
    in_utf8 = await http.get(path)
    assert in_utf8.body == (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    unchanged = await http.get(f"{path}&encoding=input")
    assert unchanged.body == mark + text.encode(codec)
    assert unchanged.headers["Content-Type"] == f"text/csv; charset={name}"


async def test_excel_adds_mark_and_delimiter_of_upload(http: HttpHarness) -> None:
    path = f"/checkStatus/{(await upload(http, SHOP))['requestId']}"
    for option in ("excel", "bom"):
        body = (await http.get(f"{path}?{option}=true")).body
        assert body.startswith(b"\xef\xbb\xbfS. No.;Product Name;Input Image Urls;")
    assert (await http.get(f"{path}?excel=true&layout=input")).body == b"\xef\xbb\xbf" + SHOP
    assert (await http.get(f"{path}?excel=false")).body.startswith(b"S. No.,")


async def test_skipped_rows_are_reported_everywhere(http: HttpHarness) -> None:
    assert (await http.post("/processImages", INVALID, CSV)).status == 400
    accepted = await upload(http, INVALID, "?onInvalid=skip")
    counts = [accepted[key] for key in ("products", "images", "skipped", "errorCount")]
    assert counts == [2, 2, 2, 3]
    assert [(e["row"], e["column"], e["code"]) for e in accepted["errors"]] == [
        (3, "Product Name", "empty_value"),
        (3, "Input Image Urls", "unsupported_scheme"),
        (5, None, "wrong_cell_count"),
    ]
    assert set(accepted["errors"][0]) == {"row", "column", "code", "message", "value"}
    await finish(http)
    request_id = accepted["requestId"]
    status = (await http.get(f"/checkStatus/{request_id}?format=json")).json()
    assert (status["status"], status["skipped"], status["productsTotal"]) == ("completed", 2, 4)
    assert [p["status"] for p in status["products"]] == ["completed", "skipped"] * 2
    assert [e for p in status["products"] for e in p["errors"]] == accepted["errors"]
    _, first, skipped, _, short = rows_of(await http.get(f"/checkStatus/{request_id}"))
    assert (first[1], first[5]) == ("Lamp", "completed")
    assert skipped[:6] == ["2", "", "ftp://b.example/2.jpg", "", request_id, "skipped"]
    assert skipped[6].startswith("empty_value: The product has no name")
    assert "; unsupported_scheme: " in skipped[6]
    assert not skipped[6].endswith(".")
    assert skipped[7:] == ["blue"]
    assert (short[:2], short[5], short[7:]) == (["4", "Desk"], "skipped", [""])


async def test_skipped_rows_come_back_unchanged(http: HttpHarness) -> None:
    request_id = (await upload(http, INVALID, "?onInvalid=skip"))["requestId"]
    await finish(http, failed=["/3.jpg"])
    outputs = await outputs_of(http, request_id)
    expected = replaced(INVALID, outputs).replace(b"\n", b"\r\n")
    assert (await http.get(f"/checkStatus/{request_id}?layout=input")).body == expected
    failed = await http.get(f"/checkStatus/{request_id}?only=failed")
    lines = INVALID.splitlines(keepends=True)
    assert failed.body == b"".join([lines[0], *lines[2:]]).replace(b"\n", b"\r\n")
    as_json = (await http.get(f"/checkStatus/{request_id}?only=failed&format=json")).json()
    assert [p["status"] for p in as_json["products"]] == ["skipped", "failed", "skipped"]
    assert as_json["productsTotal"] == 3


async def test_skipped_rows_and_failed_images_share_pages_in_order(http: HttpHarness) -> None:
    rows = [f"{n},{'' if n % 3 else 'Name'},{A}/{n}.jpg\n" for n in range(2_000)]
    body = "".join(["S. No.,Product Name,Input Image Urls\n", *rows]).encode()
    request_id = (await upload(http, body, "?onInvalid=skip"))["requestId"]
    await http.fail(await http.claim())
    failed = rows_of(await http.get(f"/checkStatus/{request_id}?only=failed"))
    assert [int(row[0]) for row in failed[1:]] == list(range(2_000))


async def test_file_of_which_no_row_is_valid_is_refused(http: HttpHarness) -> None:
    body = b"Product Name,Input Image Urls\n,http://a.example/1.jpg\n"
    problem = (await http.post("/processImages?onInvalid=skip", body, CSV)).problem()
    assert problem["errors"][0]["code"] == "no_rows"
    assert (await http.get("/listRequests")).json()["requests"] == []


async def test_replayed_upload_has_same_errors(http: HttpHarness) -> None:
    rows = "".join(f",{A}/{n}.jpg\n" for n in range(150))
    body = f"Product Name,Input Image Urls\nLamp,{A}/x.jpg\n{rows}".encode()
    headers = {**CSV, "Idempotency-Key": "k"}
    first = await http.post("/processImages?onInvalid=skip", body, headers)
    again = await http.post("/processImages?onInvalid=skip", body, headers)
    assert (first.status, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.body == first.body
    assert (len(first.json()["errors"]), first.json()["errorCount"]) == (100, 150)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?onInvalid=skip&allowEmpty=true",
        "?onInvalid=skip&name=x",
        "?onInvalid=skip&encoding=cp1251",
    ],
)
async def test_idempotency_key_with_other_table_options_returns_422(
    http: HttpHarness, query: str
) -> None:
    body = f"Product Name,Input Image Urls\nLamp,{A}/x.jpg\n".encode()
    headers = {**CSV, "Idempotency-Key": "k"}
    assert (await http.post("/processImages?onInvalid=skip", body, headers)).status == 201
    assert (await http.post(f"/processImages{query}", body, headers)).status == 422


async def test_file_name_is_no_option_for_idempotency(http: HttpHarness) -> None:
    body = f"Product Name,Input Image Urls\nLamp,{A}/x.jpg\n".encode()
    names = []
    for file_name in ("a.csv", "b.csv"):
        form = aiohttp.FormData()
        form.add_field("file", body, filename=file_name)
        response = await http.post("/processImages", form, {"Idempotency-Key": "k"})
        assert response.status == 201
        names.append(response.json()["name"])
    assert names == ["a.csv", "a.csv"]


async def test_dry_run_shows_columns_and_first_products(http: HttpHarness) -> None:
    response = await http.post("/processImages?dryRun=true&name=N", SHOP, CSV)
    DryRunResult.model_validate_json(response.body, strict=True)
    result = response.json()
    assert (result["name"], result["layout"], result["delimiter"]) == ("N", "shopify", ";")
    assert [(column["name"], column["role"]) for column in result["columns"]] == [
        ("Handle", "group"),
        ("Title", "name"),
        ("Image Src", "image"),
        ("Price", "extra"),
        ("Variant Image", "image"),
    ]
    assert result["preview"] == [
        {
            "row": 3,
            "serialNumber": "1",
            "productName": "Mug",
            "inputUrls": [f"{A}/1.jpg", f"{A}/2.jpg"],
        },
        {"row": 4, "serialNumber": "2", "productName": "Mug", "inputUrls": [f"{A}/3.jpg"]},
        {"row": 5, "serialNumber": "3", "productName": "Bag", "inputUrls": []},
    ]


async def test_name_and_image_columns_can_be_chosen(http: HttpHarness) -> None:
    body = f"Titre,Photo A,Photo B,Lien\nLampe,{A}/1.jpg,{A}/2.jpg,{A}/\n".encode()
    query = "?nameColumn=Titre&imageColumn=Photo%20A&imageColumn=Photo%20B"
    accepted = await upload(http, body, query)
    assert (accepted["layout"], accepted["images"]) == ("generic", 2)
    row = rows_of(await http.get(f"/checkStatus/{accepted['requestId']}"))[1]
    assert row[1:3] == ["Lampe", f"{A}/1.jpg,{A}/2.jpg"]
    missing = await http.post("/processImages?imageColumn=Bild", body, CSV)
    assert missing.problem()["errors"][0]["code"] == "missing_column"


@pytest.mark.parametrize("last", [True, False])
async def test_form_options_that_change_reading_may_follow_the_file(
    http: HttpHarness, last: bool
) -> None:
    rows = "".join(f"Лампа {n},{A}/{n}.jpg,{A}/b{n}.jpg,\n" for n in range(3_000))
    file = f"Titre,Photo A,Photo B,Image\n{rows}".encode()
    fields = [("imageColumn", "Photo A"), ("imageColumn", "Photo B"), ("nameColumn", "Titre")]
    form = aiohttp.FormData(quote_fields=False)
    for name, value in [] if last else fields:
        form.add_field(name, value)
    form.add_field("file", file, filename="Лампы.csv")
    for name, value in fields if last else []:
        form.add_field(name, value)
    response = await http.post("/processImages", form)
    assert response.status == 201, response.body
    accepted = response.json()
    assert (accepted["name"], accepted["products"], accepted["images"]) == (
        "Лампы.csv",
        3_000,
        6_000,
    )
    row = rows_of(await http.get(f"/checkStatus/{accepted['requestId']}"))[1]
    assert row[1:3] == ["Лампа 0", f"{A}/0.jpg,{A}/b0.jpg"]
    assert len((await http.get("/listRequests")).json()["requests"]) == 1


@pytest.mark.parametrize("last", [True, False])
async def test_encoding_option_reads_file_that_is_refused_without_it(
    http: HttpHarness, last: bool
) -> None:
    text = f"Product Name,Input Image Urls\r\nЛампа настольная,{A}/1.jpg\r\n"
    file = text.encode("cp1251")
    problem = (await http.post("/processImages", file, CSV)).problem()
    assert problem["errors"][0]["code"] == "bad_encoding"
    form = aiohttp.FormData(quote_fields=False)
    if not last:
        form.add_field("encoding", "windows-1251")
    form.add_field("file", file, filename="p.csv")
    if last:
        form.add_field("encoding", "windows-1251")
    accepted = (await http.post("/processImages", form)).json()
    assert accepted["encoding"] == "cp1251"
    path = f"/checkStatus/{accepted['requestId']}?layout=input"
    assert (await http.get(path)).body == text.encode()
    assert (await http.get(f"{path}&encoding=input")).body == file


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("products.csv", "products.csv"),
        ("C:\\fakepath\\products.csv", "products.csv"),
        ("/home/me/x.csv", "x.csv"),
        ("x" * 300 + ".csv", "x" * 200),
        ("dir/", None),
    ],
)
async def test_name_is_base_name_of_form_file(
    http: HttpHarness, file_name: str, name: str | None
) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="f"; filename="{file_name}"\r\n\r\n'
    body = f"{head}Product Name,Input Image Urls\nLamp,{A}/x.jpg\n\r\n--b--\r\n".encode()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = await http.post("/processImages", body, headers)
    assert (response.status, response.json()["name"]) == (201, name)
    with_option = await http.post("/processImages?name=Mine", body, headers)
    assert with_option.json()["name"] == "Mine"


@pytest.mark.parametrize(
    "query",
    [
        "name=",
        "name=%20",
        f"name={'x' * 201}",
        "name=a%00b",
        "name=a&name=b",
        "nameColumn=",
        "imageColumn=",
        "encoding=rot13",
        "encoding=utf-16",
        "encoding=nonsense",
        "encoding=%00",
        "allowEmpty=1",
        "onInvalid=ignore",
    ],
)
async def test_invalid_upload_option_returns_400_and_is_named(
    http: HttpHarness, query: str
) -> None:
    response = await http.post(f"/processImages?{query}", SHOP, CSV)
    assert response.status == 400
    assert response.problem()["errors"][0]["option"] == query.partition("=")[0]


@pytest.mark.parametrize("name", ["", "%20", "x" * 201])
async def test_name_of_a_wrong_length_is_explained(http: HttpHarness, name: str) -> None:
    response = await http.post(f"/processImages?name={name}", SHOP, CSV)
    assert response.problem()["detail"] == "name: must have 1 to 200 characters."


@pytest.mark.parametrize(
    "query", ["layout=shop", "failed=drop", "encoding=utf-8", "excel=1", "only=skipped"]
)
async def test_invalid_status_option_returns_400_and_is_named(
    http: HttpHarness, query: str
) -> None:
    path = f"/checkStatus/{(await upload(http, SHOP))['requestId']}"
    response = await http.get(f"{path}?{query}")
    assert response.status == 400
    assert response.problem()["errors"][0]["option"] == query.partition("=")[0]


async def test_options_that_change_the_body_change_the_etag(http: HttpHarness) -> None:
    path = f"/checkStatus/{(await upload(http, SHOP))['requestId']}"
    queries = (
        "",
        "?layout=input",
        "?layout=input&failed=empty",
        "?layout=input&encoding=input",
        "?layout=input&excel=true",
        "?excel=true",
        "?only=failed",
    )
    etags = {(await http.get(f"{path}{query}")).headers["ETag"] for query in queries}
    assert len(etags) == len(queries)


async def test_list_requests_finds_names_in_any_case(http: HttpHarness) -> None:
    names = ("STRASSE.csv", "Été 100%.csv", "other")
    for name in names:
        query = "".join(f"%{byte:02x}" for byte in name.encode())
        await upload(http, SHOP, f"?name={query}")
    await upload(http, SHOP)

    async def found(text: str) -> list[str]:
        query = "".join(f"%{byte:02x}" for byte in text.encode())
        body = (await http.get(f"/listRequests?name={query}")).json()
        return [each["name"] for each in body["requests"]]

    assert await found("straße") == ["STRASSE.csv"]
    assert await found("e\u0301te\u0301") == ["Été 100%.csv"]
    assert await found("%") == ["Été 100%.csv"]
    assert await found(".CSV") == ["Été 100%.csv", "STRASSE.csv"]
    assert await found("_") == []
    page = (await http.get("/listRequests?name=csv&limit=1")).json()
    assert page["requests"][0]["name"] == "Été 100%.csv"
    second = (await http.get(f"/listRequests?name=csv&cursor={page['nextCursor']}")).json()
    assert [each["name"] for each in second["requests"]] == ["STRASSE.csv"]


async def test_downloads_are_named_after_the_request(http: HttpHarness) -> None:
    request_id = (await upload(http, SHOP, "?name=Spring%3A%20sale.csv"))["requestId"]
    await finish(http)
    for path, name in (
        (f"/checkStatus/{request_id}", "Spring_ sale-compressed.csv"),
        (f"/checkStatus/{request_id}?layout=input", "Spring_ sale-compressed.csv"),
        (f"/checkStatus/{request_id}?only=failed", "Spring_ sale-failed.csv"),
        (f"/downloadImages/{request_id}", "Spring_ sale-images.zip"),
    ):
        for method in ("GET", "HEAD"):
            headers = (await http.call(method, path)).headers
            assert headers["Content-Disposition"] == f'attachment; filename="{name}"'


async def test_view_of_the_database_shows_skipped_rows(http: HttpHarness) -> None:
    await upload(http, INVALID, "?onInvalid=skip")
    rows = await http.service.queries._database.read(
        lambda c: c.execute("SELECT productName, status FROM ProcessImage").fetchall()
    )
    assert rows == [("Lamp", "pending"), ("", "skipped"), ("Shelf", "pending"), ("Desk", "skipped")]
    assert json.loads((await http.get("/listRequests")).body)["requests"][0]["status"] == "pending"


async def test_output_urls_have_positions_in_the_group_in_every_format(http: HttpHarness) -> None:
    table = (
        b"Handle,Title,Image Src\r\nmug,Caf\xc3\xa9 mug,http://a.example/1.jpg\r\n"
        b"mug,,http://a.example/2.jpg\r\ncup,Cup,http://a.example/3.jpg\r\n"
    )
    request_id = (await upload(http, table))["requestId"]
    await finish(http)
    outputs = await outputs_of(http, request_id)
    ends = [outputs[f"http://a.example/{n}.jpg"].rpartition("/")[2] for n in (1, 2, 3)]
    assert ends == ["cafe-mug-1.jpg", "cafe-mug-2.jpg", "cup-1.jpg"]
    in_layout = await http.get(f"/checkStatus/{request_id}?layout=input")
    assert in_layout.body == replaced(table, outputs)
    standard = await http.get(f"/checkStatus/{request_id}")
    assert [row[3] for row in rows_of(standard)[1:]] == list(outputs.values())
