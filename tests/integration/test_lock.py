"""Tests of the lock of a data folder, with real processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from imgsvc.errors import StartupError
from imgsvc.storage.lock import lock_data_dir
from tests.origin import ROOT

DATABASE = "the.db"
HOLD = """
import sys, time
from pathlib import Path
from imgsvc.storage.lock import lock_data_dir
with lock_data_dir(Path(sys.argv[1]), "the.db"):
    print("held", flush=True)
    time.sleep(1000)
"""
NAME = "0123456789abcdef0123456789abcdef.jpg"


def test_lock_data_dir_names_process_that_holds_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(StartupError, match=f"{tmp_path}.*in use by process {holder.pid}"),
            lock_data_dir(tmp_path, DATABASE),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock_data_dir(tmp_path, DATABASE):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_lock_data_dir_can_lock_again_after_release(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_data_dir(tmp_path, DATABASE):
            pass


def test_lock_data_dir_creates_folder_for_owner_only(tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        with lock_data_dir(tmp_path / "data", DATABASE):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_lock_data_dir_refuses_folder_with_outputs_but_without_database(tmp_path: Path) -> None:
    output = tmp_path / "outputs" / NAME[:2] / NAME
    output.parent.mkdir(parents=True)
    output.touch()
    for _ in range(2):
        with pytest.raises(StartupError, match=r"the\.db"), lock_data_dir(tmp_path, DATABASE):
            pass
        (tmp_path / DATABASE).touch()
    (tmp_path / DATABASE).write_bytes(b"SQLite format 3")
    with lock_data_dir(tmp_path, DATABASE):
        pass


def test_lock_data_dir_accepts_empty_output_folders_without_database(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "ab").mkdir(parents=True)
    (tmp_path / "outputs" / "tmp").mkdir()
    with lock_data_dir(tmp_path, DATABASE):
        pass


def test_lock_data_dir_raises_startup_error_when_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with (
        pytest.raises(StartupError, match=r"Cannot write to storage\.data_dir"),
        lock_data_dir(tmp_path / "data", DATABASE),
    ):
        pass


READ_ONLY = """
import os, sys
from pathlib import Path
from imgsvc.errors import StartupError
from imgsvc.storage.lock import lock_data_dir
if os.getuid() == 0:
    os.setuid(65534)
try:
    with lock_data_dir(Path(sys.argv[1]), "the.db"):
        print("held")
except StartupError as error:
    print(error)
"""


@pytest.mark.parametrize("subfolder", ["", "data"])
def test_lock_data_dir_raises_startup_error_when_folder_is_read_only(subfolder: str) -> None:
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer) / "read-only"
        folder.mkdir()
        (folder / "lock").touch()
        (folder / "lock").chmod(0o666)
        folder.chmod(0o555)
        output = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder / subfolder)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).stdout
        folder.chmod(0o755)
    assert "Cannot write to storage.data_dir" in output
    assert "Permission denied" in output
