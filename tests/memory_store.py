"""A store of outputs in memory: the second implementation of `ImageStore`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.storage.base import ImageStore, StorageFullError, check_output_name


class MemoryStore(ImageStore):
    """An `ImageStore` for tests.

    `full`: nothing can be stored. `outage`: the problem that the store reports. `broken`: names that
    cannot be stored. `partial`: incomplete outputs.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, bytes] = {}
        self.partial: set[str] = set()
        self.broken: set[str] = set()
        self.full = False
        self.outage: str | None = None
        self._closed = False

    @property
    def problem(self) -> str | None:
        return self.outage

    async def put(self, name: str, data: bytes) -> None:
        check_output_name(name)
        if self.full:
            raise StorageFullError("the memory is full")
        self.partial.add(name)
        try:
            await asyncio.sleep(0)
        finally:
            self.partial.discard(name)
        if self._closed or name in self.broken:
            raise ImageError(ImageErrorCode.STORAGE_FAILED, "The output could not be stored.")
        self.outputs[name] = data

    async def read(self, name: str, offset: int, count: int) -> bytes:
        check_output_name(name)
        if name not in self.outputs:
            raise FileNotFoundError(name)
        return self.outputs[name][offset : offset + count]

    async def delete(self, names: Iterable[str]) -> None:
        names = list(names)
        for name in names:
            check_output_name(name)
        for name in names:
            self.outputs.pop(name, None)

    async def list_names(self, prefix: str = "", after: str = "", limit: int = 1_000) -> list[str]:
        found = (name for name in self.outputs if name.startswith(prefix) and name > after)
        return sorted(found)[:limit]

    async def sweep(self) -> None:
        self.partial.clear()

    async def close(self) -> None:
        self._closed = True
