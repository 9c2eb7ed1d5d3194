"""Tests of a real service whose system clock is set 1,000 days forwards or back, by libfaketime."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table
from tests.waiting import block_until

pytestmark = pytest.mark.external

AHEAD, BEHIND = "+1000d", "-1000d"


def set_clock(service: Service, shift: str | None) -> None:
    """Make the next start see a shifted clock. None: the machine's own one."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    shifted = {"LD_PRELOAD": str(library), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    for name, value in shifted.items():
        service.environ.pop(name, None)
        if shift is not None and value is not None:
            service.environ[name] = value


def clock_seen_at(service: Service) -> float:
    """Return the last time at which the service has trusted its clock."""
    with closing(sqlite3.connect(service.data_dir / "imgsvc.db", timeout=30)) as database:
        return float(database.execute("SELECT seen_at FROM clock").fetchone()[0] or 0.0)


@pytest.mark.parametrize(("first", "second"), [(AHEAD, None), (None, BEHIND)])
def test_retries_and_webhooks_scheduled_by_a_clock_that_was_ahead_run_after_a_restart(
    start_service: StartService, origin: Origin, first: str | None, second: str | None
) -> None:
    service = start_service(
        webhook={"retry_delays_seconds": [300.0]}, fetch={"attempts": 2, "per_host": 4}
    )
    service.stop()
    set_clock(service, first)
    service.restart()
    hook = origin.script("/hook", Reply(500), Reply(204))
    done = service.upload(table([(1, "p", origin.photo(1))]), f"?webhookUrl={hook}")
    assert service.finished(done)["status"] == "completed"
    late = origin.script(
        "/late.jpg", Reply(503, {"Retry-After": "300"}), Reply(photo="/photo/2.jpg")
    )
    retried = service.upload(table([(1, "p", late)]))
    block_until(lambda: "image will be retried" in service.log(), "the first attempt", 60)
    block_until(lambda: "webhook failed" in service.log(), "the first webhook", 60)
    assert service.stop() == 0
    set_clock(service, second)
    service.restart()
    status = service.finished(retried)
    assert status["status"] == "completed"
    assert [i["attempts"] for p in status["products"] for i in p["images"]] == [2]
    block_until(lambda: service.status(done)["webhook"]["status"] == "delivered", "the webhook", 60)


@pytest.mark.parametrize("shift", [AHEAD, BEHIND])
def test_nothing_is_deleted_after_the_clock_was_set(
    start_service: StartService, origin: Origin, shift: str
) -> None:
    service = start_service(storage={"retention_days": 30})
    done = service.upload(table([(1, "p", origin.photo(1))]))
    status = service.finished(done)
    block_until(lambda: clock_seen_at(service) > 0, "the first cleanup", 60)
    for setting in (shift, shift, None):
        assert service.stop() == 0
        set_clock(service, setting)
        service.restart()
        marked = service.upload(table([(1, "p", origin.photo(2))]))
        service.finished(marked)
        assert service.call("DELETE", f"/deleteRequest/{marked}").status == 204
        block_until(lambda: stored(service) == 1, "the cleanup", 60)
        assert service.status(done)["progress"] == status["progress"]
        path = status["products"][0]["images"][0]["outputUrl"].partition("/images/")[2]
        assert service.get(f"/images/{path}").status == 200


def stored(service: Service) -> int:
    """Return the number of stored outputs."""
    return sum(p.is_file() for p in (service.data_dir / "outputs").rglob("*"))
