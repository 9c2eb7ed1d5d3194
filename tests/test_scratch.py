"""Tests of scratch files."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgsvc.storage.scratch import Scratch


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_scratch_file_is_removed_after_block(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    with scratch.file() as path:
        path.write_text("rows")
        assert path.is_relative_to(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LookupError), scratch.file() as path:
        raise LookupError
    assert files_below(tmp_path) == set()


def test_sweep_removes_only_scratch_files(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    with scratch.file() as path:
        others = [path.with_name("other.tmp"), path.with_name("scratch.tmp"), tmp_path / path.name]
        for each in others:
            each.write_text("another file")
        scratch.sweep()
        assert files_below(tmp_path) == set(others)
