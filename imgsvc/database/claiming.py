"""Claims images fairly: the request that used the least worker time first, and hosts in turn."""

from __future__ import annotations

import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from imgsvc.database import source_memory, tokens
from imgsvc.database.index_keys import text_key
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.mappers import settings_from
from imgsvc.models import Claim
from imgsvc.urls import host_url_of

T = TypeVar("T")

MAX_CURSORS = 10_000
"""Maximum number of requests whose position among their hosts is remembered."""

LONGEST_DELAY_SECONDS = 375.0
"""A retry is never scheduled later than this: 300 s of a `Retry-After`, and 25 % more. An image that is
due even later was scheduled while the clock was ahead, so it is due now."""
MIN_PAGE_REQUESTS = 64
"""Requests whose worker time is compared, at least."""
AHEAD_SECONDS = 0.5
"""A request that has used more worker time than this is served after those that have not."""

_FIRST, _LAST = -(2**63), 2**63 - 1
"""The bounds of request keys and host keys."""


class RoundRobin:
    """The position of the last claim: its request and, for each request, the host.

    `worker_seconds` is the worker time that requests have used, by their keys; 0 for all others. Kept
    in memory only: a new process may start anywhere.
    """

    def __init__(self) -> None:
        self.request = 0
        self.worker_seconds: Mapping[int, float] = {}
        self._hosts: OrderedDict[int, int] = OrderedDict()

    def last_host(self, request_key: int) -> int:
        """Return the key of the host that the last claim of this request used."""
        return self._hosts.get(request_key, _FIRST)

    def set_last_host(self, request_key: int, host_key: int) -> None:
        """Record the host that a claim of this request used last."""
        self._hosts[request_key] = host_key
        self._hosts.move_to_end(request_key)
        while len(self._hosts) > MAX_CURSORS:
            self._hosts.popitem(last=False)


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The claims of one transaction.

    `truncated` is True if the scan budget ran out before all hosts were scanned. `incomplete` are the
    claims that may have more duplicates than one transaction can claim.
    """

    claims: list[Claim]
    truncated: bool
    incomplete: list[Claim]


def allocate_fairly(
    amount: int, consumers: Sequence[T], take: Callable[[T, int], int]
) -> Iterator[tuple[T, int]]:
    """Divide `amount` among consumers in rounds of equal allocations.

    `take(consumer, allocation)` returns how much of its allocation a consumer has used. Yield each
    consumer with that number, as soon as it is known. A consumer that uses less than its allocation
    is left out of the next rounds.
    """
    remaining = list(consumers)
    while amount > 0 and remaining:
        quota = max(1, amount // len(remaining))
        unsatisfied = []
        for consumer in remaining:
            allocation = min(quota, amount)
            if not allocation:
                break
            taken = take(consumer, allocation)
            amount -= taken
            if taken:
                yield consumer, taken
            if taken == allocation:
                unsatisfied.append(consumer)
        remaining = unsatisfied


def claim(
    c: sqlite3.Connection,
    limit: int,
    capacity: Callable[[int], int],
    now: float,
    *,
    round_robin: RoundRobin,
    claim_ids: Iterator[int],
    limits: DatabaseLimits,
) -> ClaimResult:
    """Claim at most `limit` URLs, with their duplicates, in one transaction.

    `capacity(host_key)` returns how many more URLs of a host may be claimed. `now` is in Unix seconds.
    Claims get their IDs from `claim_ids`.
    """
    return _ClaimTransaction(
        c, limit, capacity, now, round_robin=round_robin, claim_ids=claim_ids, limits=limits
    ).run()


@dataclass(frozen=True, slots=True)
class _Request:
    key: int
    request_id: str
    settings: str
    duplicate_urls: int
    fresh: int


@dataclass(frozen=True, slots=True)
class _Image:
    number: int
    url: str
    attempts: int


class _ClaimTransaction:
    """A claim transaction and its state."""

    def __init__(
        self,
        c: sqlite3.Connection,
        limit: int,
        capacity: Callable[[int], int],
        now: float,
        *,
        round_robin: RoundRobin,
        claim_ids: Iterator[int],
        limits: DatabaseLimits,
    ) -> None:
        self._c = c
        self._limit = limit
        self._capacity = capacity
        self._now = now
        self._round_robin = round_robin
        self._claim_ids = claim_ids
        self._secret = tokens.secret(c)
        self._scan_budget = limits.hosts_per_claim
        self._max_duplicates = limits.duplicates_per_transaction
        self._last_scanned_request = 0
        self._claims: list[Claim] = []
        self._incomplete: dict[tuple[int, str], Claim] = {}
        self._claimed_per_host: Counter[int] = Counter()
        self._claimed_per_request: Counter[int] = Counter()

    def run(self) -> ClaimResult:
        remaining = self._limit
        served: list[int] = []
        for requests in self._claimable_requests():
            for request, taken in allocate_fairly(remaining, requests, self._claim_request):
                remaining -= taken
                served.append(request.key)
            if remaining <= 0 or self._scan_budget <= 0:
                break
        self._update_counters()
        if served:
            # If the hosts' capacity ran out first, the request after the first one got the least.
            self._round_robin.request = served[0] if remaining > 0 else served[-1]
        elif self._scan_budget <= 0:
            self._round_robin.request = self._last_scanned_request
        truncated = self._scan_budget <= 0
        return ClaimResult(self._claims, truncated, list(self._incomplete.values()))

    def _claimable_requests(self) -> Iterator[list[_Request]]:
        """Yield all requests with pending images in round-robin order, a page at a time.

        Of each page, yield those that are ahead of others in their worker time last.
        """
        start = self._round_robin.request
        size = max(self._limit, MIN_PAGE_REQUESTS)
        page: list[_Request] = []
        for begin, end in ((start, _LAST), (_FIRST, start)):
            after: int | None = begin
            while after is not None:
                limit = size - len(page)
                rows = self._c.execute(_CLAIMABLE, (after, end, limit)).fetchall()
                page += [_Request(*row) for row in rows]
                after = page[-1].key if len(rows) == limit else None
                if len(page) == size:
                    yield from self._by_worker_seconds(page)
                    page = []
        yield from self._by_worker_seconds(page)

    def _by_worker_seconds(self, page: list[_Request]) -> Iterator[list[_Request]]:
        seconds = self._round_robin.worker_seconds
        for ahead in (False, True):
            yield [r for r in page if (seconds.get(r.key, 0.0) > AHEAD_SECONDS) is ahead]

    def _claim_request(self, request: _Request, limit: int) -> int:
        """Claim at most `limit` URLs of a request, allocated fairly to its hosts. Return the number."""
        if self._scan_budget > 0:
            self._last_scanned_request = request.key
        hosts = self._hosts(request, limit)
        claimed = 0
        for host_key, count in allocate_fairly(
            limit, hosts, lambda host_key, count: self._claim_host(request, host_key, count)
        ):
            claimed += count
            self._round_robin.set_last_host(request.key, host_key)
        return claimed

    def _hosts(self, request: _Request, limit: int) -> list[int]:
        """Return at most `limit` hosts of a request that have capacity, in round-robin order."""
        start = self._round_robin.last_host(request.key)
        cancelled = self._cancelled_hosts(request.key)
        hosts: list[int] = []
        for begin, end in ((start, _LAST), (_FIRST, start)):
            position: int | None = begin
            while position is not None and len(hosts) < limit and self._scan_budget > 0:
                position = self._next_host(request.key, position, end)
                if position is None:
                    break
                self._scan_budget -= 1
                if position not in cancelled and self._free_slots(position) > 0:
                    hosts.append(position)
                if not self._scan_budget:
                    self._round_robin.set_last_host(request.key, position)
        return hosts

    def _cancelled_hosts(self, request_key: int) -> set[int]:
        sql = "SELECT host_key FROM cancelled_hosts WHERE request_key = ?"
        return {key for (key,) in self._c.execute(sql, (request_key,))}

    def _next_host(self, request_key: int, after: int, end: int) -> int | None:
        found: int | None = self._c.execute(
            "SELECT min(host_key) FROM images INDEXED BY images_waiting "
            "WHERE request_key = ? AND status = 'pending' AND host_key > ? AND host_key <= ?",
            (request_key, after, end),
        ).fetchone()[0]
        return found

    def _free_slots(self, host_key: int) -> int:
        return self._capacity(host_key) - self._claimed_per_host[host_key]

    def _claim_host(self, request: _Request, host_key: int, limit: int) -> int:
        """Claim at most `limit` URLs of one host: retries that are due, then images not yet tried.

        Return the number.
        """
        limit = min(limit, self._free_slots(host_key))
        claimed = 0
        while claimed < limit:
            images = self._candidates(request, host_key, limit - claimed)
            count = self._claim_images(request, images)
            if not count:
                break
            claimed += count
        self._claimed_per_host[host_key] += claimed
        return claimed

    def _candidates(self, request: _Request, host_key: int, count: int) -> list[_Image]:
        return [
            _Image(*row)
            for row in self._c.execute(
                _CANDIDATES,
                {
                    "request": request.key,
                    "host": host_key,
                    "now": self._now,
                    "latest": self._now + LONGEST_DELAY_SECONDS,
                    "count": count,
                },
            )
        ]

    def _claim_images(self, request: _Request, images: Sequence[_Image]) -> int:
        """Claim pending images and their duplicates. Return the number of claims."""
        claimed: set[int] = set()
        before = len(self._claims)
        for image in images:
            if image.number in claimed or (request.key, image.url) in self._incomplete:
                continue  # a duplicate: claimed with an earlier image, now or in a later transaction
            numbers = [image.number]
            if request.duplicate_urls:
                numbers += find_duplicates(
                    self._c,
                    request.key,
                    image.url,
                    self._max_duplicates,
                    after=-1,
                    exclude=image.number,
                )
            claimed.update(numbers)
            mark_processing(self._c, request.key, numbers)
            settings = settings_from(request.settings)
            claim = Claim(
                claim_id=next(self._claim_ids),
                request_key=request.key,
                request_id=request.request_id,
                numbers=tuple(numbers),
                url=image.url,
                host_url=host_url_of(image.url),
                attempts=image.attempts,
                settings=settings,
                conditions=None
                if request.fresh
                else source_memory.conditions(self._c, self._secret, image.url, settings),
            )
            self._claims.append(claim)
            if len(numbers) > self._max_duplicates:
                self._incomplete[request.key, image.url] = claim
        self._claimed_per_request[request.key] += len(claimed)
        return len(self._claims) - before

    def _update_counters(self) -> None:
        for key, count in self._claimed_per_request.items():
            count_claimed(self._c, key, count, self._now)


_CLAIMABLE = """
SELECT key, request_id, settings, duplicate_urls, fresh FROM requests INDEXED BY requests_claimable
WHERE stage = 'accepted' AND pending > 0 AND cancelling = 0 AND retrying = 0
  AND key > ? AND key <= ?
ORDER BY key LIMIT ?
"""

_DUE_TIMES = ("> 0 AND not_before <= :now", "= 0", "> :latest")
"""When images are due, in the order of their claims: retries, those not yet tried, and retries that
were scheduled while the clock was ahead."""
_CANDIDATES = " UNION ALL ".join(
    "SELECT number, url, attempts FROM (SELECT number, coalesce(fetch_url, url) AS url, attempts "  # noqa: S608 - fixed text
    "FROM images INDEXED BY images_waiting "
    f"WHERE request_key = :request AND status = 'pending' AND host_key = :host AND not_before {due} "
    "ORDER BY not_before, number LIMIT :count)"
    for due in _DUE_TIMES
)
_CANDIDATES += " LIMIT :count"


def find_duplicates(
    c: sqlite3.Connection, request_key: int, url: str, limit: int, *, after: int, exclude: int
) -> list[int]:
    """Return the numbers of at most `limit` pending images of a request with this URL.

    Only numbers above `after` and other than `exclude` are returned. The first image with a URL has no
    `url_key`, so it is never found. It need not be: images of a host are claimed in the order of their
    numbers, so the search always starts from the first one.
    """
    rows = c.execute(
        "SELECT number FROM images INDEXED BY images_duplicates "
        "WHERE request_key = ? AND url_key = ? AND number > ? AND number <> ? "
        "AND status = 'pending' AND coalesce(fetch_url, url) = ? ORDER BY number LIMIT ?",
        (request_key, text_key(url), after, exclude, url, limit),
    )
    return [number for (number,) in rows]


def mark_processing(c: sqlite3.Connection, request_key: int, numbers: Sequence[int]) -> None:
    """Change the status of pending images to `processing`."""
    c.executemany(
        "UPDATE images SET status = 'processing', not_before = 0 "
        "WHERE request_key = ? AND number = ?",
        [(request_key, number) for number in numbers],
    )


def count_claimed(c: sqlite3.Connection, request_key: int, count: int, now: float) -> None:
    """Update the counters of a request after `count` of its images were claimed."""
    c.execute(
        "UPDATE requests SET pending = pending - ?, processing = processing + ?, "
        "started_at = coalesce(started_at, ?), measured_since = coalesce(measured_since, ?), "
        "version = version + 1 WHERE key = ?",
        (count, count, now, now, request_key),
    )


def claim_more_duplicates(
    c: sqlite3.Connection, claim: Claim, limit: int, now: float
) -> Claim | None:
    """Claim at most `limit` further duplicates.

    Return the extended claim, or None if there are no more duplicates.
    """
    numbers = find_duplicates(
        c, claim.request_key, claim.url, limit, after=claim.numbers[-1], exclude=claim.numbers[0]
    )
    if not numbers:
        return None
    mark_processing(c, claim.request_key, numbers)
    count_claimed(c, claim.request_key, len(numbers), now)
    return replace(claim, numbers=claim.numbers + tuple(numbers))
