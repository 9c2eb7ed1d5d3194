"""Scratch files: temporary files of this process in the data folder."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aiofiles import tempfile

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader

T = TypeVar("T")
SCRATCH_THREADS = 4
"""Threads that read and write scratch files. Slow look-ups of host names cannot delay them."""
_SCRATCH = re.compile(r"scratch\.[0-9a-f]{16}\.tmp")
"""Scratch files of version 1.0."""


class Scratch:
    """Creates scratch files in `outputs/tmp` of the data folder. Call `close` at the end."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "outputs" / "tmp"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._threads = ThreadPoolExecutor(SCRATCH_THREADS, thread_name_prefix="imgsvc-scratch")

    async def open(self) -> AsyncBufferedReader:
        """Open an empty file for writing and reading. Close it with `await file.close()`.

        Where the file system allows it the file has no name. So the system frees it when it is closed,
        and when this process ends for any reason.
        """
        return await tempfile.TemporaryFile(dir=self._folder, executor=self._threads)

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call that takes long in one of the threads, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def sweep(self) -> None:
        """Remove the scratch files that version 1.0 left. All other files stay."""
        for path in self._folder.iterdir():
            if _SCRATCH.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()
