"""Uploads of .xlsx files, and the status as .xlsx, over HTTP."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imgsvc.table.xlsx_writer import XLSX_MEDIA_TYPE
from tests.harness.http import HttpHarness, csv_body, open_http
from tests.xlsx_files import one_sheet, table_of, text_row, workbook, worksheet, written, zipped

ROWS = (
    ("S. No.", "Product Name", "Input Image Urls", "Price"),
    ("7", "Lamp, desk", "http://a.example/1.jpg, http://a.example/2.jpg", "00123"),
    ("8", "=1+1", "http://a.example/3.jpg", ""),
)
BODY = written(*ROWS)
HEADERS = {"Content-Type": XLSX_MEDIA_TYPE}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def upload(http: HttpHarness, body: bytes = BODY, query: str = "") -> Any:
    response = await http.post(f"/processImages{query}", body, HEADERS)
    assert response.status == 201, response.body
    return response.json()


async def problem_of(http: HttpHarness, body: bytes) -> Any:
    return (await http.post("/processImages", body, HEADERS)).problem()


# --- uploads -----------------------------------------------------------------------------------------


async def test_xlsx_upload_is_accepted(http: HttpHarness) -> None:
    accepted = await upload(http)
    assert (accepted["products"], accepted["images"]) == (2, 3)
    assert (accepted["layout"], accepted["encoding"]) == ("standard", None)


@pytest.mark.parametrize("content_type", ["text/csv", "application/octet-stream", "text/plain"])
async def test_content_decides_how_a_file_is_read(http: HttpHarness, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    assert (await http.post("/processImages", BODY, headers)).status == 201
    assert (await http.post("/processImages", csv_body(), HEADERS)).status == 201


@pytest.mark.parametrize("options_first", [True, False])
async def test_xlsx_may_be_a_file_in_a_form(http: HttpHarness, options_first: bool) -> None:
    with aiohttp.MultipartWriter("form-data") as form:
        option, file = aiohttp.StringPayload("true"), aiohttp.BytesPayload(BODY)
        option.set_content_disposition("form-data", name="dryRun")
        file.set_content_disposition("form-data", name="file", filename="Prices.xlsx")
        for part in (option, file) if options_first else (file, option):
            form.append_payload(part)
    response = await http.post("/processImages", form)
    assert response.status == 200
    checked = response.json()
    assert checked["delimiter"] is None
    assert checked["name"] == "Prices.xlsx"
    assert [column["name"] for column in checked["columns"]] == list(ROWS[0])
    assert checked["preview"][0] == {
        "row": 2,
        "serialNumber": "7",
        "productName": "Lamp, desk",
        "inputUrls": ["http://a.example/1.jpg", "http://a.example/2.jpg"],
    }


async def test_tab_separated_values_have_a_media_type(http: HttpHarness) -> None:
    response = await http.post(
        "/processImages?dryRun=true",
        b"Product Name\tInput Image Urls\r\nLamp\thttp://a.example/1.jpg\r\n",
        {"Content-Type": "text/tab-separated-values"},
    )
    assert response.json()["delimiter"] == "\t"


async def test_rows_have_their_numbers_in_the_worksheet(http: HttpHarness) -> None:
    rows = text_row(3, "Product Name", "Input Image Urls") + text_row(9, "Lamp", "ftp://a/1.jpg")
    problem = await problem_of(http, one_sheet(rows))
    assert problem["status"] == 400
    assert [(error["row"], error["code"]) for error in problem["errors"]] == [
        (9, "unsupported_scheme")
    ]


async def test_row_without_its_last_cells_is_complete(http: HttpHarness) -> None:
    rows = text_row(1, "Product Name", "Input Image Urls", "Colour", "Size")
    body = one_sheet(rows + text_row(2, "Lamp", "http://a.example/1.jpg"))
    assert (await upload(http, body))["images"] == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (one_sheet('<row r="2"><c r="B2"><f>A1</f></c></row>'), "Cell B2 has a formula"),
        (zipped({"content.xml": "<a/>"}), "OpenDocument file such as .ods"),
        (BODY[: len(BODY) // 2], "The .xlsx file is damaged"),
        (one_sheet(""), "The file is empty"),
    ],
)
async def test_file_that_cannot_be_read_says_why(
    http: HttpHarness, body: bytes, message: str
) -> None:
    problem = await problem_of(http, body)
    assert problem["type"] == "urn:imgsvc:problem:invalid-csv"
    assert message in problem["errors"][0]["message"]
    listed = (await http.get("/listRequests")).json()
    assert listed["requests"] == []


async def test_zip_bomb_is_413_and_the_service_continues(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_upload_bytes": 2**20}) as http:
        body = one_sheet(text_row(1, "a" * 2**24))
        assert len(body) < 2**20
        problem = await problem_of(http, body)
        assert (problem["status"], problem["type"]) == (413, "urn:imgsvc:problem:too-large")
        assert "4 MiB" in problem["detail"]
        await upload(http)


async def test_shared_string_in_every_cell_is_413(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_upload_bytes": 2**20}) as http:
        header = text_row(1, "Product Name", "Input Image Urls")
        rows = "".join(f'<row r="{n}"><c t="s"><v>0</v></c></row>' for n in range(2, 1_000))
        strings = f"<sst><si><t>{'a' * 10_000}</t></si></sst>"
        problem = await problem_of(http, one_sheet(header + rows, sharedStrings=strings))
        assert problem["status"] == 413
        assert "table in the .xlsx file is larger than 4 MiB" in problem["detail"]


async def test_repeated_upload_of_xlsx_is_replayed(http: HttpHarness) -> None:
    headers = {**HEADERS, "Idempotency-Key": "k"}
    first = await http.post("/processImages", BODY, headers)
    second = await http.post("/processImages", BODY, headers)
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.json()["requestId"] == second.json()["requestId"]


async def test_recognised_sheet_is_uploaded(http: HttpHarness) -> None:
    table = "".join(text_row(n, *row[:3]) for n, row in enumerate(ROWS, 1))
    body = zipped(workbook(worksheet(text_row(1, "Cover")), worksheet(table)))
    assert (await upload(http, body))["images"] == 3


# --- the status --------------------------------------------------------------------------------------


async def test_csv_of_an_xlsx_upload_is_for_excel_by_default(http: HttpHarness) -> None:
    path = f"/checkStatus/{(await upload(http))['requestId']}"
    assert (await http.get(path)).body.startswith(codecs.BOM_UTF8 + b"S. No.,Product Name,")
    assert not (await http.get(f"{path}?excel=false")).body.startswith(codecs.BOM_UTF8)


async def test_xlsx_has_the_rows_of_the_csv(http: HttpHarness) -> None:
    request_id = (await upload(http, query="?name=Prices.xlsx"))["requestId"]
    await http.complete(await http.claim())
    response = await http.get(f"/checkStatus/{request_id}?format=xlsx")
    assert response.status == 200
    assert response.headers["Content-Type"] == XLSX_MEDIA_TYPE
    assert 'filename="Prices-compressed.xlsx"' in response.headers["Content-Disposition"]
    assert int(response.headers["Content-Length"]) == len(response.body)
    table = table_of(response.body)
    assert table[1][:2] == ["S. No.", "Product Name"]
    assert table[1][-1] == "Price"
    assert [table[2][0], table[2][1], table[2][-1]] == ["7", "Lamp, desk", "00123"]
    assert table[2][3].count("http://") == 2
    assert table[3][1] == "=1+1"
    accepted = await http.get(f"/checkStatus/{request_id}", {"Accept": XLSX_MEDIA_TYPE})
    assert accepted.body == response.body or table_of(accepted.body) == table


async def test_layout_of_the_input_is_returned_as_xlsx(http: HttpHarness) -> None:
    request_id = (await upload(http))["requestId"]
    await http.complete(await http.claim())
    response = await http.get(f"/checkStatus/{request_id}?format=xlsx&layout=input")
    table = table_of(response.body)
    assert table[1] == list(ROWS[0])
    assert [table[2][0], table[2][1], table[2][3]] == ["7", "Lamp, desk", "00123"]
    first, second = table[2][2].split(", ")
    assert "/images/" in first
    assert "/images/" in second
    assert table[3][1] == "=1+1"


async def test_failed_rows_are_returned_as_xlsx(http: HttpHarness) -> None:
    request_id = (await upload(http))["requestId"]
    claims = {claim.url: claim for claim in await http.claim()}
    await http.fail([claims["http://a.example/2.jpg"]])
    await http.complete([c for url, c in claims.items() if "2.jpg" not in url])
    response = await http.get(f"/checkStatus/{request_id}?format=xlsx&only=failed")
    assert "-failed.xlsx" in response.headers["Content-Disposition"]
    assert list(table_of(response.body).values()) == [
        list(ROWS[0]),
        ["7", "Lamp, desk", "http://a.example/2.jpg", "00123"],
    ]
    assert (await upload(http, response.body))["images"] == 1


async def test_cell_beyond_the_limit_of_worksheets_is_400(http: HttpHarness) -> None:
    row = (1, "Lamp", ["http://a.example/1.jpg"], "x" * 32_768)
    request_id = await http.upload([row])
    response = await http.get(f"/checkStatus/{request_id}?format=xlsx")
    problem = response.problem()
    assert problem["status"] == 400
    assert "Cell H2 has 32,768 characters" in problem["detail"]
    assert (await http.get(f"/checkStatus/{request_id}")).status == 200


async def test_xlsx_has_an_etag_of_its_own(http: HttpHarness) -> None:
    path = f"/checkStatus/{(await upload(http))['requestId']}"
    tags = [(await http.get(f"{path}?format={each}")).headers["ETag"] for each in ("csv", "xlsx")]
    assert tags[0] != tags[1]
    unchanged = await http.get(f"{path}?format=xlsx", {"If-None-Match": tags[1]})
    assert unchanged.status == 304
    head = await http.call("HEAD", f"{path}?format=xlsx")
    assert (head.status, head.headers["Content-Type"]) == (200, XLSX_MEDIA_TYPE)
