"""How much room is left, of real file systems."""

from __future__ import annotations

import shutil
from pathlib import Path

from imgsvc.storage.space import Space


def test_free_is_what_the_file_system_says(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert abs(Space(tmp_path, 0).free() - free) < 2**30


def test_there_is_room_above_what_is_to_stay_free(tmp_path: Path) -> None:
    assert Space(tmp_path, 0).has_room()
    assert not Space(tmp_path, 2**60).has_room()


def test_a_folder_that_is_gone_has_no_room(tmp_path: Path) -> None:
    assert not Space(tmp_path / "gone", 0).has_room()
