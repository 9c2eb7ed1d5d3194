"""How much room is left, of real file systems."""

from __future__ import annotations

import shutil
from pathlib import Path

from imgsvc.storage.disk_space import DiskSpace


def test_free_is_what_the_file_system_says(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert abs(DiskSpace(tmp_path, 0).free() - free) < 2**30


def test_there_is_room_above_what_is_to_stay_free(tmp_path: Path) -> None:
    assert DiskSpace(tmp_path, 0).has_free_space()
    assert not DiskSpace(tmp_path, 2**60).has_free_space()


def test_a_folder_that_is_gone_has_no_room(tmp_path: Path) -> None:
    assert not DiskSpace(tmp_path / "gone", 0).has_free_space()
