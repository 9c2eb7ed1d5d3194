"""The interface of every store of outputs, and the names of outputs.

An output is named `TOKEN.EXT`: the token is 32 hex digits (32 or 34 in files of version 1.0), and the
extension is that of its format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from imgsvc.image_types import EXTENSIONS

_TOKEN = re.compile(r"([0-9a-f]{2}){16,17}")
_NAME = re.compile(rf"{_TOKEN.pattern}\.({'|'.join(sorted(set(EXTENSIONS.values())))})")


class StorageFullError(Exception):
    """The disk or a quota is full: nothing can be stored until there is free space."""


class ImageStore(Protocol):
    """Stores outputs. An output is complete and permanent, or does not exist.

    Outputs never change: two calls that store the same name store the same bytes. All methods raise
    ValueError if a name is not the name of an output.
    """

    async def put(self, name: str, data: bytes) -> None:
        """Store an output. When this returns, the output survives a power cut.

        A call that fails or is cancelled leaves no output. Raise `StorageFullError` if there is no
        free space, `MachineError` if the machine lacks a resource or the disk fails for a moment, or
        `ImageError` with the code `storage_failed` for any other reason.
        """

    async def read(self, name: str, offset: int, count: int) -> bytes:
        """Return at most `count` bytes of an output from `offset` on: fewer only at its end.

        Raise `FileNotFoundError` if there is no such output, or `OSError` if it cannot be read.
        """

    async def delete(self, names: Iterable[str]) -> None:
        """Delete outputs permanently. Names without an output are ignored. Raise `OSError`."""

    async def list_names(self, prefix: str = "", after: str = "", limit: int = 1_000) -> list[str]:
        """Return the names that start with `prefix` and follow `after`, in order, at most `limit`."""

    async def sweep(self) -> None:
        """Remove the incomplete outputs that an earlier process has left."""

    async def close(self) -> None:
        """Complete the pending calls of `put`, and release all resources. Later calls of `put` fail."""


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
