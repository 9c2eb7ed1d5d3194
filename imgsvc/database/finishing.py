"""Outcomes → rows, many in one transaction; the last one of a request finishes it."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imgsvc.database import mappers
from imgsvc.database.claiming import new_token
from imgsvc.database.index_keys import host_name
from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import ImageInfo
from imgsvc.models import (
    Cancelled,
    Claim,
    Completed,
    Failed,
    FinishedRequest,
    ImageStatus,
    Outcome,
    Request,
    Requeued,
    check_transition,
)

log = logging.getLogger(__name__)

WebhookBody = Callable[[Request], str]


@dataclass(frozen=True, slots=True)
class FinishResult:
    """What transactions over images have changed.

    `finished` are the requests that they finished, `changed_requests` the keys of all that they changed, and
    `orphaned_files` the names of stored files that no row names, which are the caller's to delete. `ended`
    counts the images that are done now, by status and error code ("": none).
    """

    finished: list[FinishedRequest] = field(default_factory=list)
    changed_requests: list[int] = field(default_factory=list)
    orphaned_files: list[str] = field(default_factory=list)
    ended: Counter[tuple[ImageStatus, str]] = field(default_factory=Counter)

    def add(self, other: FinishResult) -> None:
        """Take in what another transaction has changed."""
        self.finished.extend(other.finished)
        self.changed_requests.extend(other.changed_requests)
        self.orphaned_files.extend(other.orphaned_files)
        self.ended.update(other.ended)


@dataclass(slots=True)
class Changes:
    """What a transaction changes of one request's counters."""

    counts: Counter[ImageStatus] = field(default_factory=Counter)
    input_bytes: int = 0
    output_bytes: int = 0

    def moved(self, before: ImageStatus, after: ImageStatus, count: int) -> None:
        """Note that images have moved; raise `InvalidTransitionError` where they cannot have."""
        check_transition(before, after)
        self.counts[before] -= count
        self.counts[after] += count


def apply_changes(c: sqlite3.Connection, request_key: int, changes: Changes) -> None:
    """Bring a request's counters up to what its images are now."""
    c.execute(
        "UPDATE requests SET pending = pending + ?, processing = processing + ?, "
        "completed = completed + ?, failed = failed + ?, cancelled = cancelled + ?, "
        "input_bytes = input_bytes + ?, output_bytes = output_bytes + ?, version = version + 1 "
        "WHERE key = ?",
        (
            *(changes.counts[status] for status in ImageStatus),
            changes.input_bytes,
            changes.output_bytes,
            request_key,
        ),
    )


def finish_request(
    c: sqlite3.Connection, request_key: int, webhook_body: WebhookBody
) -> FinishedRequest | None:
    """Finish a request if nothing of it is left to do, and write its webhook in the same commit."""
    finished = c.execute(
        "UPDATE requests SET finished_at = ?, cancelling = 0, version = version + 1 WHERE key = ? "
        "AND pending = 0 AND processing = 0 AND retrying = 0 AND finished_at IS NULL",
        (time.time(), request_key),
    ).rowcount
    if not finished:
        return None
    request = mappers.request_of(c, request_key)
    if request.options.webhook_url is not None:
        c.execute(
            "REPLACE INTO deliveries (request_key, delivery_id, url, body, next_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                request_key,
                f"msg_{uuid.uuid4().hex}",
                request.options.webhook_url,
                webhook_body(request),
                time.time(),
            ),
        )
    return FinishedRequest(
        request_key, request.request_id, request.progress.status, request.progress
    )


def count_failures(
    c: sqlite3.Connection, request_key: int, host: str, code: ImageErrorCode, count: int
) -> None:
    c.execute(
        "INSERT INTO failures VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET count = count + excluded.count",
        (request_key, host, code, count),
    )


def finish(
    c: sqlite3.Connection, outcomes: Sequence[Outcome], webhook_body: WebhookBody
) -> FinishResult:
    """Write down how images ended.

    An outcome whose claim holds no longer is dropped.
    """
    work = _ResultWriter(c, webhook_body)
    for outcome in outcomes:
        work.write_if_ours(outcome)
    return work.result()


def finish_duplicates(
    c: sqlite3.Connection, outcome: Outcome, webhook_body: WebhookBody
) -> FinishResult:
    """Write down the outcome of further images of a claim, whose first `finish` has written down."""
    work = _ResultWriter(c, webhook_body)
    work.write(outcome)
    return work.result()


class _ResultWriter:
    """Outcomes on their way into the database."""

    def __init__(self, c: sqlite3.Connection, webhook_body: WebhookBody) -> None:
        self._c = c
        self._webhook_body = webhook_body
        self._changes: dict[int, Changes] = {}
        self._cancelling: dict[int, bool] = {}
        self._unused: list[str] = []
        self._ended: Counter[tuple[ImageStatus, str]] = Counter()

    def write_if_ours(self, outcome: Outcome) -> None:
        if self._is_ours(outcome.claim):
            self.write(outcome)
        else:
            self._drop(outcome)

    def write(self, outcome: Outcome) -> None:
        match outcome:
            case Completed():
                self._complete(outcome)
            case Failed():
                self._fail(outcome)
            case Requeued():
                self._put_back(outcome.claim, outcome.attempts, outcome.not_before)
            case Cancelled():
                self._cancel(outcome.claim)

    def result(self) -> FinishResult:
        """Bring the counters up to date and finish what is done."""
        result = FinishResult([], list(self._changes), self._unused, self._ended)
        for request_key, changes in self._changes.items():
            apply_changes(self._c, request_key, changes)
            finished = finish_request(self._c, request_key, self._webhook_body)
            if finished is not None:
                result.finished.append(finished)
        return result

    def _is_ours(self, claim: Claim) -> bool:
        """Tell whether the claim still holds: its image is in flight, under the claim's token."""
        row = self._c.execute(
            "SELECT status, token FROM images WHERE request_key = ? AND number = ?",
            (claim.request_key, claim.numbers[0]),
        ).fetchone()
        return row is not None and row == (ImageStatus.PROCESSING, bytes.fromhex(claim.token))

    def _drop(self, outcome: Outcome) -> None:
        log.warning(
            "an outcome came too late",
            extra={"request": outcome.claim.request_id, "image": outcome.claim.numbers[0]},
        )
        if isinstance(outcome, Completed) and _is_own(outcome):
            known = self._file(outcome)
            if known is None or known[1] != outcome.file:
                self._unused.append(outcome.file)

    def _complete(self, outcome: Completed) -> None:
        claim = outcome.claim
        stored = self._stored(outcome)
        if stored is None:  # deleted meanwhile, with the request that it was made for
            self._put_back(claim, claim.attempts, 0.0)
            return
        file_key, info = stored
        self._give_tokens(claim)
        count = self._update(
            claim,
            ImageStatus.COMPLETED,
            "attempts = ?, file_key = ?",
            (claim.attempts + 1, file_key),
        )
        self._ended[ImageStatus.COMPLETED, ""] += count
        changes = self._changes[claim.request_key]
        changes.input_bytes += count * info.input_bytes
        changes.output_bytes += count * info.output_bytes

    def _give_tokens(self, claim: Claim) -> None:
        """Give each image a public URL of its own; the claim's first has one from the start."""
        self._c.executemany(
            "UPDATE images SET token = ? WHERE request_key = ? AND number = ? AND token IS NULL",
            [(new_token(), claim.request_key, number) for number in claim.numbers],
        )

    def _stored(self, outcome: Completed) -> tuple[int, ImageInfo] | None:
        """Give the row of the file that holds the outcome, made where it is new."""
        known = self._file(outcome)
        if known is not None:
            file_key, name, info = known
            if _is_own(outcome) and name != outcome.file:
                self._unused.append(outcome.file)
            return file_key, info
        if not _is_own(outcome):
            return None
        (file_key,) = self._c.execute(
            "INSERT INTO files (name, source_digest, settings, input_bytes, output_bytes, width, "
            "height, input_format, output_format, source_quality, quality, kept) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING key",
            (outcome.file, *_content(outcome), *mappers.image_info_values(outcome.info)),
        ).fetchone()
        return file_key, outcome.info

    def _file(self, outcome: Completed) -> tuple[int, str, ImageInfo] | None:
        """Find the stored file of the same source and settings."""
        row = self._c.execute(
            f"SELECT f.key, f.name, {mappers.IMAGE_INFO_COLUMNS} FROM files f "
            "WHERE f.source_digest = ? AND f.settings = ?",
            _content(outcome),
        ).fetchone()
        return None if row is None else (row[0], row[1], mappers.image_info(row[2:]))

    def _fail(self, outcome: Failed) -> None:
        claim = outcome.claim
        count = self._update(
            claim,
            ImageStatus.FAILED,
            "attempts = ?, error_code = ?, error_message = ?, token = NULL",
            (outcome.attempts, outcome.code, mappers.storable(outcome.message)),
        )
        self._ended[ImageStatus.FAILED, outcome.code] += count
        host = host_name(claim.host_url)
        count_failures(self._c, claim.request_key, host, outcome.code, count)

    def _put_back(self, claim: Claim, attempts: int, not_before: float) -> None:
        if self._is_cancelling(claim.request_key):
            self._cancel(claim)
            return
        self._update(
            claim,
            ImageStatus.PENDING,
            "attempts = ?, not_before = ?, token = NULL",
            (attempts, not_before),
        )

    def _cancel(self, claim: Claim) -> None:
        count = self._update(claim, ImageStatus.CANCELLED, "token = NULL", ())
        self._ended[ImageStatus.CANCELLED, ""] += count

    def _is_cancelling(self, request_key: int) -> bool:
        if request_key not in self._cancelling:
            (cancelling,) = self._c.execute(
                "SELECT cancelling FROM requests WHERE key = ?", (request_key,)
            ).fetchone()
            self._cancelling[request_key] = bool(cancelling)
        return self._cancelling[request_key]

    def _update(
        self, claim: Claim, status: ImageStatus, values: str, parameters: tuple[object, ...]
    ) -> int:
        """Move the claim's images from processing to `status`; give the number of them."""
        count = self._c.executemany(
            f"UPDATE images SET status = ?, {values} "
            "WHERE request_key = ? AND number = ? AND status = 'processing'",
            [(status, *parameters, claim.request_key, number) for number in claim.numbers],
        ).rowcount
        changes = self._changes.setdefault(claim.request_key, Changes())
        changes.moved(ImageStatus.PROCESSING, status, count)
        return count


def _is_own(outcome: Completed) -> bool:
    """Tell whether the outcome's file was made for its own claim."""
    return outcome.file.startswith(outcome.claim.token)


def _content(outcome: Completed) -> tuple[bytes, str]:
    return outcome.source_digest, str(outcome.claim.settings)
