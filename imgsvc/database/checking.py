"""Compares stored outputs with the database, for `imgsvc check`, also beside a running service."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from imgsvc.database import source_memory, tokens
from imgsvc.database.job_outcomes import Changes, apply_changes, count_failures
from imgsvc.errors import ImageErrorCode
from imgsvc.models import ImageStatus, Reuse
from imgsvc.urls import host_name, host_url_of

CHECK_BUSY_SECONDS = 60.0
"""How long to wait for a lock of another process."""
PAGE = 1_000
"""Rows that are read at once. A long read would keep the WAL of a running service from shrinking."""


class RecordedOutput(NamedTuple):
    """An output in the database. `digest` is its SHA-256, or None if version 1.0 has stored it."""

    key: int
    name: str
    size: int
    digest: bytes | None


@contextmanager
def open_for_check(database: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a database that this version has opened before. Raise `sqlite3.Error`."""
    uri = f"{database.absolute().as_uri()}?mode={'rw' if write else 'ro'}"
    with closing(
        sqlite3.connect(uri, uri=True, timeout=CHECK_BUSY_SECONDS, isolation_level=None)
    ) as connection:
        yield connection


def check_structure(c: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` if the file is damaged."""
    (result,) = c.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError(result)


def recorded_outputs(c: sqlite3.Connection) -> Iterator[RecordedOutput]:
    """Yield all outputs that images use."""
    after = -1
    while True:
        rows = c.execute(
            "SELECT key, name, output_bytes, digest FROM files WHERE key > ? ORDER BY key LIMIT ?",
            (after, PAGE),
        ).fetchall()
        if not rows:
            return
        yield from (RecordedOutput(*row) for row in rows)
        after = rows[-1][0]


def is_recorded(c: sqlite3.Connection, output: RecordedOutput) -> bool:
    """Return whether an output is still in the database, with the same digest."""
    sql = "SELECT 1 FROM files WHERE key = ? AND name = ? AND digest IS ?"
    return c.execute(sql, (output.key, output.name, output.digest)).fetchone() is not None


def claimant(c: sqlite3.Connection) -> tuple[str, str | None]:
    """Return the database's id, and the name of one of its outputs or None."""
    return tokens.claimant(c)


def unused_outputs(c: sqlite3.Connection, names: Sequence[str]) -> list[str]:
    """Return the names of outputs that no image, no job and no deletion uses."""
    return tokens.unused(c, names)


def fail_images(c: sqlite3.Connection, output: RecordedOutput, message: str) -> int:
    """Make the images of a missing or damaged output failed. Return their number.

    Their requests stay finished. The output is marked for deletion.
    """
    c.execute("BEGIN IMMEDIATE")
    try:
        count = _fail_images(c, output, message)
        c.execute("COMMIT")
    except BaseException:
        c.execute("ROLLBACK")
        raise
    return count


def _fail_images(c: sqlite3.Connection, output: RecordedOutput, message: str) -> int:
    code = ImageErrorCode.STORAGE_FAILED
    row = c.execute(
        "DELETE FROM files WHERE key = ? RETURNING token, source_digest, input_bytes, output_bytes",
        (output.key,),
    ).fetchone()
    token, source_digest, input_bytes, output_bytes = row
    tokens.mark(c, output.name, token)
    source_memory.note_deletion(c, source_digest)
    images = c.execute(
        "SELECT request_key, number, coalesce(fetch_url, url), reused FROM images "
        "INDEXED BY images_by_file WHERE file_key = ?",
        (output.key,),
    ).fetchall()
    changes: dict[int, Changes] = {}
    hosts: Counter[tuple[int, str]] = Counter()
    for request_key, _, url, reused in images:
        change = changes.setdefault(request_key, Changes())
        # No other code makes a completed image failed, so `Changes.record` does not allow it.
        change.counts[ImageStatus.COMPLETED] -= 1
        change.counts[ImageStatus.FAILED] += 1
        change.input_bytes -= input_bytes
        change.output_bytes -= output_bytes
        if reused is not None:
            change.reused[Reuse(reused)] -= 1
        hosts[request_key, host_name(host_url_of(url))] += 1
    c.execute(
        "UPDATE images SET status = 'failed', file_key = NULL, token = NULL, reused = NULL, "
        "error_code = ?, error_message = ? WHERE file_key = ?",
        (code, message, output.key),
    )
    for request_key, change in changes.items():
        apply_changes(c, request_key, change)
    for (request_key, host), count in hosts.items():
        count_failures(c, request_key, host, code, count)
    return len(images)
