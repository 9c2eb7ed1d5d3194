"""End-to-end tests: a spreadsheet goes in as .xlsx, and comes out as .xlsx with the new URLs."""

from __future__ import annotations

import io
import threading

import openpyxl
import pytest

from imgsvc.table.xlsx_writer import XLSX_MEDIA_TYPE
from tests.conftest import StartService
from tests.origin import Origin
from tests.service_process import Service
from tests.xlsx_files import one_sheet, shared_strings, table_of, text_row

HEADERS = {"Content-Type": XLSX_MEDIA_TYPE}


def workbook(*rows: list[str | float | None]) -> bytes:
    """Return an .xlsx file that another library has made."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)  # type: ignore[union-attr]
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def test_images_of_an_xlsx_file_are_compressed_and_replaced(
    service: Service, origin: Origin
) -> None:
    first, second = origin.photo(1), origin.photo(2)
    body = workbook(
        ["SKU", "Type", "Name", "Images", "Regular price"],
        ["W-1", "simple", "Lamp", f"{first}, {second}", 19.5],
        ["W-2", "simple", "Service", None, 5],
    )
    response = service.post("/processImages?name=shop.xlsx", body, HEADERS)
    assert response.status == 201, response.body
    assert response.json()["layout"] == "woocommerce"
    request_id = response.json()["requestId"]
    assert service.finished(request_id)["status"] == "completed"
    back = service.get(f"/checkStatus/{request_id}?format=xlsx&layout=input")
    assert back.headers["Content-Type"] == XLSX_MEDIA_TYPE
    table = table_of(back.body)
    assert table[1] == ["SKU", "Type", "Name", "Images", "Regular price"]
    assert [table[2][0], table[2][2], table[2][4]] == ["W-1", "Lamp", "19.5"]
    assert table[3] == ["W-2", "simple", "Service", "", "5"]
    for url in table[2][3].split(", "):
        assert service.get(url).headers["Content-Type"] == "image/jpeg"


def hostile_file(name: str) -> bytes:
    """Return a small file that needs much memory, time or space."""
    header = text_row(1, "Product Name", "Input Image Urls")
    numbers = range(2, 20_000)
    match name:
        case "zip bomb":
            return one_sheet(text_row(1, "a" * 100_000_000))
        case "shared string":
            rows = "".join(f'<row r="{n}"><c t="s"><v>0</v></c></row>' for n in numbers)
            return one_sheet(header + rows, sharedStrings=shared_strings(f"<t>{'a' * 10**6}</t>"))
        case "many strings":
            return one_sheet(header, sharedStrings=f"<sst>{'<si/>' * 12_000_000}</sst>")
        case "empty rows":
            return one_sheet(header + "".join(f'<row r="{n}"/>' for n in range(2, 10**6)))
        case "nested":
            return one_sheet(header + "<a>" * 5_000_000)
        case "wide":
            cells = "".join(f'<row r="{n}"><c r="XFD{n}"><v>1</v></c></row>' for n in numbers)
            return one_sheet(header + cells)
    return b"PK\3\4" + bytes(1_000)


HOSTILE = (
    "zip bomb",
    "shared string",
    "many strings",
    "empty rows",
    "nested",
    "wide",
    "no archive",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_xlsx_file_gets_an_error_and_harms_no_other(
    start_service: StartService, origin: Origin, name: str
) -> None:
    service = start_service(
        server={"max_upload_bytes": 2**24, "spreadsheet_seconds": 5},
        compress={"workers": 1, "worker_memory_bytes": 2**27},
    )
    body = hostile_file(name)
    answers: list[int] = []
    hostile = threading.Thread(
        target=lambda: answers.append(service.post("/processImages", body, HEADERS).status)
    )
    hostile.start()
    table = workbook(["Product Name", "Input Image Urls"], ["Lamp", origin.photo(1)])
    response = service.post("/processImages", table, HEADERS)
    assert response.status == 201
    assert service.finished(response.json()["requestId"])["status"] == "completed"
    hostile.join()
    assert answers[0] in {400, 413}
    assert service.get("/health/ready").status == 200
