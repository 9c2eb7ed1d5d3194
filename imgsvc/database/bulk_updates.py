"""Updates of many images of a request, with a limited number of images per transaction."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence

from imgsvc.database import mappers
from imgsvc.database.job_outcomes import (
    Changes,
    FinishResult,
    WebhookBody,
    apply_changes,
    count_failures,
    finish_request,
)
from imgsvc.errors import ImageErrorCode, ProblemCode, ProblemError
from imgsvc.models import ImageStatus
from imgsvc.urls import host_name, host_url_of

_OF_HOST = " AND host_key = ?"
_OF_CANCELLED_HOSTS = (
    " AND host_key IN (SELECT h.host_key FROM cancelled_hosts h "
    "WHERE h.request_key = images.request_key)"
)
_IMAGES_IN_FLIGHT = (
    "SELECT number FROM images INDEXED BY images_in_flight "
    "WHERE request_key = ? AND status = 'processing'"
)
_PENDING_IMAGES = (
    "SELECT number, coalesce(fetch_url, url) FROM images INDEXED BY images_waiting "
    "WHERE request_key = ? AND status = 'pending'"
)


def _change_status(
    c: sqlite3.Connection,
    request_key: int,
    numbers: Sequence[int],
    before: ImageStatus,
    after: ImageStatus,
    *,
    values: str = "",
    parameters: tuple[object, ...] = (),
) -> None:
    """Change the status of a request's images, and its counters."""
    changes = Changes()
    changes.record(before, after, len(numbers))
    c.executemany(
        f"UPDATE images SET status = ?{values} WHERE request_key = ? AND number = ?",
        [(after, *parameters, request_key, number) for number in numbers],
    )
    apply_changes(c, request_key, changes)


def _finish_if_done(
    c: sqlite3.Connection,
    request_key: int,
    outcome: tuple[ImageStatus, str],
    count: int,
    webhook_body: WebhookBody,
) -> FinishResult:
    """Finish the request if all its images are done.

    `outcome` is the status and error code that `count` images have just got.
    """
    finished = finish_request(c, request_key, webhook_body)
    finished_requests = [] if finished is None else [finished]
    return FinishResult(finished_requests, [request_key], image_counts=Counter({outcome: count}))


# --- recovery --------------------------------------------------------------------------------


def reset_rates(c: sqlite3.Connection) -> None:
    """Reset the measurement of all rates, so that they exclude the time when no process was running."""
    c.execute(
        "UPDATE requests INDEXED BY requests_unfinished SET measured_since = NULL, "
        "measured_done = completed + iif(retrying, 0, failed) + iif(retrying = 2, 0, cancelled) "
        "WHERE stage = 'accepted' AND finished_at IS NULL"
    )


def recover(c: sqlite3.Connection, limit: int) -> bool:
    """Requeue at most `limit` images that an earlier process had in progress. Return False if none."""
    row = c.execute(
        "SELECT key FROM requests INDEXED BY requests_unfinished "
        "WHERE stage = 'accepted' AND finished_at IS NULL AND processing > 0 LIMIT 1"
    ).fetchone()
    if row is None:
        return False
    images = c.execute(f"{_IMAGES_IN_FLIGHT} ORDER BY number LIMIT ?", (row[0], limit)).fetchall()
    numbers = [number for (number,) in images]
    _change_status(c, row[0], numbers, ImageStatus.PROCESSING, ImageStatus.PENDING)
    return True


# --- cancelling ------------------------------------------------------------------------------


def start_cancel(c: sqlite3.Connection, request_id: str) -> int:
    """Mark a request as being cancelled, and stop a retry that is in progress. Return its key."""
    key, finished_at = mappers.find(c, "key, finished_at", request_id)
    if finished_at is not None:
        raise ProblemError(
            ProblemCode.ALREADY_FINISHED,
            "The request has already finished and cannot be cancelled.",
        )
    c.execute(
        "UPDATE requests SET cancelling = 1, retrying = 0, version = version + 1 WHERE key = ?",
        (key,),
    )
    return int(key)


def start_cancel_host(
    c: sqlite3.Connection, request_id: str, host: str, host_keys: Sequence[int]
) -> int:
    """Mark a host of a request as being cancelled. Return the request's key."""
    (key,) = mappers.find(c, "key", request_id)
    unfinished = any(
        c.execute(sql, (key, host_key)).fetchone()
        for sql in (_PENDING_IMAGES + _OF_HOST, _IMAGES_IN_FLIGHT + _OF_HOST)
        for host_key in host_keys
    )
    if not unfinished:
        raise ProblemError(
            ProblemCode.ALREADY_FINISHED,
            f"The request has no unfinished images of {host}, so none can be cancelled.",
        )
    c.executemany(
        "INSERT OR IGNORE INTO cancelled_hosts VALUES (?, ?)",
        [(key, host_key) for host_key in host_keys],
    )
    c.execute("UPDATE requests SET version = version + 1 WHERE key = ?", (key,))
    return int(key)


def cancel(
    c: sqlite3.Connection, request_key: int, limit: int, webhook_body: WebhookBody
) -> tuple[bool, FinishResult]:
    """Cancel at most `limit` pending images of a request, or of its hosts that are being cancelled.

    A retry that is in progress continues, without these hosts: it may leave no image to wait for.
    Return whether there may be more, and the changes.
    """
    row = c.execute(
        "SELECT cancelling, retrying FROM requests "
        "WHERE key = ? AND stage = 'accepted' AND finished_at IS NULL",
        (request_key,),
    ).fetchone()
    if row is None:
        return False, FinishResult()
    cancelling, retrying = row
    more = bool(retrying) and _retry(c, request_key, limit, include_cancelled=retrying == 2)
    images = _PENDING_IMAGES if cancelling else _PENDING_IMAGES + _OF_CANCELLED_HOSTS
    pending = c.execute(f"{images} LIMIT ?", (request_key, limit)).fetchall()
    numbers = [number for number, _ in pending]
    _change_status(c, request_key, numbers, ImageStatus.PENDING, ImageStatus.CANCELLED)
    outcome = ImageStatus.CANCELLED, ""
    result = _finish_if_done(c, request_key, outcome, len(numbers), webhook_body)
    return more or len(numbers) == limit, result


# --- unreachable hosts -------------------------------------------------------------------------


def fail_host(
    c: sqlite3.Connection,
    request_key: int,
    host_key: int,
    code: ImageErrorCode,
    message: str,
    *,
    limit: int,
    webhook_body: WebhookBody,
) -> FinishResult:
    """Fail at most `limit` pending images of a host. Their numbers of attempts do not change."""
    pending = c.execute(
        f"{_PENDING_IMAGES}{_OF_HOST} LIMIT ?", (request_key, host_key, limit)
    ).fetchall()
    if not pending:
        return FinishResult()
    numbers = [number for number, _ in pending]
    _change_status(
        c,
        request_key,
        numbers,
        ImageStatus.PENDING,
        ImageStatus.FAILED,
        values=", not_before = 0, error_code = ?, error_message = ?",
        parameters=(code, mappers.storable(message)),
    )
    count_failures(c, request_key, host_name(host_url_of(pending[0][1])), code, len(numbers))
    outcome = ImageStatus.FAILED, code
    return _finish_if_done(c, request_key, outcome, len(numbers), webhook_body)


# --- retrying failed and cancelled images --------------------------------------------------------


def start_retry(
    c: sqlite3.Connection, request_id: str, limit: int, *, include_cancelled: bool
) -> int:
    """Reopen a finished request, and requeue the first images to retry. Return its key.

    These are its failed images and, with `include_cancelled`, its cancelled ones. The request is marked
    as `retrying` until `retry` has requeued the rest. Until then, none of its images are claimed.
    """
    key, finished_at = mappers.find(c, "key, finished_at", request_id)
    if finished_at is None:
        raise ProblemError(
            ProblemCode.NOT_FINISHED,
            "The request has not finished yet. Retry its failed images when it has finished.",
        )
    reopened = c.execute(
        "UPDATE requests SET retrying = ?1, cancelling = 0, started_at = NULL, finished_at = NULL, "
        "retried_at = ?2, measured_since = NULL, "
        "measured_done = completed + iif(?1 = 2, 0, cancelled), "
        "version = version + 1 WHERE key = ?3 AND failed + iif(?1 = 2, cancelled, 0) > 0",
        (2 if include_cancelled else 1, time.time(), key),
    ).rowcount
    if not reopened:
        kinds = "failed or cancelled" if include_cancelled else "failed"
        raise ProblemError(ProblemCode.NOTHING_FAILED, f"The request has no {kinds} images.")
    c.execute("DELETE FROM deliveries WHERE request_key = ?", (key,))
    _retry(c, key, limit, include_cancelled=include_cancelled)
    return int(key)


def retry(c: sqlite3.Connection, limit: int) -> int | None:
    """Continue a retry that was started. Return the request's key, or None if there is no retry."""
    row = c.execute("SELECT key, retrying FROM requests WHERE retrying > 0 LIMIT 1").fetchone()
    if row is None:
        return None
    _retry(c, row[0], limit, include_cancelled=row[1] == 2)
    return int(row[0])


def _retry(c: sqlite3.Connection, request_key: int, limit: int, *, include_cancelled: bool) -> bool:
    """Requeue at most `limit` images, but none of hosts that have been cancelled meanwhile.

    Return whether there may be more.
    """
    failed = _requeue(c, request_key, ImageStatus.FAILED, limit)
    hosts = Counter((host_name(host_url_of(url)), code) for _, code, url in failed)
    for (host, code), count in hosts.items():
        count_failures(c, request_key, host, code, -count)
    c.execute("DELETE FROM failures WHERE request_key = ? AND count = 0", (request_key,))
    remaining = limit - len(failed)
    if include_cancelled and remaining:
        remaining -= len(_requeue(c, request_key, ImageStatus.CANCELLED, remaining))
    if remaining:
        c.execute("UPDATE requests SET retrying = 0 WHERE key = ?", (request_key,))
    return not remaining


def _requeue(
    c: sqlite3.Connection, request_key: int, status: ImageStatus, limit: int
) -> list[tuple[int, ImageErrorCode, str]]:
    """Requeue failed or cancelled images. Return their numbers, error codes and URLs."""
    images = c.execute(
        "SELECT number, error_code, coalesce(fetch_url, url) FROM images "
        f"INDEXED BY images_{status} WHERE request_key = ? AND status = '{status}' "
        f"AND NOT (TRUE{_OF_CANCELLED_HOSTS}) ORDER BY number LIMIT ?",
        (request_key, limit),
    ).fetchall()
    _change_status(
        c,
        request_key,
        [number for number, *_ in images],
        status,
        ImageStatus.PENDING,
        values=", attempts = 0, not_before = 0, error_code = NULL, error_message = NULL",
    )
    return images
