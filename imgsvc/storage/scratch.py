"""Scratch files: temporary files of this process in the data folder."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRATCH = re.compile(r"scratch\.[0-9a-f]{16}\.tmp")


class Scratch:
    """Creates scratch files in `outputs/tmp` of the data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "outputs" / "tmp"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Create an empty scratch file and yield its path. It is removed after the block.

        If the process ends within the block, the next start removes it.
        """
        path = self._folder / f"scratch.{secrets.token_hex(8)}.tmp"
        path.touch(mode=0o600, exist_ok=False)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the scratch files of an earlier process. All other files stay."""
        for path in self._folder.iterdir():
            if _SCRATCH.fullmatch(path.name):
                path.unlink(missing_ok=True)
