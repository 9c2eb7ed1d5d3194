"""Duplicate content: the same source bytes with the same settings are compressed once."""

from __future__ import annotations

import asyncio

from imgsvc.database.job_store import JobStore
from imgsvc.image_types import CompressionSettings, StoredFile
from imgsvc.models import Completed, Outcome

_Content = tuple[bytes, CompressionSettings]
"""The SHA-256 of a source, and the settings to compress it with."""


class Duplicates:
    """Finds the outputs of images with the same content, stored or in flight."""

    def __init__(self, job_store: JobStore) -> None:
        self._job_store = job_store
        self._outputs: dict[_Content, asyncio.Future[StoredFile | None]] = {}
        self._producers: dict[str, _Content] = {}

    async def find(
        self, token: str, digest: bytes, settings: CompressionSettings
    ) -> StoredFile | None:
        """Return the output of this content, or None if the job with this token has to produce it.

        While another job produces it, wait until that one is committed. The wait ends with a later
        job as the producer if that one fails.
        """
        content = digest, settings
        while (output := self._outputs.get(content)) is not None:
            stored = await asyncio.shield(output)
            if stored is not None:
                return stored
        self._outputs[content] = asyncio.get_running_loop().create_future()
        self._producers[token] = content
        return await self._job_store.find_file(digest, settings)

    def settle(self, outcome: Outcome) -> None:
        """Pass a committed outcome to the jobs that wait for its output."""
        content = self._producers.pop(outcome.claim.token, None)
        if content is not None:
            stored = None
            if isinstance(outcome, Completed):
                stored = StoredFile(outcome.file, outcome.info)
            self._outputs.pop(content).set_result(stored)
