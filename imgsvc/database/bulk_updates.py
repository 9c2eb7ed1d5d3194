"""What is done to many images of a request at once, a slice of them in each transaction."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence

from imgsvc.database import mappers
from imgsvc.database.finishing import (
    Changes,
    FinishResult,
    WebhookBody,
    apply_changes,
    count_failures,
    finish_request,
)
from imgsvc.database.index_keys import host_name, host_url_of
from imgsvc.errors import ImageErrorCode, ProblemCode, ProblemError
from imgsvc.models import ImageStatus

_WAITING = (
    "SELECT number, coalesce(fetch_url, url) FROM images INDEXED BY images_waiting "
    "WHERE request_key = ? AND status = 'pending'"
)


def _move(
    c: sqlite3.Connection,
    request_key: int,
    numbers: Sequence[int],
    before: ImageStatus,
    after: ImageStatus,
    *,
    values: str = "",
    parameters: tuple[object, ...] = (),
) -> None:
    """Move images of a request, and its counters with them."""
    changes = Changes()
    changes.moved(before, after, len(numbers))
    c.executemany(
        f"UPDATE images SET status = ?{values} WHERE request_key = ? AND number = ?",
        [(after, *parameters, request_key, number) for number in numbers],
    )
    apply_changes(c, request_key, changes)


def _ended(
    c: sqlite3.Connection,
    request_key: int,
    ended: tuple[ImageStatus, str],
    count: int,
    webhook_body: WebhookBody,
) -> FinishResult:
    """Finish the request if these images were its last."""
    done = finish_request(c, request_key, webhook_body)
    finished = [] if done is None else [done]
    return FinishResult(finished, [request_key], ended=Counter({ended: count}))


# --- recovery --------------------------------------------------------------------------------


def reset_rates(c: sqlite3.Connection) -> None:
    """Let no rate be reckoned over the time in which no process was at work."""
    c.execute(
        "UPDATE requests INDEXED BY requests_unfinished SET measured_since = NULL, "
        "measured_done = completed + cancelled + iif(retrying, 0, failed) "
        "WHERE stage = 'accepted' AND finished_at IS NULL"
    )


def in_flight(c: sqlite3.Connection) -> list[str]:
    """Give the tokens under which files may lie of what is in flight."""
    return [
        token.hex()
        for (token,) in c.execute(
            "SELECT token FROM images INDEXED BY images_in_flight "
            "WHERE status = 'processing' AND token IS NOT NULL"
        )
    ]


def recover(c: sqlite3.Connection, limit: int) -> bool:
    """Put back at most `limit` images that an earlier process had in flight; False if none were."""
    row = c.execute(
        "SELECT key FROM requests INDEXED BY requests_unfinished "
        "WHERE stage = 'accepted' AND finished_at IS NULL AND processing > 0 LIMIT 1"
    ).fetchone()
    if row is None:
        return False
    images = c.execute(
        "SELECT number FROM images INDEXED BY images_in_flight "
        "WHERE request_key = ? AND status = 'processing' ORDER BY number LIMIT ?",
        (row[0], limit),
    ).fetchall()
    numbers = [number for (number,) in images]
    _move(c, row[0], numbers, ImageStatus.PROCESSING, ImageStatus.PENDING, values=", token = NULL")
    return True


# --- cancelling ------------------------------------------------------------------------------


def start_cancel(c: sqlite3.Connection, request_id: str) -> int:
    """Mark a request as being cancelled; what is left of a retry is not begun any more."""
    key, finished_at = mappers.find(c, "key, finished_at", request_id)
    if finished_at is not None:
        raise ProblemError(
            ProblemCode.ALREADY_FINISHED, "The request has finished: there is nothing to cancel."
        )
    c.execute(
        "UPDATE requests SET cancelling = 1, retrying = 0, version = version + 1 WHERE key = ?",
        (key,),
    )
    return int(key)


def cancel(
    c: sqlite3.Connection, request_key: int, limit: int, webhook_body: WebhookBody
) -> tuple[bool, FinishResult]:
    """Cancel at most `limit` waiting images; tell whether there are more."""
    row = c.execute(
        "SELECT cancelling FROM requests WHERE key = ? AND stage = 'accepted'", (request_key,)
    ).fetchone()
    if row is None or not row[0]:
        return False, FinishResult()
    waiting = c.execute(f"{_WAITING} LIMIT ?", (request_key, limit)).fetchall()
    numbers = [number for number, _ in waiting]
    _move(c, request_key, numbers, ImageStatus.PENDING, ImageStatus.CANCELLED)
    ended = ImageStatus.CANCELLED, ""
    return len(numbers) == limit, _ended(c, request_key, ended, len(numbers), webhook_body)


# --- origins that stay dead --------------------------------------------------------------------


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
    """Fail at most `limit` waiting images of an origin; their attempts stay as they are."""
    waiting = c.execute(
        f"{_WAITING} AND host_key = ? LIMIT ?", (request_key, host_key, limit)
    ).fetchall()
    if not waiting:
        return FinishResult()
    numbers = [number for number, _ in waiting]
    _move(
        c,
        request_key,
        numbers,
        ImageStatus.PENDING,
        ImageStatus.FAILED,
        values=", not_before = 0, error_code = ?, error_message = ?",
        parameters=(code, mappers.storable(message)),
    )
    count_failures(c, request_key, host_name(host_url_of(waiting[0][1])), code, len(numbers))
    return _ended(c, request_key, (ImageStatus.FAILED, code), len(numbers), webhook_body)


# --- failed images again -----------------------------------------------------------------------


def start_retry(c: sqlite3.Connection, request_id: str, limit: int) -> int:
    """Open a finished request again, and let its first failed images wait; give its key.

    It stays marked until `retry` has done the rest, and nothing of it is claimed before.
    """
    key, finished_at = mappers.find(c, "key, finished_at", request_id)
    if finished_at is None:
        raise ProblemError(
            ProblemCode.NOT_FINISHED,
            "The request has not finished. Its failed images can be retried once it has.",
        )
    opened = c.execute(
        "UPDATE requests SET retrying = 1, cancelling = 0, finished_at = NULL, retried_at = ?, "
        "measured_since = NULL, measured_done = completed + cancelled, version = version + 1 "
        "WHERE key = ? AND failed > 0",
        (time.time(), key),
    ).rowcount
    if not opened:
        raise ProblemError(ProblemCode.NOTHING_FAILED, "No image of the request has failed.")
    c.execute("DELETE FROM deliveries WHERE request_key = ?", (key,))
    _retry(c, key, limit)
    return int(key)


def retry(c: sqlite3.Connection, limit: int) -> int | None:
    """Go on with a retry that was begun; give the request's key, or None if there is none."""
    row = c.execute("SELECT key FROM requests WHERE retrying = 1 LIMIT 1").fetchone()
    if row is None:
        return None
    _retry(c, row[0], limit)
    return int(row[0])


def _retry(c: sqlite3.Connection, request_key: int, limit: int) -> None:
    failed = c.execute(
        "SELECT number, error_code, coalesce(fetch_url, url) FROM images INDEXED BY images_failed "
        "WHERE request_key = ? AND status = 'failed' ORDER BY number LIMIT ?",
        (request_key, limit),
    ).fetchall()
    _move(
        c,
        request_key,
        [number for number, *_ in failed],
        ImageStatus.FAILED,
        ImageStatus.PENDING,
        values=", attempts = 0, not_before = 0, error_code = NULL, error_message = NULL",
    )
    hosts = Counter((host_name(host_url_of(url)), code) for _, code, url in failed)
    for (host, code), count in hosts.items():
        count_failures(c, request_key, host, code, -count)
    c.execute("DELETE FROM failures WHERE request_key = ? AND count = 0", (request_key,))
    if len(failed) < limit:
        c.execute("UPDATE requests SET retrying = 0 WHERE key = ?", (request_key,))
