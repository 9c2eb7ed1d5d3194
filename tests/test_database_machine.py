"""Whatever is done in whatever order, the books agree, and all work comes to its end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from imgsvc.database import claiming, job_store
from imgsvc.database.connection import Database
from imgsvc.database.job_store import host_key
from imgsvc.errors import ImageErrorCode, ProblemError
from imgsvc.image_types import CompressionSettings
from imgsvc.models import (
    IMAGE_TRANSITIONS,
    Cancelled,
    Claim,
    Failed,
    ImageStatus,
    Outcome,
    RequestOptions,
    Requeued,
)
from tests.database_harness import COLUMNS, DatabaseHarness, audit, completed

T = TypeVar("T")

HOSTS = ("a", "b", "c")
URLS = st.builds("http://{}/{}".format, st.sampled_from(HOSTS), st.integers(0, 5))
ROWS = st.lists(st.lists(URLS, min_size=1, max_size=4), min_size=1, max_size=6)
ENDS = st.sampled_from(["complete", "fail", "again", "later", "cancel"])
NOW = 1_000.0


def reachable(before: ImageStatus) -> set[ImageStatus]:
    """Give the states that legal moves lead to from `before`, itself included."""
    found, left = {before}, [before]
    while left:
        for after in IMAGE_TRANSITIONS[left.pop()] - found:
            found.add(after)
            left.append(after)
    return found


class Machine(RuleBasedStateMachine):
    """Users and the service, doing what they do in any order, with restarts in between."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="imgsvc-test-"))
        self.db = DatabaseHarness(self.run(Database.open(self.folder / "imgsvc.db")))
        self.claims: list[Claim] = []
        self.ids: list[str] = []
        self.states: dict[tuple[int, int], ImageStatus] = {}
        self.files: set[str] = set()
        self.moves = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        try:
            self.run(self.finish_all())
            self.check()
        finally:
            self.run(self.db.database.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    async def finish_all(self) -> None:
        """All work comes to its end, however it stands now."""
        await self.db.work.recover()
        for key in await self.db.work.cancelling():
            while (await self.db.work.cancel_slice(key, 3))[0]:
                pass
        for _ in range(1_000):
            for claim in await self.db.claim(now=1e12):
                await self.db.work.finish([completed(claim)])
            if not await self.db.work.waiting():
                break
        requests, _ = await self.db.snapshots.list_requests(limit=1_000)
        assert all(request.finished_at is not None for request in requests)

    # --- what users do ---------------------------------------------------------------------------

    @rule(rows=ROWS, webhook=st.booleans(), accept=st.booleans())
    def upload(self, rows: list[list[str]], webhook: bool, accept: bool) -> None:
        async def upload() -> None:
            key = await self.db.stage(rows, size=2)
            options = RequestOptions(CompressionSettings(), "http://me/" if webhook else None)
            if accept:
                request = await self.db.uploads.accept(key, COLUMNS, options, max_waiting=10**6)
                self.ids.append(request.request_id)
            else:
                await self.db.uploads.discard(key)

        self.run(upload())

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), wish=st.sampled_from(["cancel", "retry", "delete"]))
    def wish(self, data: st.DataObject, wish: str) -> None:
        request_id = data.draw(st.sampled_from(self.ids))
        asked = {
            "cancel": self.db.work.start_cancel,
            "retry": self.db.work.retry_failed,
            "delete": self.db.uploads.mark_deleting,
        }[wish]
        try:
            self.run(asked(request_id))
        except ProblemError:
            return

    # --- what the service does ---------------------------------------------------------------------

    @rule(limit=st.integers(1, 8), room=st.integers(1, 4), now=st.sampled_from([NOW, 2 * NOW]))
    def claim(self, limit: int, room: int, now: float) -> None:
        claims = self.run(self.db.claim(limit, room, now))
        assert len(claims) <= limit
        for origin in {claim.host_url for claim in claims}:
            assert sum(claim.host_url == origin for claim in claims) <= room
        self.claims += claims
        extra_positions = [(c.request_key, number) for c in self.claims for number in c.numbers]
        assert len(set(extra_positions)) == len(extra_positions), "no image is claimed twice"
        urls = [(claim.request_key, claim.url) for claim in self.claims]
        assert len(set(urls)) == len(urls), "no URL of a request is claimed twice"

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), ends=st.lists(ENDS, min_size=1, max_size=5))
    def finish(self, data: st.DataObject, ends: list[str]) -> None:
        outcomes = []
        for end in ends[: len(self.claims)]:
            claim = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
            outcomes.append(self.outcome(claim, end, data))
        result = self.run(self.db.work.finish(outcomes))
        keys = {outcome.claim.request_key for outcome in outcomes}
        assert set(result.changed_requests) <= keys
        assert {finished.request_key for finished in result.finished} <= keys

    def outcome(self, claim: Claim, end: str, data: st.DataObject) -> Outcome:
        match end:
            case "complete":
                return completed(claim, data.draw(st.sampled_from(["x", "y", claim.token])))
            case "fail":
                code = data.draw(st.sampled_from(list(ImageErrorCode)[:3]))
                return Failed(claim, claim.attempts + 1, code, "for a reason")
            case "again":
                return Requeued(claim, claim.attempts)
            case "later":
                return Requeued(claim, claim.attempts + 1, 1.5 * NOW)
            case _:
                return Cancelled(claim)

    @rule()
    def go_on_cancelling(self) -> None:
        for key in self.run(self.db.work.cancelling()):
            self.run(self.db.work.cancel_slice(key, 2))

    @rule(host=st.sampled_from(HOSTS))
    def give_up_on_a_host(self, host: str) -> None:
        origin = host_key(f"http://{host}:80")
        for key, _ in self.run(self.db.work.requests_waiting_for(origin)):
            args = (key, origin, ImageErrorCode.DNS_FAILURE, "dead", 2)
            assert self.run(self.db.work.fail_host(*args)).changed_requests == [key]

    @rule(limit=st.integers(1, 10))
    def purge(self, limit: int) -> None:
        purged = self.run(self.db.uploads.purge_slice(limit))
        assert set(purged.names) <= set(self.run(self.db.uploads.pending_deletions()))
        self.run(self.db.uploads.confirm_deletions(purged.names))

    @rule()
    def restart(self) -> None:
        self.run(self.db.database.close())
        self.db = DatabaseHarness(self.run(Database.open(self.folder / "imgsvc.db")))
        tokens = self.run(self.db.work.in_flight())
        assert {claim.token for claim in self.claims} <= set(tokens)
        self.run(self.db.work.recover())
        self.claims.clear()
        self.run(self.db.uploads.discard_abandoned())

    # --- what must hold ------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        self.run(self.db.database.read(audit))
        states = {
            (key, number): ImageStatus(status)
            for key, number, status in self.run(
                self.db.database.read(
                    lambda c: c.execute("SELECT request_key, number, status FROM images").fetchall()
                )
            )
        }
        for place, after in states.items():
            before = self.states.get(place, after)
            assert after in reachable(before)
            self.moves += before is not after
        self.states = states


class SmallSlices(Machine):
    """The same with slices so small that everything takes several of them."""

    def __init__(self) -> None:
        self.kept = (job_store.SLICE, claiming.MAX_DUPLICATES, claiming.SCAN_BUDGET)
        job_store.SLICE, claiming.MAX_DUPLICATES, claiming.SCAN_BUDGET = 2, 2, 3
        super().__init__()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            job_store.SLICE, claiming.MAX_DUPLICATES, claiming.SCAN_BUDGET = self.kept


_SETTINGS = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestMachine = Machine.TestCase
TestMachine.settings = _SETTINGS
TestSmallSlices = SmallSlices.TestCase
TestSmallSlices.settings = _SETTINGS
