"""Files and folders that appear only when they are complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path of a file or folder to create. After the block it is renamed to `path`.

    This replaces a file at `path`. If the block raises, `path` is unchanged and nothing remains. Only
    a killed process leaves the partial file or folder, so one may exist already.
    """
    path = path.absolute()
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
