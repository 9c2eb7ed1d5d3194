"""Whose turn is it? Requests take turns, and within each request its origins do."""

from __future__ import annotations

import secrets
import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from imgsvc.database.index_keys import host_url_of, text_key
from imgsvc.database.mappers import settings_from
from imgsvc.models import Claim

T = TypeVar("T")

SCAN_BUDGET = 250
"""Origins that one claim looks at, at most (a few milliseconds); the next goes on from there."""
MAX_DUPLICATES = 2_000
"""Images of one URL that are claimed, or finished, in one transaction."""
MAX_CURSORS = 10_000
"""Requests whose turn among their origins is remembered."""

_FIRST, _LAST = -(2**63), 2**63 - 1
"""The bounds of origins' keys."""


class RoundRobin:
    """Whose turn it is next. Kept in memory: a new process may begin anywhere."""

    def __init__(self) -> None:
        self.request = 0
        self._hosts: OrderedDict[int, int] = OrderedDict()

    def last_host(self, request_key: int) -> int:
        """Give the origin of the request that was served last."""
        return self._hosts.get(request_key, _FIRST)

    def served(self, request_key: int, host_key: int) -> None:
        self._hosts[request_key] = host_key
        self._hosts.move_to_end(request_key)
        while len(self._hosts) > MAX_CURSORS:
            self._hosts.popitem(last=False)


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What a claim has found. `cut_short` says that it did not look everywhere; `crowded` are the
    claims with more siblings than one transaction takes.
    """

    claims: list[Claim]
    cut_short: bool
    crowded: list[Claim]


def allocate_fairly(
    amount: int, takers: Sequence[T], take: Callable[[T, int], int]
) -> Iterator[tuple[T, int]]:
    """Share `amount` among takers in rounds; each takes what it can of its share.

    Gives who took how much, as it happens. One that takes less than its share drops out.
    """
    hungry = list(takers)
    while amount > 0 and hungry:
        share = max(1, amount // len(hungry))
        still = []
        for taker in hungry:
            wanted = min(share, amount)
            if not wanted:
                break
            taken = take(taker, wanted)
            amount -= taken
            if taken:
                yield taker, taken
            if taken == wanted:
                still.append(taker)
        hungry = still


def claim(
    c: sqlite3.Connection, limit: int, room: Callable[[int], int], now: float, turns: RoundRobin
) -> ClaimResult:
    """Claim at most `limit` images, in one transaction."""
    return _Claiming(c, limit, room, now, turns).run()


@dataclass(frozen=True, slots=True)
class _Request:
    key: int
    request_id: str
    settings: str
    duplicate_urls: int


@dataclass(frozen=True, slots=True)
class _Image:
    number: int
    url: str
    attempts: int


class _Claiming:
    """One claim under way."""

    def __init__(
        self,
        c: sqlite3.Connection,
        limit: int,
        room: Callable[[int], int],
        now: float,
        turns: RoundRobin,
    ) -> None:
        self._c = c
        self._limit = limit
        self._room = room
        self._now = now
        self._turns = turns
        # Files that are stored together then lie in one folder, and one sync of it does for all.
        self._folder = secrets.token_bytes(1)
        self._looks = SCAN_BUDGET
        self._looked_at = 0
        self._claims: list[Claim] = []
        self._crowded: dict[tuple[int, str], Claim] = {}
        self._taken_at: Counter[int] = Counter()
        self._taken_of: Counter[int] = Counter()

    def run(self) -> ClaimResult:
        left = self._limit
        served: list[int] = []
        for requests in self._in_turn():
            for request, taken in allocate_fairly(left, requests, self._take):
                left -= taken
                served.append(request.key)
            if left <= 0 or self._looks <= 0:
                break
        self._count()
        if served:
            # Where room ran out before all had some, the one after the first had least.
            self._turns.request = served[0] if left > 0 else served[-1]
        elif self._looks <= 0:
            self._turns.request = self._looked_at
        return ClaimResult(self._claims, self._looks <= 0, list(self._crowded.values()))

    def _in_turn(self) -> Iterator[list[_Request]]:
        """Give the requests that wait, each once, from the one whose turn it is, `limit` at a time."""
        start = self._turns.request
        turn: list[_Request] = []
        for begin, end in ((start, _LAST), (_FIRST, start)):
            after: int | None = begin
            while after is not None:
                wanted = self._limit - len(turn)
                rows = self._c.execute(_CLAIMABLE, (after, end, wanted)).fetchall()
                turn += [_Request(*row) for row in rows]
                after = turn[-1].key if len(rows) == wanted else None
                if len(turn) == self._limit:
                    yield turn
                    turn = []
        if turn:
            yield turn

    def _take(self, request: _Request, wanted: int) -> int:
        """Claim at most `wanted` images of a request, its origins taking turns."""
        if self._looks > 0:
            self._looked_at = request.key
        hosts = self._hosts(request, wanted)
        taken = 0
        for host_key, count in allocate_fairly(
            wanted, hosts, lambda host_key, count: self._take_at(request, host_key, count)
        ):
            taken += count
            self._turns.served(request.key, host_key)
        return taken

    def _hosts(self, request: _Request, wanted: int) -> list[int]:
        """Give at most `wanted` origins of a request that have room, from the one whose turn it is."""
        start = self._turns.last_host(request.key)
        hosts: list[int] = []
        for begin, end in ((start, _LAST), (_FIRST, start)):
            position: int | None = begin
            while position is not None and len(hosts) < wanted and self._looks > 0:
                position = self._next_host(request.key, position, end)
                if position is None:
                    break
                self._looks -= 1
                if self._room_at(position) > 0:
                    hosts.append(position)
                if not self._looks:
                    self._turns.served(request.key, position)
        return hosts

    def _next_host(self, request_key: int, after: int, end: int) -> int | None:
        found: int | None = self._c.execute(
            "SELECT min(host_key) FROM images INDEXED BY images_waiting "
            "WHERE request_key = ? AND status = 'pending' AND host_key > ? AND host_key <= ?",
            (request_key, after, end),
        ).fetchone()[0]
        return found

    def _room_at(self, host_key: int) -> int:
        return self._room(host_key) - self._taken_at[host_key]

    def _take_at(self, request: _Request, host_key: int, count: int) -> int:
        """Claim at most `count` images of one origin: due retries, then those not tried yet."""
        wanted = min(count, self._room_at(host_key))
        taken = 0
        while taken < wanted:
            images = self._candidates(request, host_key, wanted - taken)
            claimed = self._claim_images(request, images)
            if not claimed:
                break
            taken += claimed
        self._taken_at[host_key] += taken
        return taken

    def _candidates(self, request: _Request, host_key: int, count: int) -> list[_Image]:
        return [
            _Image(*row)
            for row in self._c.execute(
                _CANDIDATES,
                {
                    "request": request.key,
                    "host": host_key,
                    "now": self._now,
                    "count": count,
                },
            )
        ]

    def _claim_images(self, request: _Request, images: Sequence[_Image]) -> int:
        """Make claims of images that are pending; give the number of claims."""
        claimed: set[int] = set()
        before = len(self._claims)
        for image in images:
            if image.number in claimed or (request.key, image.url) in self._crowded:
                continue  # has been claimed, or will be, with an earlier one of its URL
            numbers = [image.number]
            if request.duplicate_urls:
                numbers += find_duplicates(
                    self._c, request.key, image.url, after=-1, but=image.number
                )
            claimed.update(numbers)
            token = new_token(self._folder)
            mark_processing(self._c, request.key, numbers, token)
            claim = Claim(
                request_key=request.key,
                request_id=request.request_id,
                numbers=tuple(numbers),
                token=token.hex(),
                url=image.url,
                host_url=host_url_of(image.url),
                attempts=image.attempts,
                settings=settings_from(request.settings),
            )
            self._claims.append(claim)
            if len(numbers) > MAX_DUPLICATES:
                self._crowded[request.key, image.url] = claim
        self._taken_of[request.key] += len(claimed)
        return len(self._claims) - before

    def _count(self) -> None:
        for request_key, count in self._taken_of.items():
            count_claimed(self._c, request_key, count, self._now)


_CLAIMABLE = """
SELECT key, request_id, settings, duplicate_urls FROM requests INDEXED BY requests_claimable
WHERE stage = 'accepted' AND pending > 0 AND cancelling = 0 AND retrying = 0
  AND key > ? AND key <= ?
ORDER BY key LIMIT ?
"""

_CANDIDATES = """
SELECT number, url, attempts FROM (
  SELECT number, coalesce(fetch_url, url) AS url, attempts
  FROM images INDEXED BY images_waiting
  WHERE request_key = :request AND status = 'pending' AND host_key = :host
    AND not_before > 0 AND not_before <= :now
  ORDER BY not_before, number LIMIT :count)
UNION ALL
SELECT number, url, attempts FROM (
  SELECT number, coalesce(fetch_url, url) AS url, attempts
  FROM images INDEXED BY images_waiting
  WHERE request_key = :request AND status = 'pending' AND host_key = :host
    AND not_before = 0
  ORDER BY number LIMIT :count)
LIMIT :count
"""


def find_duplicates(
    c: sqlite3.Connection, request_key: int, url: str, *, after: int, but: int
) -> list[int]:
    """Give at most `MAX_DUPLICATES` waiting images of a request with this URL, numbered above `after`.

    The first image of a URL has no url_key and is not among them; within an origin images are claimed
    in the order of their numbers, so it is always the first that finds the others.
    """
    rows = c.execute(
        "SELECT number FROM images INDEXED BY images_duplicates "
        "WHERE request_key = ? AND url_key = ? AND number > ? AND number <> ? "
        "AND status = 'pending' AND coalesce(fetch_url, url) = ? ORDER BY number LIMIT ?",
        (request_key, text_key(url), after, but, url, MAX_DUPLICATES),
    )
    return [number for (number,) in rows]


def new_token(folder: bytes | None = None) -> bytes:
    """Give a token of 17 bytes. The first says in which folder its file lies; the others are random,
    so that whoever knows one output of a folder is no nearer to the others.
    """
    return (folder or secrets.token_bytes(1)) + secrets.token_bytes(16)


def mark_processing(
    c: sqlite3.Connection, request_key: int, numbers: Sequence[int], token: bytes | None
) -> None:
    """Let waiting images be in flight. The first gets the claim's token, which names their file: a
    start has to look for no other. The others get tokens of their own once they are completed.
    """
    c.executemany(
        "UPDATE images SET status = 'processing', not_before = 0, token = ? "
        "WHERE request_key = ? AND number = ?",
        [(None if at else token, request_key, number) for at, number in enumerate(numbers)],
    )


def count_claimed(c: sqlite3.Connection, request_key: int, count: int, now: float) -> None:
    c.execute(
        "UPDATE requests SET pending = pending - ?, processing = processing + ?, "
        "started_at = coalesce(started_at, ?), measured_since = coalesce(measured_since, ?), "
        "version = version + 1 WHERE key = ?",
        (count, count, now, now, request_key),
    )


def claim_more_duplicates(c: sqlite3.Connection, claim: Claim, now: float) -> Claim | None:
    """Add a slice of further siblings to a claim; None if there are no more."""
    numbers = find_duplicates(
        c, claim.request_key, claim.url, after=claim.numbers[-1], but=claim.numbers[0]
    )
    if not numbers:
        return None
    mark_processing(c, claim.request_key, numbers, None)
    count_claimed(c, claim.request_key, len(numbers), now)
    return replace(claim, numbers=claim.numbers + tuple(numbers))
