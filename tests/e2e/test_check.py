"""`imgsvc check` and `imgsvc secret`, on the data folder of a real service."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imgsvc.check import check_outputs, unused_outputs
from imgsvc.database.checking import open_for_check
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from tests.conftest import StartService
from tests.harness.audit import audit
from tests.harness.service import config_of
from tests.origin import ROOT, Origin
from tests.service_process import Service, stored_name, table

UNUSED = f"{'ab' * 16}.jpg"


@pytest.fixture
def service(start_service: StartService) -> Service:
    return start_service(storage={"min_free_bytes": 0})


def run(*arguments: str, data: str = "") -> tuple[int, str, str]:
    process = subprocess.run(
        [sys.executable, "-P", "-m", "imgsvc", *arguments],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        input=data,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in process.stderr, process.stderr
    return process.returncode, process.stdout, process.stderr


def upload(service: Service, origin: Origin) -> Any:
    rows = [(n, f"Product {n}", origin.photo(n)) for n in range(4)]
    return service.finished(service.upload(table(rows)))


def output_names(status: Any) -> list[str]:
    return [stored_name(product["images"][0]["outputUrl"]) for product in status["products"]]


def output_files(service: Service, status: Any) -> list[Path]:
    return [service.data_dir / "outputs" / name[:2] / name for name in output_names(status)]


def damage(service: Service, status: Any) -> None:
    """Remove the output of image 0, change image 1, cut image 2, and add an unused output."""
    missing, changed, cut, _ = output_files(service, status)
    missing.unlink()
    data = changed.read_bytes()
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    cut.write_bytes(cut.read_bytes()[:-1])
    unused = service.data_dir / "outputs" / UNUSED[:2] / UNUSED
    unused.parent.mkdir(exist_ok=True)
    unused.write_bytes(b"unused")


def test_check_finds_no_difference_beside_a_running_service(
    service: Service, origin: Origin
) -> None:
    upload(service, origin)
    code, out, err = run("check", "--data-dir", str(service.data_dir))
    assert (code, out) == (0, "")
    assert "Checked 4 images." in err
    code, _, err = run("check", "--repair", "--data-dir", str(service.data_dir))
    assert code == 1
    assert "in use by process" in err


def test_check_reports_and_repairs_missing_damaged_and_unused_outputs(
    service: Service, origin: Origin
) -> None:
    status = upload(service, origin)
    files = output_files(service, status)
    damage(service, status)
    folder = str(service.data_dir)
    code, out, _ = run("check", "--data-dir", folder)
    assert code == 1
    assert sorted(out.splitlines()) == sorted(
        [
            f"without an image: {UNUSED}",
            f"missing: {files[0].name}",
            f"damaged: {files[1].name}",
            f"damaged: {files[2].name}",
        ]
    )
    assert service.stop() == 0
    code, _, err = run("check", "--repair", "--data-dir", folder)
    assert code == 0
    assert "3 images failed" in err
    with closing(sqlite3.connect(service.data_dir / "imgsvc.db")) as connection:
        audit(connection)

    service.restart()
    request_id = status["requestId"]
    broken = service.status(request_id)
    assert (broken["status"], broken["progress"]["failed"]) == ("partial", 3)
    assert {each["code"] for each in broken["failures"]} == {"storage_failed"}
    assert broken["bytes"]["input"] < status["bytes"]["input"]
    assert service.post(f"/retryFailed/{request_id}").status == 202
    fixed = service.finished(request_id)
    assert output_names(fixed) == output_names(status)
    assert fixed["bytes"] == status["bytes"]
    config = config_of(service.data_dir)
    assert asyncio.run(check_outputs(config)).consistent


def test_output_that_the_service_deletes_during_a_check_is_no_difference(
    service: Service, origin: Origin
) -> None:
    """The check has listed two unused outputs. One is deleted before it asks the database."""
    status = upload(service, origin)
    damage(service, status)
    listed = [UNUSED, f"{'cd' * 16}.jpg", *output_names(status)]
    store = FilesystemStore(service.data_dir, DiskSpace(service.data_dir, 0))
    with open_for_check(service.data_dir / "imgsvc.db") as c:
        assert asyncio.run(unused_outputs(c, store, listed)) == [UNUSED]


def test_check_without_database_says_what_to_do(tmp_path: Path) -> None:
    code, _, err = run("check", "--data-dir", str(tmp_path))
    assert code == 1
    assert "--data-dir" in err


def test_instances_with_the_same_secret_give_equal_images_the_same_path(
    service: Service, origin: Origin, start_service: StartService, tmp_path: Path
) -> None:
    status = upload(service, origin)
    code, secret, _ = run("secret", "--data-dir", str(service.data_dir))
    assert code == 0
    code, _, err = run("secret", "--set", "--data-dir", str(service.data_dir), data=secret)
    assert code == 1
    assert "in use by process" in err
    code, _, err = run("secret", "--set", "--data-dir", str(tmp_path / "other"), data="abc")
    assert code == 1
    assert "64 hexadecimal digits" in err
    code, _, _ = run("secret", "--set", "--data-dir", str(tmp_path / "other"), data=secret)
    assert code == 0
    other = start_service(storage={"data_dir": str(tmp_path / "other"), "min_free_bytes": 0})
    rows = [(n, "Again", origin.photo(n)) for n in range(4)]
    again = other.finished(other.upload(table(rows)))
    assert output_names(again) == output_names(status)
