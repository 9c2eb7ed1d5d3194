"""Only the owner can read what the service writes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.origin import ROOT, Origin
from tests.service_process import table


@pytest.fixture(autouse=True)
def _common_umask() -> Iterator[None]:
    """Run the test with the umask of most users, with which all can read new files."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def readable_by_others(folder: Path) -> list[str]:
    """Return the files and folders in `folder` whose mode allows more than their owner's access."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def test_data_and_backup_can_be_read_only_by_their_owner(
    start_service: StartService, origin: Origin, tmp_path: Path
) -> None:
    folder = tmp_path / "service"
    data = folder / "data"
    data.mkdir(parents=True)
    data.chmod(0o755)
    service = start_service(folder=folder)
    service.finished(service.upload(table([(1, "Lamp", [origin.photo(1)])])))
    assert {"imgsvc.db", "imgsvc.db-wal", "imgsvc.db-shm"} <= {path.name for path in data.iterdir()}
    assert readable_by_others(data) == []
    backup = tmp_path / "backup"
    subprocess.run(
        [sys.executable, "-m", "imgsvc", "backup", "--data-dir", str(data), str(backup)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert readable_by_others(backup) == []


def test_files_that_others_could_read_become_private(start_service: StartService) -> None:
    service = start_service()
    service.kill()
    names = ["imgsvc.db", "imgsvc.db-wal", "imgsvc.db-shm"]
    for name in names:
        (service.data_dir / name).chmod(0o644)
    service.restart()
    assert readable_by_others(service.data_dir) == []
