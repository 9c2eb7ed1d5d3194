"""Whether outputs can be stored at present: the free space of the disk, and the state of the store."""

from __future__ import annotations

from imgsvc.storage.base import ImageStore
from imgsvc.storage.disk_space import DiskSpace

DISK_FULL = "the disk is full"


class StorageState:
    """The disk, which holds the database and scratch files, and the store of outputs."""

    def __init__(self, disk_space: DiskSpace, store: ImageStore) -> None:
        self._disk_space = disk_space
        self._store = store

    @property
    def problem(self) -> str | None:
        """Why work has to wait, as a clause. None: everything can be stored."""
        return self._store.problem if self._disk_space.has_free_space() else DISK_FULL
