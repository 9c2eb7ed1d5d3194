"""`imgsvc check`: compares the stored outputs with the database, and repairs the differences."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from imgsvc.database import checking
from imgsvc.database.checking import RecordedOutput
from imgsvc.errors import StartupError
from imgsvc.service import DATABASE
from imgsvc.storage.filesystem import delete_outputs, output_path, stored_outputs
from imgsvc.storage.lock import lock_data_dir

CHUNK_BYTES = 2**20
"""Number of bytes that are hashed at once."""
NAMES_PER_QUERY = 1_000


@dataclass
class CheckReport:
    """The differences between the stored outputs and the database.

    `unused` are names of outputs without an image. `missing` and `damaged` are outputs of images.
    `images` counts the images that a repair has made failed.
    """

    outputs: int = 0
    unused: list[str] = field(default_factory=list)
    missing: list[RecordedOutput] = field(default_factory=list)
    damaged: list[RecordedOutput] = field(default_factory=list)
    images: int = 0

    @property
    def consistent(self) -> bool:
        """Whether there are no differences."""
        return not (self.unused or self.missing or self.damaged)


def check_outputs(data_dir: Path) -> CheckReport:
    """Compare the outputs with the database, beside a running service. Blocks.

    Every output is read and hashed. Raise `StartupError` if there is no database of this version, or if
    it is damaged.
    """
    report = CheckReport()
    with _open_database(data_dir) as c:
        checking.check_structure(c)
        for output in checking.recorded_outputs(c):
            report.outputs += 1
            _check_output(c, data_dir, output, report)
        names = stored_outputs(data_dir)
        while batch := list(islice(names, NAMES_PER_QUERY)):
            report.unused += unused_outputs(c, data_dir, batch)
    return report


def repair_outputs(data_dir: Path) -> CheckReport:
    """Check the outputs, remove unused ones, and make images without a whole output failed. Blocks.

    Return what was found. Raise `StartupError` if the service is running, or as `check_outputs`.
    """
    with lock_data_dir(data_dir, DATABASE):
        report = check_outputs(data_dir)
        delete_outputs(data_dir, report.unused)
        with _open_database(data_dir, write=True) as c:
            for outputs, state in ((report.missing, "missing"), (report.damaged, "damaged")):
                message = f"The stored output is {state}. Retry the image to make it again."
                for output in outputs:
                    report.images += checking.fail_images(c, output, message)
    return report


def unused_outputs(c: sqlite3.Connection, data_dir: Path, listed: Sequence[str]) -> list[str]:
    """Return which of the outputs that were listed before exist, and nothing uses them.

    A running service may have deleted an output since it was listed, and may have stored it again.
    """
    unused = checking.unused_outputs(c, listed)
    return checking.unused_outputs(c, [n for n in unused if output_path(data_dir, n).exists()])


@contextmanager
def _open_database(data_dir: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the database. Raise `StartupError` instead of errors of SQLite, also in the block."""
    database = data_dir / DATABASE
    try:
        with checking.open_for_check(database, write=write) as c:
            yield c
    except sqlite3.Error as error:
        raise StartupError(
            f"Cannot check {database}: {error}. Check --data-dir. After an update of imgsvc, start the "
            "service once, so that it updates its database. If the file is damaged, restore the backup."
        ) from error


def _check_output(
    c: sqlite3.Connection, data_dir: Path, output: RecordedOutput, report: CheckReport
) -> None:
    try:
        if _is_whole(output_path(data_dir, output.name), output):
            return
        different = report.damaged
    except FileNotFoundError:
        different = report.missing
    # A running service may have deleted the output, the row first, and stored another one since.
    if checking.is_recorded(c, output):
        different.append(output)


def _is_whole(path: Path, output: RecordedOutput) -> bool:
    """Return whether a file has the size and the digest of an output, as far as they are known."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size == output.size and output.digest in {None, digest.digest()}
