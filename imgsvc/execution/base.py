"""The interface of every executor. It fetches, compresses and stores, one image at a time.

An executor knows no limits per host, no duplicates, no attempts and no database: these are the same
for all executors, and belong to `processing`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.models import Claim, Conditions, Validators


class ExecutionInterruptedError(Exception):
    """The executor was closed, or lost the image's data. This does not count as an attempt."""


class Fetched(Protocol):
    """The fetched source of one image. Its bytes stay where they were fetched."""

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the source's bytes."""

    @property
    def size(self) -> int:
        """The number of the source's bytes."""

    @property
    def validators(self) -> Validators:
        """The validators that the host sent with the source."""

    async def compress(self, token: str, settings: CompressionSettings, owner: int) -> ImageInfo:
        """Compress the source, and store the output under the name `output_name(token, …)`.

        The caller has reserved the token. Owners are served in turn. Raise `ImageError`,
        `StorageUnavailableError`, `MachineError`, or `ExecutionInterruptedError`. If the store fails,
        it may keep the output, which the caller has to delete.
        """


class Executor(Protocol):
    """Fetches, compresses and stores images."""

    @property
    def workers(self) -> int:
        """The number of images that can be compressed at the same time."""

    @property
    def busy(self) -> int:
        """The number of workers that are compressing images."""

    @property
    def healthy(self) -> bool:
        """False if no image can be compressed at present."""

    @property
    def worker_seconds(self) -> dict[int, float]:
        """The worker time that owners have used, beyond that of an owner that starts now.

        Empty if a worker is idle.
        """

    @property
    def missing_layers(self) -> list[str]:
        """The layers of confinement that the workers lack, such as `seccomp`."""

    def fetch(
        self, claim: Claim, conditions: Conditions | None
    ) -> AbstractAsyncContextManager[Fetched | None]:
        """Fetch the source of a claimed image. Its bytes are dropped when the block ends.

        With conditions, yield None if the host says that the source is not modified.
        Leaving the block does not wait, so it cannot be cancelled. Raise `ImageError` if the source
        cannot be fetched, `MachineError`, or `ExecutionInterruptedError`.
        """

    async def make_thumbnail(self, data: bytes) -> bytes:
        """Return the thumbnail of an output, as WebP. All thumbnails are one owner.

        Raise `ImageError` or `ExecutionInterruptedError`.
        """

    async def start(self) -> None:
        """Start the workers. Call this once, before the first image."""

    async def close(self, grace: float) -> None:
        """Refuse new images, wait up to `grace` seconds for images at workers, and stop the workers.

        Images that are not compressed by then raise `ExecutionInterruptedError`.
        """
