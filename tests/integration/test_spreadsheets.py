"""Uploaded .xlsx files are read in a worker process, whatever is in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from imgsvc.config import Config
from imgsvc.errors import FileErrorCode, ProblemCode, ProblemError
from imgsvc.spreadsheets import Spreadsheets
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.scratch import Scratch
from imgsvc.table.xlsx import READ_ROWS, RowBatch
from tests.xlsx_files import HEADER, one_sheet, shared_strings, text_row, written

ROWS = (HEADER, ("Lamp", "https://a.example/1.jpg"))


class Reader:
    """Reads .xlsx files as an upload does."""

    def __init__(
        self, folder: Path, function: str = READ_ROWS, **settings: dict[str, object]
    ) -> None:
        self.scratch = Scratch(folder, DiskSpace(folder, 0))
        config = Config.model_validate({"compress": {"workers": 1}, **settings})
        self.spreadsheets = Spreadsheets(config, self.scratch, function=function)

    async def rows(self, data: bytes) -> list[RowBatch]:
        return [batch async for batch in self.spreadsheets.rows(chunked(data))]

    async def problem(self, data: bytes) -> ProblemError:
        with pytest.raises(ProblemError) as caught:
            await self.rows(data)
        return caught.value

    def close(self) -> None:
        self.spreadsheets.close()
        self.scratch.close()


async def chunked(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1_000):
        yield data[start : start + 1_000]


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_rows_come_from_the_worker(reader: Reader) -> None:
    assert await reader.rows(written(*ROWS)) == [(1, [list(row) for row in ROWS])]


async def test_error_of_the_file_has_its_row(reader: Reader) -> None:
    problem = await reader.problem(one_sheet('<row r="2"><c r="A2"><f>A1</f></c></row>'))
    assert problem.code is ProblemCode.INVALID_CSV
    (error,) = problem.errors
    assert (error.code, error.row) == (FileErrorCode.EMPTY_VALUE, 2)


async def test_unpacked_size_is_limited_by_the_upload_limit(tmp_path: Path) -> None:
    reader = Reader(tmp_path, server={"max_upload_bytes": 2**20})
    assert await reader.rows(one_sheet(text_row(1, "a" * 4_000_000)))
    problem = await reader.problem(one_sheet(text_row(1, "a" * 2**22)))
    assert problem.code is ProblemCode.TOO_LARGE
    assert "larger than 4 MiB" in problem.detail
    assert "server.max_upload_bytes" in problem.detail
    reader.close()


async def test_memory_of_the_worker_is_limited(tmp_path: Path) -> None:
    reader = Reader(tmp_path, compress={"workers": 1, "worker_memory_bytes": 2**26})
    strings = shared_strings(*["<t>" + "a" * 1_000_000 + "</t>"] * 200)
    problem = await reader.problem(one_sheet(text_row(1, "a"), sharedStrings=strings))
    assert problem.code is ProblemCode.TOO_LARGE
    assert "64 MiB (compress.worker_memory_bytes)" in problem.detail
    assert await reader.rows(written(*ROWS))
    reader.close()


async def test_processor_time_of_the_worker_is_limited(tmp_path: Path) -> None:
    reader = Reader(tmp_path, server={"spreadsheet_seconds": 1})
    cells = '<c r="A1"/>' * 8_000_000
    problem = await reader.problem(one_sheet(f"<row>{cells}</row>"))
    assert problem.code is ProblemCode.TOO_LARGE
    assert "more than 1 s of processor time" in problem.detail
    assert "server.spreadsheet_seconds" in problem.detail
    reader.close()


async def test_crash_of_the_worker_is_a_damaged_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader(tmp_path, "tests.unruly_generators:exit_at_once")
    problem = await reader.problem(b"PK")
    assert problem.errors[0].code is FileErrorCode.NOT_CSV
    assert "Save your table as CSV" in problem.errors[0].message
    assert "reading a spreadsheet failed" in caplog.messages
    reader.close()


async def test_nothing_stays_open_after_any_end(reader: Reader) -> None:
    await reader.rows(written(*ROWS))
    before = open_files()
    for data in (written(*ROWS), b"PK\3\4 no archive"):
        for _ in range(3):
            with suppress(ProblemError):
                await reader.rows(data)
    stream = reader.spreadsheets.rows(chunked(written(*ROWS * 20_000)))
    await anext(stream)
    await stream.aclose()
    assert open_files() == before
