"""Tests of a real service whose database is damaged."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.conftest import StartService
from tests.origin import Origin
from tests.service_process import Service, table
from tests.waiting import block_until

PAGE = 4_096


def damage_last_page(service: Service) -> None:
    database = service.data_dir / "imgsvc.db"
    with database.open("r+b") as file:
        file.seek(-PAGE, 2)
        file.write(b"\xa5" * PAGE)


def drop_table(service: Service) -> None:
    with closing(sqlite3.connect(service.data_dir / "imgsvc.db")) as database:
        database.execute("DROP TABLE products")
        database.commit()


def drop_secret(service: Service) -> None:
    with closing(sqlite3.connect(service.data_dir / "imgsvc.db")) as database:
        database.execute("DROP TABLE instance")
        database.commit()


@pytest.mark.parametrize("damage", [damage_last_page, drop_table, drop_secret])
@pytest.mark.parametrize("killed", [False, True])
def test_damaged_database_makes_the_service_not_ready_and_says_what_to_do(
    start_service: StartService, origin: Origin, damage: object, killed: bool
) -> None:
    service = start_service()
    rows = table([(n, "p", origin.photo(1)) for n in range(300)])
    service.finished(service.upload(rows))
    if killed:
        service.kill()
        with closing(sqlite3.connect(service.data_dir / "imgsvc.db")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        assert service.stop() == 0
    assert callable(damage)
    damage(service)
    service.start(ready=False)
    block_until(lambda: "the database is damaged" in service.log(), "the damage to be found", 60)
    block_until(lambda: "starting" not in ready_detail(service), "the start", 60)
    assert service.get("/health/ready").status == 503
    assert "restore the backup" in ready_detail(service)
    upload = service.post("/processImages", rows)
    assert upload.status == 503
    assert "Restore the backup" in upload.json()["detail"]
    assert service.get("/health/live").status == 200
    assert service.stop() == 0
    (error,) = [r for r in service.records() if r["level"] in {"error", "critical"}]
    assert error["message"].startswith("the database is damaged. Stop the service, restore")


def ready_detail(service: Service) -> str:
    return str(service.get("/health/ready").json().get("detail", ""))
