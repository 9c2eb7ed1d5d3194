"""A consistent copy of the data folder, while the service runs or not."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from imgsvc.database.online_backup import CopyError, copy_database, stored_names
from imgsvc.service import DATABASE
from imgsvc.storage.filesystem import output_path

TRIES = 3


class BackupError(Exception):
    """What cannot be copied, or where to, and why; the message says so."""


@dataclass(frozen=True, slots=True)
class Backup:
    """How many images were copied, and how many the database names that are not there."""

    files: int
    missing: int


def back_up(data_dir: Path, dest: Path) -> Backup:
    """Copy the data folder to `dest`, which must be new; it is there only once it is whole.

    The database is copied as of one moment, then the images that it names: they never change, so that
    a hard link is a copy. One that was deleted in between shows that its request is gone as well, and
    the copy is made anew. Raises `BackupError` and `OSError`. Blocks.
    """
    source = data_dir / DATABASE
    if not source.is_file():
        raise BackupError(
            f"{data_dir} is no data folder of imgsvc: it has no {DATABASE}. Name the right one by "
            "--data-dir, or by the service's own --config."
        )
    if dest.exists():
        raise BackupError(f"{dest} is there already; name a new folder")
    partial = dest.absolute().with_name(f".{dest.name}.partial")
    try:
        for _ in range(TRIES):
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(mode=0o700, parents=True)
            copy_database(source, partial / DATABASE)
            made = _copy_images(data_dir, partial)
            if not made.missing:
                break
        os.sync()
        partial.rename(dest)
    except CopyError as error:
        raise BackupError(str(error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def _copy_images(data_dir: Path, copy: Path) -> Backup:
    files = missing = 0
    for name in stored_names(copy / DATABASE):
        target = output_path(copy, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _link_or_copy(output_path(data_dir, name), target)
            files += 1
        except FileNotFoundError:
            missing += 1
    return Backup(files, missing)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
