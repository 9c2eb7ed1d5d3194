"""A consistency check of the database: everything that is stored in two places agrees."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from imgsvc.models import ImageStatus, Progress


def audit(c: sqlite3.Connection) -> None:
    """Check that everything stored in two places agrees."""
    assert c.execute("PRAGMA foreign_key_check").fetchall() == []
    for row in c.execute(
        "SELECT key, stage, status, finished_at, retrying, pending, processing, completed, failed, "
        "cancelled, products, input_bytes, output_bytes, started_at FROM requests"
    ).fetchall():
        key, stage, status, finished_at, retrying = row[:5]
        if stage == "deleting":
            continue
        progress = Progress(*row[5:10])
        _audit_counters(c, key, progress, row[10:13])
        assert status == progress.status
        if stage == "accepted":
            assert (finished_at is not None) == (progress.finished and not retrying)
            assert row[13] is not None or not progress.processing
        _audit_failures(c, key, progress)
        _audit_waiting(c, key)
        _audit_delivery(c, key, finished_at is not None)
    assert not c.execute(
        "SELECT 1 FROM cancelled_hosts h JOIN requests r ON r.key = h.request_key "
        "WHERE finished_at IS NOT NULL"
    ).fetchall()
    assert not c.execute(
        "SELECT 1 FROM waiting_hosts WHERE request_key NOT IN (SELECT key FROM requests)"
    ).fetchall()
    _audit_images(c)
    _audit_files(c)


def _audit_counters(
    c: sqlite3.Connection, key: int, progress: Progress, totals: Sequence[int]
) -> None:
    counted: Counter[str] = Counter(
        dict(
            c.execute(
                "SELECT status, count(*) FROM images WHERE request_key = ? GROUP BY 1", (key,)
            )
        )
    )
    assert progress == Progress(**{str(status): counted[status] for status in ImageStatus})
    (skipped,) = c.execute("SELECT skipped FROM requests WHERE key = ?", (key,)).fetchone()
    products, images = c.execute(
        "SELECT count(*), coalesce(sum(image_count), 0) FROM products WHERE request_key = ?", (key,)
    ).fetchone()
    sizes = c.execute(
        "SELECT coalesce(sum(f.input_bytes), 0), coalesce(sum(f.output_bytes), 0) "
        "FROM images i JOIN files f ON f.key = i.file_key WHERE i.request_key = ?",
        (key,),
    ).fetchone()
    assert tuple(totals) == (products - skipped, *sizes)
    assert images == progress.total
    numbers = [n for (n,) in c.execute("SELECT number FROM images WHERE request_key = ?", (key,))]
    assert numbers == list(range(len(numbers)))


def _audit_failures(c: sqlite3.Connection, key: int, progress: Progress) -> None:
    (count,) = c.execute(
        "SELECT coalesce(sum(count), 0) FROM failures WHERE request_key = ?", (key,)
    ).fetchone()
    assert count == progress.failed
    assert c.execute("SELECT count(*) FROM failures WHERE count <= 0").fetchone() == (0,)


def _audit_waiting(c: sqlite3.Connection, key: int) -> None:
    hosts = c.execute(
        "SELECT host_key, retrying, unfinished, counted, probe_at, count FROM waiting_hosts "
        "WHERE request_key = ?",
        (key,),
    ).fetchall()
    for host_key, retrying, unfinished, counted, probe_at, count in hosts:
        actual = c.execute(
            "SELECT count(*) FILTER (WHERE status = 'pending' AND not_before > 0), "
            "count(*) FILTER (WHERE status IN ('pending', 'processing')) "
            "FROM images WHERE request_key = ? AND host_key = ?",
            (key, host_key),
        ).fetchone()
        assert (retrying, unfinished if counted else actual[1]) == actual
        assert counted or probe_at is None
        assert count == (retrying if probe_at is None else unfinished)
    (waiting,) = c.execute("SELECT waiting FROM requests WHERE key = ?", (key,)).fetchone()
    assert waiting == sum(count for *_, count in hosts)


def _audit_delivery(c: sqlite3.Connection, key: int, finished: bool) -> None:
    (webhook,) = c.execute("SELECT webhook_url FROM requests WHERE key = ?", (key,)).fetchone()
    (count,) = c.execute("SELECT count(*) FROM deliveries WHERE request_key = ?", (key,)).fetchone()
    assert count == (webhook is not None and finished)


def _audit_images(c: sqlite3.Connection) -> None:
    states = c.execute(
        "SELECT DISTINCT i.status, i.token IS NOT NULL, f.key IS NOT NULL, f.token IS NOT NULL, "
        "error_code IS NOT NULL, error_message IS NOT NULL "
        "FROM images i LEFT JOIN files f ON f.key = file_key"
    ).fetchall()
    valid = {
        ("pending", 0, 0, 0, 0, 0),
        ("processing", 0, 0, 0, 0, 0),
        ("completed", 0, 1, 1, 0, 0),
        ("completed", 1, 1, 0, 0, 0),  # by version 1.0
        ("failed", 0, 0, 0, 1, 1),
        ("cancelled", 0, 0, 0, 0, 0),
    }
    assert set(states) <= valid
    tokens = [t for (t,) in c.execute("SELECT token FROM images WHERE token IS NOT NULL")]
    assert len(set(tokens)) == len(tokens)


def _audit_files(c: sqlite3.Connection) -> None:
    files = {key for (key,) in c.execute("SELECT key FROM files")}
    used = {key for (key,) in c.execute("SELECT DISTINCT file_key FROM images")} - {None}
    assert used == files
    names = [name for (name,) in c.execute("SELECT name FROM files")]
    assert len(set(names)) == len(names)
    # A stored output may be reserved for the deletion of its names with other extensions.
    (stored_and_reserved,) = c.execute(
        "SELECT count(*) FROM files JOIN reservations USING (token) WHERE claim IS NOT NULL"
    ).fetchone()
    assert stored_and_reserved == 0
