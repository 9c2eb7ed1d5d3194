"""Uploaded .xlsx files → rows: a scratch file, which a worker process reads."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from imgsvc.config import Config
from imgsvc.errors import FileError, FileErrorCode, ProblemCode, ProblemError
from imgsvc.storage.scratch import Scratch, ScratchFile
from imgsvc.table.xlsx import READ_ROWS, PieceDecoder, RowBatch
from imgsvc.table.xlsx_package import XlsxError, damaged
from imgsvc.workers.one_shot import (
    OneShotLimits,
    OneShotRunner,
    WorkerCrashError,
    WorkerMemoryError,
    WorkerTimeError,
)
from imgsvc.workers.resources import worker_memory

log = logging.getLogger(__name__)

UNPACKED_SHARE = 4
"""An .xlsx file may be this many times `server.max_upload_bytes` when it is unpacked."""


class Spreadsheets:
    """Reads uploaded .xlsx files, one at a time. A worker runs `function`, a `module:name`."""

    def __init__(self, config: Config, scratch: Scratch, *, function: str = READ_ROWS) -> None:
        self._function = function
        self._scratch = scratch
        self._max_bytes = UNPACKED_SHARE * config.server.max_upload_bytes
        self._limits = OneShotLimits(
            worker_memory(config.compress), config.server.spreadsheet_seconds
        )
        self._runner = OneShotRunner(self._limits)

    async def rows(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[RowBatch, None]:
        """Yield the rows of the .xlsx file in `chunks`, once it is complete.

        Raise `ProblemError` if the file is invalid, too large, or needs too much memory or time, and
        `StorageFullError` if the disk is full.
        """
        file = await self._scratch.open()
        try:
            await _save(file, chunks)
            async with aclosing(self._read(file)) as batches:
                async for batch in batches:
                    yield batch
        except XlsxError as error:
            raise _problem(error) from None
        finally:
            await file.close()

    async def _read(self, file: ScratchFile) -> AsyncGenerator[RowBatch, None]:
        decoder = PieceDecoder()
        try:
            async with self._runner.run(self._function, file.fileno(), self._max_bytes) as pieces:
                async for piece in pieces:
                    for batch in decoder.feed(piece):
                        yield batch
        except WorkerMemoryError:
            raise XlsxError(
                None,
                "Reading the .xlsx file needs more memory than a worker may use: "
                f"{self._limits.memory_bytes >> 20:,} MiB (compress.worker_memory_bytes). Split it "
                "into several files, or save it as CSV.",
            ) from None
        except WorkerTimeError:
            raise XlsxError(
                None,
                "Reading the .xlsx file takes more than "
                f"{self._limits.processor_seconds:g} s of processor time "
                "(server.spreadsheet_seconds). Split it into several files, or save it as CSV.",
            ) from None
        except WorkerCrashError as error:
            log.warning("reading a spreadsheet failed", extra={"reason": str(error)})
            raise damaged("it cannot be read") from None

    def close(self) -> None:
        """Free the resources. No file may be being read."""
        self._runner.close()


async def _save(file: ScratchFile, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await file.write(chunk)


def _problem(error: XlsxError) -> ProblemError:
    if error.code is None:
        return ProblemError(ProblemCode.TOO_LARGE, error.message)
    return ProblemError(
        ProblemCode.INVALID_CSV,
        "1 problem found; nothing was saved. Fix it and upload again.",
        errors=[FileError(FileErrorCode(error.code), error.message, error.row)],
    )
