"""Tests of `DiskSpace`, on real file systems."""

from __future__ import annotations

import shutil
from pathlib import Path

from imgsvc.storage.disk_space import DiskSpace


def test_free_equals_free_space_of_file_system(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert abs(DiskSpace(tmp_path, 0).free() - free) < 2**30


def test_has_free_space_compares_with_min_free_bytes(tmp_path: Path) -> None:
    assert DiskSpace(tmp_path, 0).has_free_space()
    assert not DiskSpace(tmp_path, 2**60).has_free_space()


def test_has_free_space_is_false_when_folder_is_missing(tmp_path: Path) -> None:
    assert not DiskSpace(tmp_path / "gone", 0).has_free_space()
