"""Random sequences of operations: the database stays consistent, and every request finishes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from imgsvc.database.connection import Database
from imgsvc.database.job_store import host_key
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.tokens import Content, reserve
from imgsvc.database.transitions import IMAGE_TRANSITIONS
from imgsvc.errors import ImageError, ImageErrorCode, ProblemError
from imgsvc.image_types import CompressionSettings
from imgsvc.models import (
    Cancelled,
    Claim,
    Completed,
    Failed,
    ImageStatus,
    Outcome,
    RequestOptions,
    Requeued,
)
from tests.harness.audit import audit
from tests.harness.database import TABLE, DatabaseHarness, completed, stores_of

T = TypeVar("T")

HOSTS = ("a", "b", "c")
URLS = st.builds("http://{}/{}".format, st.sampled_from(HOSTS), st.integers(0, 5))
ROWS = st.lists(st.lists(URLS, min_size=1, max_size=4), min_size=1, max_size=6)
OUTCOMES = st.sampled_from(["complete", "fail", "again", "later", "full", "cancel"])
NOW = 1_000.0


def reachable(before: ImageStatus) -> set[ImageStatus]:
    """Return the statuses that an image with status `before` can get, including `before`."""
    found, left = {before}, [before]
    while left:
        for after in IMAGE_TRANSITIONS[left.pop()] - found:
            found.add(after)
            left.append(after)
    return found


class Machine(RuleBasedStateMachine):
    """Runs actions of users and of the service in any order, with restarts in between."""

    limits = DatabaseLimits()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="imgsvc-test-"))
        self.db = self.open_database()
        self.claims: list[Claim] = []
        self.ids: list[str] = []
        self.states: dict[tuple[int, int], ImageStatus] = {}
        self.outputs: set[str] = set()
        self.deleting: list[str] = []
        self.transitions = 0

    def open_database(self) -> DatabaseHarness:
        database = self.run(Database.open(self.folder / "imgsvc.db"))
        return DatabaseHarness(stores_of(database, self.limits))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        try:
            self.end_deletion(deleted=True)  # jobs that need these outputs wait for it
            self.run(self.finish_all())
            self.check()
            self.run(self.db.token_store.recover())
            self.outputs -= set(self.run(self.db.delete_marked()))
            assert self.outputs == self.stored_names(), "no output is left over"
        finally:
            self.run(self.db.database.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    async def finish_all(self) -> None:
        """Complete all remaining work, and check that every request has finished."""
        await self.db.job_store.recover()
        for key in await self.db.job_store.cancelling():
            while (await self.db.job_store.cancel_slice(key, 3))[0]:
                pass
        for _ in range(1_000):
            for claim in await self.db.claim(now=1e12):
                await self.db.job_store.finish([await self.store(completed(claim))])
            backlog = await self.db.queries.backlog()
            if not backlog.pending + backlog.processing:
                break
        requests, _ = await self.db.queries.list_requests(limit=1_000)
        assert all(request.finished_at is not None for request in requests)

    # --- actions of users ------------------------------------------------------------------------

    @rule(rows=ROWS, webhook=st.booleans(), accept=st.booleans())
    def upload(self, rows: list[list[str]], webhook: bool, accept: bool) -> None:
        async def upload() -> None:
            key = await self.db.stage(rows, size=2)
            options = RequestOptions(CompressionSettings(), "http://me/" if webhook else None)
            if accept:
                request = await self.db.request_store.accept(key, TABLE, options, max_waiting=10**6)
                self.ids.append(request.request_id)
            else:
                await self.db.request_store.discard(key)

        self.run(upload())

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), action=st.sampled_from(["cancel", "cancel host", "retry", "delete"]))
    def change_request(self, data: st.DataObject, action: str) -> None:
        request_id = data.draw(st.sampled_from(self.ids))
        with contextlib.suppress(ProblemError):
            match action:
                case "cancel":
                    self.run(self.db.job_store.start_cancel(request_id))
                case "cancel host":
                    host = data.draw(st.sampled_from(HOSTS))
                    self.run(self.db.job_store.start_cancel_host(request_id, host))
                case "retry":
                    include = data.draw(st.booleans())
                    self.run(self.db.job_store.retry_failed(request_id, include_cancelled=include))
                case "delete":
                    self.run(self.db.request_store.mark_deleting(request_id))

    # --- actions of the service --------------------------------------------------------------------

    @rule(limit=st.integers(1, 8), capacity=st.integers(1, 4), now=st.sampled_from([NOW, 2 * NOW]))
    def claim(self, limit: int, capacity: int, now: float) -> None:
        claims = self.run(self.db.claim(limit, capacity, now))
        assert len(claims) <= limit
        for host in {claim.host_url for claim in claims}:
            assert sum(claim.host_url == host for claim in claims) <= capacity
        self.claims += claims
        images = [(c.request_key, number) for c in self.claims for number in c.numbers]
        assert len(set(images)) == len(images), "no image is claimed twice"
        urls = [(claim.request_key, claim.url) for claim in self.claims]
        assert len(set(urls)) == len(urls), "no URL of a request is claimed twice"

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), kinds=st.lists(OUTCOMES, min_size=1, max_size=5))
    def finish(self, data: st.DataObject, kinds: list[str]) -> None:
        outcomes = []
        for kind in kinds[: len(self.claims)]:
            claim = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
            outcomes.append(self.outcome(claim, kind, data))
        result = self.run(self.db.job_store.finish(outcomes))
        keys = {outcome.claim.request_key for outcome in outcomes}
        assert set(result.changed_requests) <= keys
        assert {finished.request_key for finished in result.finished_requests} <= keys

    def outcome(self, claim: Claim, kind: str, data: st.DataObject) -> Outcome:
        source = data.draw(st.sampled_from(["x", "y", "z"]))
        outcome = self.run(self.store(completed(claim, source)))
        match kind:
            case "complete":
                return outcome
            case "fail":
                code = data.draw(st.sampled_from(list(ImageErrorCode)[:3]))
                return Failed(claim, claim.attempts + 1, code, "for a reason")
            case "again":
                return Requeued(claim, claim.attempts)
            case "later":
                error = ImageError(ImageErrorCode.TIMEOUT, "slow")
                return Requeued(claim, claim.attempts + 1, 1.5 * NOW, error)
            case "full":
                return Requeued(claim, claim.attempts, 1.5 * NOW)
            case _:
                return Cancelled(claim)

    @rule()
    def continue_cancelling(self) -> None:
        for key in self.run(self.db.job_store.cancelling()):
            self.run(self.db.job_store.cancel_slice(key, 2))

    @rule(host=st.sampled_from(HOSTS))
    def fail_host(self, host: str) -> None:
        key_of_host = host_key(f"http://{host}:80")
        for key, *_ in self.run(self.db.job_store.requests_waiting_for(key_of_host)):
            args = (key, key_of_host, ImageErrorCode.DNS_FAILURE, "dead", 2)
            assert self.run(self.db.job_store.fail_host(*args)).changed_requests == [key]

    @rule(host=st.sampled_from(HOSTS), is_open=st.booleans(), probe_at=st.floats(NOW, 2 * NOW))
    def change_circuit(self, host: str, is_open: bool, probe_at: float) -> None:
        key_of_host = host_key(f"http://{host}:80")
        store = self.db.job_store
        if is_open:
            waiting = self.run(store.requests_waiting_for(key_of_host))
            new = [key for key, _, held in waiting if not held]
            error = ImageError(ImageErrorCode.DNS_FAILURE, "dead")
            changed = self.run(store.hold_host(key_of_host, error, probe_at, new))
            assert set(changed.changed_requests) >= {key for key, *_ in waiting}
        else:
            self.run(store.release_host(key_of_host))

    async def store(self, outcome: Completed) -> Completed | Requeued:
        """Store the output of an outcome as a job does, if its token can be reserved."""
        content = Content(outcome.claim.claim_id, outcome.source_digest, outcome.claim.settings)
        (reservation,) = await self.db.database.write(lambda c: reserve(c, [content]))
        if reservation.deleting:
            return Requeued(outcome.claim, outcome.claim.attempts)
        if reservation.stored:
            return replace(outcome, info=None)
        self.outputs.add(f"{reservation.token.hex()}.jpg")
        return outcome

    @rule(limit=st.integers(1, 10))
    def purge(self, limit: int) -> None:
        self.run(self.db.request_store.purge_slice(limit))

    @precondition(lambda self: not self.deleting)
    @rule(limit=st.integers(1, 10))
    def begin_deletion(self, limit: int) -> None:
        self.deleting, _ = self.run(self.db.token_store.begin_deletion(limit))

    @rule(deleted=st.booleans())
    def end_deletion(self, deleted: bool) -> None:
        if deleted:
            self.outputs -= set(self.deleting)
        self.run(self.db.token_store.end_deletion(self.deleting if deleted else []))
        self.deleting = []

    @rule()
    def restart(self) -> None:
        self.run(self.db.database.close())
        self.db = self.open_database()
        self.run(self.db.token_store.recover())
        self.deleting = []
        self.run(self.db.job_store.recover())
        self.claims.clear()
        self.run(self.db.request_store.discard_abandoned())

    # --- invariants ----------------------------------------------------------------------------------

    def stored_names(self) -> set[str]:
        return self.run(
            self.db.database.read(lambda c: {n for (n,) in c.execute("SELECT name FROM files")})
        )

    @invariant()
    def check(self) -> None:
        self.run(self.db.database.read(audit))
        assert self.stored_names() <= self.outputs, "a completed image has lost its output"
        states = {
            (key, number): ImageStatus(status)
            for key, number, status in self.run(
                self.db.database.read(
                    lambda c: c.execute("SELECT request_key, number, status FROM images").fetchall()
                )
            )
        }
        for image, after in states.items():
            before = self.states.get(image, after)
            assert after in reachable(before)
            self.transitions += before is not after
        self.states = states


class SmallSlices(Machine):
    """The same with slices so small that every operation needs several of them."""

    limits = DatabaseLimits(hosts_per_claim=3, duplicates_per_transaction=2, bulk_slice=2)


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
