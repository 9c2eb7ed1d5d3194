"""Consistent backups of the data folder, also while the service runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from imgsvc.atomic_write import atomic_write
from imgsvc.config import StorageConfig
from imgsvc.database.online_backup import DatabaseCopyError, copy_database, stored_names
from imgsvc.service import DATABASE
from imgsvc.storage.filesystem import OUTPUTS, output_path

MAX_COPIES = 3
"""Maximum number of copies, if images are deleted during the copy."""


class BackupError(Exception):
    """The data folder cannot be copied. The message says why."""


OUTPUT_LIST = "outputs.txt"
"""File of a backup whose images are in a bucket: their names, one in a line."""


@dataclass(frozen=True, slots=True)
class Backup:
    """The number of copied images, and of images that the database lists but that have no file.

    `in_bucket`: the images are in a bucket, and only their names have been copied.
    """

    files: int
    missing: int
    in_bucket: bool = False


def back_up(config: StorageConfig, dest: Path) -> Backup:
    """Copy the data folder to `dest`, which must not exist. `dest` appears only when it is complete.

    A snapshot of the database is copied first, then the images that it lists. Images never change, so
    they are hard-linked where possible. If an image is missing, its request was deleted meanwhile, and
    everything is copied again, up to `MAX_COPIES` times in total. The last copy is kept even if images
    are still missing. Images in a bucket are listed instead. Raise `BackupError` or `OSError`. Blocks.
    """
    data_dir = config.data_dir
    source = data_dir / DATABASE
    if not source.is_file():
        raise BackupError(
            f"{data_dir} is not an imgsvc data folder: it does not contain {DATABASE}. Use --data-dir "
            "to set the folder, or --config with the service's configuration file."
        )
    if dest.exists():
        raise BackupError(f"{dest} already exists. Choose a new folder.")
    try:
        with atomic_write(dest) as partial:
            for _ in range(MAX_COPIES):
                if partial.exists():
                    shutil.rmtree(partial)
                partial.mkdir(mode=0o700, parents=True)
                (partial / OUTPUTS).mkdir(mode=0o700)
                copy_database(source, partial / DATABASE)
                backup = _list_images(partial) if config.bucket else _copy_images(data_dir, partial)
                if not backup.missing:
                    break
            os.sync()
    except DatabaseCopyError as error:
        raise BackupError(str(error)) from error
    return backup


def _list_images(copy: Path) -> Backup:
    files = 0
    with (copy / OUTPUT_LIST).open("w") as out:
        for files, name in enumerate(stored_names(copy / DATABASE), 1):  # noqa: B007
            out.write(f"{name[:2]}/{name}\n")
    return Backup(files, 0, in_bucket=True)


def _copy_images(data_dir: Path, copy: Path) -> Backup:
    files = missing = 0
    for name in stored_names(copy / DATABASE):
        target = output_path(copy, name)
        target.parent.mkdir(mode=0o700, exist_ok=True)
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
    except OSError:  # another file system, or no hard links
        shutil.copy2(source, target)
