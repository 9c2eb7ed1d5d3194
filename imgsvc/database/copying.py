"""Consistent copies of a database that is in use, also from another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def copy_database(source: Path, dest: Path) -> None:
    """Copy the database `source` to `dest`, which must not exist, as of one moment. Blocks."""
    raise NotImplementedError


def stored_names(database: Path) -> Iterator[str]:
    """Give the names of the stored files that a database (a copy, say) knows. Blocks."""
    raise NotImplementedError
