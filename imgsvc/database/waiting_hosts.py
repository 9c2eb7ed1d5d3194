"""Records which hosts the images of a request wait for. Triggers of the database count the images."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from imgsvc.database import mappers
from imgsvc.database.index_keys import host_key
from imgsvc.errors import ImageError
from imgsvc.models import Claim
from imgsvc.urls import host_name, host_url_of


def record_error(c: sqlite3.Connection, claim: Claim, error: ImageError) -> None:
    """Record the error because of which the claimed images will wait for another attempt."""
    key, host = host_key(claim.host_url), host_name(claim.host_url)
    _record(c, claim.request_key, key, host, error)


def add_requests(
    c: sqlite3.Connection, host_key: int, error: ImageError, request_keys: Iterable[int]
) -> dict[int, bool]:
    """Add a host to requests with pending images of it. The triggers record changes from here on.

    Return the keys of these requests, each with whether its unfinished images are counted already.
    """
    added = {}
    for request_key in request_keys:
        image = c.execute(
            "SELECT coalesce(fetch_url, url) FROM images INDEXED BY images_waiting "
            "WHERE request_key = ? AND status = 'pending' AND host_key = ? LIMIT 1",
            (request_key, host_key),
        ).fetchone()
        if image is not None:
            _record(c, request_key, host_key, host_name(host_url_of(image[0])), error)
            added[request_key] = bool(_unfinished(c, request_key, host_key)[1])
    return added


def count(c: sqlite3.Connection, request_key: int, host_key: int) -> int:
    """Return what has to be added to `unfinished`. This may take a second, so do it in a snapshot.

    The difference stays right while the triggers change `unfinished`.
    """
    (counted,) = c.execute(
        "SELECT (SELECT count(*) FROM images INDEXED BY images_waiting "
        "WHERE request_key = ?1 AND host_key = ?2 AND status = 'pending') "
        "+ (SELECT count(*) FROM images INDEXED BY images_in_flight "
        "WHERE request_key = ?1 AND host_key = ?2 AND status = 'processing')",
        (request_key, host_key),
    ).fetchone()
    return int(counted) - _unfinished(c, request_key, host_key)[0]


def hold(
    c: sqlite3.Connection,
    host_key: int,
    error: ImageError,
    probe_at: float,
    counts: Mapping[int, int],
) -> list[int]:
    """Record that a host's circuit is open until a probe succeeds: the next one is at `probe_at`.

    `counts` has a key for each request that `add_requests` has returned, with the result of `count` if
    its images were not counted. Requests for which this was recorded earlier need not be among them.
    Return the keys of the changed requests.
    """
    held = c.execute(
        "SELECT request_key FROM waiting_hosts INDEXED BY waiting_hosts_open "
        "WHERE host_key = ? AND probe_at IS NOT NULL AND count > 0",
        (host_key,),
    )
    changed = {key for (key,) in held} | counts.keys()
    for key in changed:
        c.execute(
            "UPDATE waiting_hosts SET code = ?, message = ?, probe_at = ?, counted = 1, "
            "unfinished = unfinished + ? WHERE request_key = ? AND host_key = ?",
            (
                error.code,
                mappers.storable(error.message),
                probe_at,
                counts.get(key, 0),
                key,
                host_key,
            ),
        )
    _mark_changed(c, changed)
    return list(changed)


def release(c: sqlite3.Connection, host_key: int) -> list[int]:
    """Record that a host's circuit is closed. Return the keys of the changed requests."""
    keys = c.execute(
        "UPDATE waiting_hosts INDEXED BY waiting_hosts_open SET probe_at = NULL "
        "WHERE host_key = ? AND probe_at IS NOT NULL RETURNING request_key",
        (host_key,),
    ).fetchall()
    changed = [key for (key,) in keys]
    _mark_changed(c, changed)
    return changed


def release_all(c: sqlite3.Connection) -> None:
    """Record that all circuits are closed, as they are at the start of a process."""
    keys = c.execute(
        "UPDATE waiting_hosts INDEXED BY waiting_hosts_open SET probe_at = NULL "
        "WHERE probe_at IS NOT NULL RETURNING request_key"
    ).fetchall()
    _mark_changed(c, {key for (key,) in keys})


def _record(
    c: sqlite3.Connection, request_key: int, host_key: int, host: str, error: ImageError
) -> None:
    """Record the latest error of a host."""
    message = mappers.storable(error.message)
    updated = c.execute(
        "UPDATE waiting_hosts SET code = ?, message = ? WHERE request_key = ? AND host_key = ?",
        (error.code, message, request_key, host_key),
    ).rowcount
    if not updated:
        c.execute(
            "INSERT INTO waiting_hosts (request_key, host_key, host, code, message, retrying) "
            "SELECT ?1, ?2, ?3, ?4, ?5, count(*) FROM images INDEXED BY images_waiting "
            "WHERE request_key = ?1 AND host_key = ?2 AND status = 'pending' AND not_before > 0",
            (request_key, host_key, host, error.code, message),
        )


def _unfinished(c: sqlite3.Connection, request_key: int, host_key: int) -> tuple[int, int]:
    """Return `unfinished` and `counted` of a host. Zeros if its request was deleted meanwhile."""
    row: tuple[int, int] | None = c.execute(
        "SELECT unfinished, counted FROM waiting_hosts WHERE request_key = ? AND host_key = ?",
        (request_key, host_key),
    ).fetchone()
    return row or (0, 0)


def _mark_changed(c: sqlite3.Connection, request_keys: Iterable[int]) -> None:
    c.executemany(
        "UPDATE requests SET version = version + 1 WHERE key = ? AND finished_at IS NULL",
        [(key,) for key in request_keys],
    )
