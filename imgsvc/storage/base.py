"""The interface of every store of outputs, and the names of outputs.

An output is named `TOKEN.EXT`: the token is 32 hex digits (32 or 34 in files of version 1.0), and the
extension is that of its format.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

from imgsvc.errors import DependencyError
from imgsvc.image_types import EXTENSIONS

_TOKEN = re.compile(r"([0-9a-f]{2}){16,17}")
_NAME = re.compile(rf"{_TOKEN.pattern}\.({'|'.join(sorted(set(EXTENSIONS.values())))})")


class StorageUnavailableError(DependencyError):
    """Outputs cannot be stored or read at present, for example because the bucket does not respond."""


class StorageFullError(StorageUnavailableError):
    """The disk or a quota is full: nothing can be stored until there is free space."""


class StoreClaimedError(Exception):
    """Another instance has claimed the store. This one has to stop. The message says what to do."""


class Fence(Protocol):
    """Keeps a node of a cluster from storing outputs while others may have its images."""

    def check(self) -> None:
        """Raise `StorageUnavailableError` if nothing may be stored now."""


class ImageStore(Protocol):
    """Stores outputs. An output is complete and permanent, or does not exist.

    Outputs never change: two calls that store the same name store the same bytes. All methods raise
    ValueError if a name is not the name of an output. An implementation inherits from this class: the
    methods with a body here are for stores that other instances, or clients, can reach.
    """

    @property
    def problem(self) -> str | None:
        """Why nothing can be stored at present, as a clause. None: outputs can be stored."""
        return None

    async def put(self, name: str, data: bytes) -> None:
        """Store an output. When this returns, the output survives a power cut.

        A call that fails or is cancelled leaves no output. Raise `StorageUnavailableError` if nothing
        can be stored at present (`StorageFullError`: there is no free space), `MachineError` if the
        machine lacks a resource or the disk fails for a moment, or `ImageError` with the code
        `storage_failed` if only this output cannot be stored.
        """

    async def read(self, name: str, offset: int, count: int) -> bytes:
        """Return at most `count` bytes of an output from `offset` on: fewer only at its end.

        Raise `FileNotFoundError` if there is no such output, `StorageUnavailableError` if the store
        does not respond, or `OSError` if the output cannot be read.
        """

    async def delete(self, names: Iterable[str]) -> None:
        """Delete outputs permanently. Names without an output are ignored.

        Raise `OSError` or `StorageUnavailableError`.
        """

    async def list_names(self, prefix: str = "", after: str = "", limit: int = 1_000) -> list[str]:
        """Return the names that start with `prefix` and follow `after`, in order, at most `limit`."""

    async def sweep(self) -> None:
        """Remove the incomplete outputs that an earlier process has left."""

    async def close(self) -> None:
        """Complete the pending calls of `put`, and release all resources. Later calls of `put` fail."""

    async def claim(self, database_id: str, known_output: str | None) -> None:
        """Claim the store for a database, before it is used. Nodes of a cluster claim nothing.

        `known_output` is the name of an output that the database lists, or None if it lists none. Raise
        `StartupError` if the store belongs to another database, or `StorageUnavailableError`.
        """
        del database_id, known_output  # only one process can use a folder

    async def watch(self) -> None:
        """Run for as long as the claim holds. Then raise `StoreClaimedError`."""
        await asyncio.Event().wait()

    async def direct_url(self, name: str, method: str) -> str | None:
        """Return a URL for one call of `method` by the client, or None: send the output yourself."""
        return None


PREFIXES = [f"{number:02x}" for number in range(256)]
"""The first two digits of all names."""


async def name_pages(store: ImageStore, limit: int = 1_000) -> AsyncGenerator[list[str], None]:
    """Yield the names of all outputs of a store, in order, at most `limit` at once."""
    for prefix in PREFIXES:
        names = await store.list_names(prefix, "", limit)
        while names:
            yield names
            names = await store.list_names(prefix, names[-1], limit)


def output_name(token: str, output_format: str) -> str:
    """Return the name of the output with this token, in this format."""
    return f"{token}.{EXTENSIONS[output_format]}"


def is_output_name(name: str) -> bool:
    """Return whether `name` is the name of an output."""
    return _NAME.fullmatch(name) is not None


def check_output_name(name: str) -> None:
    """Raise ValueError unless `name` is the name of an output."""
    if not is_output_name(name):
        raise ValueError(f"not an output name: {name!r}")
