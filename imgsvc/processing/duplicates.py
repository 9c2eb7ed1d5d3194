"""Duplicate content: the same source bytes with the same settings are compressed once."""

from __future__ import annotations

import asyncio

from imgsvc.database.token_store import TokenStore
from imgsvc.image_types import CompressionSettings
from imgsvc.models import Claim, Completed, Outcome

_Content = tuple[bytes, CompressionSettings]
"""The SHA-256 of a source, and the settings to compress it with."""


class Duplicates:
    """Finds the outputs of images with the same content, stored or in flight."""

    def __init__(self, token_store: TokenStore) -> None:
        self._token_store = token_store
        self._stored: dict[_Content, asyncio.Future[bool]] = {}
        self._producers: dict[int, _Content] = {}

    async def reserve(self, claim: Claim, source_digest: bytes) -> str | None:
        """Return the token that the job of this claim has to store the output under.

        Return None if the output is stored. While another job produces it, wait until that one is
        committed. The wait ends with a later job as the producer if that one fails.
        """
        content = source_digest, claim.settings
        while (stored := self._stored.get(content)) is not None:
            if await asyncio.shield(stored):
                return None
        self._stored[content] = asyncio.get_running_loop().create_future()
        self._producers[claim.claim_id] = content
        return await self._token_store.reserve(claim, source_digest)

    def settle(self, outcome: Outcome) -> None:
        """Pass a committed outcome to the jobs that wait for its output."""
        content = self._producers.pop(outcome.claim.claim_id, None)
        if content is not None:
            self._stored.pop(content).set_result(isinstance(outcome, Completed))
