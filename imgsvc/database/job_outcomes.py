"""Writes the outcomes of jobs to the database, and finishes requests whose images are all done."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imgsvc.database import mappers, source_memory, tokens, waiting_hosts
from imgsvc.database.index_keys import host_key, receiver_key
from imgsvc.database.transitions import check_transition
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
    Reuse,
)
from imgsvc.urls import host_name

WebhookBody = Callable[[Request], str]
"""A function that returns the JSON body of a finished request's webhook."""


@dataclass(frozen=True, slots=True)
class FinishResult:
    """The changes of one or several transactions.

    `finished_requests` are the requests that finished. `changed_requests` are the keys of all changed
    requests. `image_counts` counts the images that became completed, failed or cancelled, by status and
    error code ("" if there is none).
    """

    finished_requests: list[FinishedRequest] = field(default_factory=list)
    changed_requests: list[int] = field(default_factory=list)
    image_counts: Counter[tuple[ImageStatus, str]] = field(default_factory=Counter)

    def add(self, other: FinishResult) -> None:
        """Add the changes of another transaction."""
        self.finished_requests.extend(other.finished_requests)
        self.changed_requests.extend(other.changed_requests)
        self.image_counts.update(other.image_counts)


@dataclass(slots=True)
class Changes:
    """The changes of one request's counters in a transaction."""

    counts: Counter[ImageStatus] = field(default_factory=Counter)
    reused: Counter[Reuse] = field(default_factory=Counter)
    input_bytes: int = 0
    output_bytes: int = 0

    def record(self, before: ImageStatus, after: ImageStatus, count: int) -> None:
        """Record a status change of `count` images. Raise `InvalidTransitionError` if it is illegal."""
        check_transition(before, after)
        self.counts[before] -= count
        self.counts[after] += count


def apply_changes(c: sqlite3.Connection, request_key: int, changes: Changes) -> None:
    """Add the changes to the counters in the request's row."""
    c.execute(
        "UPDATE requests SET pending = pending + ?, processing = processing + ?, "
        "completed = completed + ?, failed = failed + ?, cancelled = cancelled + ?, "
        "not_modified = not_modified + ?, same_bytes = same_bytes + ?, same_url = same_url + ?, "
        "input_bytes = input_bytes + ?, output_bytes = output_bytes + ?, version = version + 1, "
        "measured_done = measured_done + ? WHERE key = ?",
        (
            *(changes.counts[status] for status in ImageStatus),
            *(changes.reused[reuse] for reuse in Reuse),
            changes.input_bytes,
            changes.output_bytes,
            max(0, changes.counts[ImageStatus.CANCELLED]),  # cancelling images is no progress
            request_key,
        ),
    )


def finish_request(
    c: sqlite3.Connection, request_key: int, webhook_body: WebhookBody
) -> FinishedRequest | None:
    """Finish a request if all its images are done, and add its webhook in the same transaction.

    Return None if images are still unfinished, or if the request had finished before.
    """
    finished = c.execute(
        "UPDATE requests SET finished_at = ?, cancelling = 0, version = version + 1 WHERE key = ? "
        "AND pending = 0 AND processing = 0 AND retrying = 0 AND finished_at IS NULL",
        (time.time(), request_key),
    ).rowcount
    if not finished:
        return None
    c.execute("DELETE FROM cancelled_hosts WHERE request_key = ?", (request_key,))
    request = mappers.request_of(c, request_key)
    if request.options.webhook_url is not None:
        c.execute(
            "REPLACE INTO deliveries (request_key, delivery_id, url, receiver_key, body, next_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                request_key,
                f"msg_{uuid.uuid4().hex}",
                request.options.webhook_url,
                receiver_key(request.options.webhook_url),
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
    """Add `count` to the number of the request's images that failed with this host and code."""
    c.execute(
        "INSERT INTO failures VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET count = count + excluded.count",
        (request_key, host, code, count),
    )


def finish(
    c: sqlite3.Connection, outcomes: Sequence[Outcome], webhook_body: WebhookBody
) -> FinishResult:
    """Write the outcomes of jobs, and release the tokens that the jobs have reserved."""
    writer = _OutcomeWriter(c, webhook_body)
    for outcome in outcomes:
        stored = writer.write(outcome)
        tokens.release(c, outcome.claim.claim_id, stored=stored)
    return writer.result()


def finish_duplicates(
    c: sqlite3.Connection, outcome: Outcome, webhook_body: WebhookBody
) -> FinishResult:
    """Write the outcome of further images of a claim. Call `finish` for its first images before."""
    writer = _OutcomeWriter(c, webhook_body)
    writer.write(outcome)
    return writer.result()


class _OutcomeWriter:
    """Writes outcomes in one transaction, and collects the changes."""

    def __init__(self, c: sqlite3.Connection, webhook_body: WebhookBody) -> None:
        self._c = c
        self._webhook_body = webhook_body
        self._changes: dict[int, Changes] = {}
        self._cancelled: dict[tuple[int, str], bool] = {}
        self._image_counts: Counter[tuple[ImageStatus, str]] = Counter()
        self._secret = tokens.secret(c)

    def write(self, outcome: Outcome) -> bool:
        """Write an outcome. Return whether the output of its claim is stored."""
        match outcome:
            case Completed():
                return self._complete(outcome)
            case Failed():
                self._fail(outcome)
            case Requeued():
                self._requeue(outcome)
            case Cancelled():
                self._cancel(outcome.claim)
        return False

    def result(self) -> FinishResult:
        """Update the counters, finish requests whose images are all done, and return the changes."""
        result = FinishResult([], list(self._changes), self._image_counts)
        for request_key, changes in self._changes.items():
            apply_changes(self._c, request_key, changes)
            finished = finish_request(self._c, request_key, self._webhook_body)
            if finished is not None:
                result.finished_requests.append(finished)
        return result

    def _complete(self, outcome: Completed) -> bool:
        claim = outcome.claim
        stored = self._find_or_add_file(outcome)
        if stored is None:  # deleted meanwhile, together with the request that it belonged to
            self._requeue(Requeued(claim, claim.attempts))
            return False
        file_key, info = stored
        first = claim.numbers[0]
        slug = source_memory.slug_of(
            self._c, claim.url, outcome.source_digest, (claim.request_key, first)
        )
        count = self._update(
            claim,
            ImageStatus.COMPLETED,
            "attempts = ?, file_key = ?, slug = ?, reused = iif(number = ?, ?, 'same-url')",
            (claim.attempts + 1, file_key, slug, first, outcome.reused),
        )
        if outcome.validators is not None:
            source_memory.remember(self._c, claim.url, outcome.source_digest, outcome.validators)
        self._image_counts[ImageStatus.COMPLETED, ""] += count
        changes = self._changes[claim.request_key]
        changes.reused[Reuse.SAME_URL] += count - 1
        if outcome.reused is not None:
            changes.reused[outcome.reused] += 1
        changes.input_bytes += count * info.input_bytes
        changes.output_bytes += count * info.output_bytes
        return True

    def _find_or_add_file(self, outcome: Completed) -> tuple[int, ImageInfo] | None:
        """Return key and info of the output's row, which is created if the output is new.

        Return None if an earlier image has stored the output, and it was deleted.
        """
        token = tokens.output_token(self._secret, outcome.source_digest, outcome.claim.settings)
        row = self._c.execute(
            f"SELECT f.key, {mappers.IMAGE_INFO_COLUMNS} FROM files f WHERE f.token = ?", (token,)
        ).fetchone()
        if row is not None:
            return row[0], mappers.image_info(row[1:])
        if outcome.info is None:
            return None
        (file_key,) = self._c.execute(
            "INSERT INTO files (token, name, source_digest, input_bytes, output_bytes, width, height, "
            "input_format, output_format, source_quality, quality, kept, notes, digest) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING key",
            (
                token,
                mappers.public_name(token, outcome.info),
                outcome.source_digest,
                *mappers.image_info_values(outcome.info),
                outcome.info.digest,
            ),
        ).fetchone()
        return file_key, outcome.info

    def _fail(self, outcome: Failed) -> None:
        claim = outcome.claim
        count = self._update(
            claim,
            ImageStatus.FAILED,
            "attempts = ?, error_code = ?, error_message = ?",
            (outcome.attempts, outcome.code, mappers.storable(outcome.message)),
        )
        self._image_counts[ImageStatus.FAILED, outcome.code] += count
        host = host_name(claim.host_url)
        count_failures(self._c, claim.request_key, host, outcome.code, count)

    def _requeue(self, outcome: Requeued) -> None:
        claim = outcome.claim
        if self._is_cancelled(claim):
            self._cancel(claim)
            return
        if outcome.error is not None:
            waiting_hosts.record_error(self._c, claim, outcome.error)
        values = outcome.attempts, outcome.not_before
        self._update(claim, ImageStatus.PENDING, "attempts = ?, not_before = ?", values)

    def _cancel(self, claim: Claim) -> None:
        count = self._update(claim, ImageStatus.CANCELLED, "not_before = 0", ())
        self._image_counts[ImageStatus.CANCELLED, ""] += count

    def _is_cancelled(self, claim: Claim) -> bool:
        """Return whether the claim's request, or its host in the request, is being cancelled."""
        key = claim.request_key, claim.host_url
        if key not in self._cancelled:
            (cancelled,) = self._c.execute(
                "SELECT cancelling OR EXISTS (SELECT 1 FROM cancelled_hosts "
                "WHERE request_key = r.key AND host_key = ?) FROM requests r WHERE key = ?",
                (host_key(claim.host_url), claim.request_key),
            ).fetchone()
            self._cancelled[key] = bool(cancelled)
        return self._cancelled[key]

    def _update(
        self, claim: Claim, status: ImageStatus, values: str, parameters: tuple[object, ...]
    ) -> int:
        """Change the status of the claim's images from processing to `status`. Return their number."""
        count = self._c.executemany(
            f"UPDATE images SET status = ?, {values} "
            "WHERE request_key = ? AND number = ? AND status = 'processing'",
            [(status, *parameters, claim.request_key, number) for number in claim.numbers],
        ).rowcount
        changes = self._changes.setdefault(claim.request_key, Changes())
        changes.record(ImageStatus.PROCESSING, status, count)
        return count
