"""One image: fetch → compress → store → outcome."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from imgsvc.database.work import Work
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.images.pool import Pool
from imgsvc.metrics import Metrics
from imgsvc.models import Claim, Completed
from imgsvc.network.fetch import Fetcher, describe_non_image
from imgsvc.pictures import EXTENSIONS, Settings, StoredFile
from imgsvc.processing.turns import Turns
from imgsvc.storage.files import Files, StorageFull

_Content = tuple[bytes, Settings]


class OriginResting(Exception):
    """The image's origin is not to be asked now: it has failed too often."""


@dataclass(slots=True, eq=False)
class Flight:
    """A claim on its way. Until it has been fetched, it may be cut short without loss.

    `file` is the name its output has, or will have, on the disk; `noted` is set once its outcome is
    committed.
    """

    claim: Claim
    origin: int
    probe: bool = False
    fetching: bool = True
    fetched: bool = False
    cancelled: bool = False
    content: _Content | None = None
    file: str | None = None
    noted: asyncio.Event = field(default_factory=asyncio.Event)


class Pipeline:
    """Takes one image after the other from its URL to its stored output.

    The same source bytes under the same settings are compressed once: an image whose twin is under
    way waits until the twin's row is committed, and one whose twin was ever stored uses its file.
    """

    def __init__(
        self,
        work: Work,
        fetcher: Fetcher,
        pool: Pool,
        files: Files,
        *,
        turns: Turns,
        metrics: Metrics,
        has_room: Callable[[], bool],
        may_fetch: Callable[[int], bool],
    ) -> None:
        self._work = work
        self._fetcher = fetcher
        self._pool = pool
        self._files = files
        self._turns = turns
        self._metrics = metrics
        self._has_room = has_room
        self._may_fetch = may_fetch
        self._twins: dict[_Content, asyncio.Future[StoredFile | None]] = {}

    async def process(self, flight: Flight, fetched: Callable[[Flight], None]) -> Completed:
        """Take the flight's image all the way; `fetched` is called when its slot is free again.

        Raises `ImageError`, `OriginResting`, or `StorageFull` where the disk has no room.
        """
        claim = flight.claim
        async with AsyncExitStack() as stack:
            waiting = time.monotonic()
            async with self._turns.turn(claim.origin):
                if not flight.probe and not self._may_fetch(flight.origin):
                    raise OriginResting
                begun = time.monotonic()
                self._metrics.wait_seconds.observe(begun - waiting)
                body = await stack.enter_async_context(self._fetcher.fetch(claim.url))
            self._metrics.fetch_seconds.observe(time.monotonic() - begun)
            self._metrics.bytes_in.inc(len(body.data))
            flight.fetched = True
            fetched(flight)
            digest = hashlib.sha256(body.data).digest()
            stored = await self._twin(flight, (digest, claim.settings))
            if stored is None:
                stored = await self._compress(flight, body.data, body.content_type)
            else:
                self._metrics.reused.inc()
        return Completed(claim, digest, stored.name, stored.picture)

    def settled(self, flight: Flight, completed: Completed | None) -> None:
        """Say that the flight's outcome is committed, or that it came to nothing."""
        if flight.content is not None:
            stored = StoredFile(completed.file, completed.picture) if completed else None
            self._twins.pop(flight.content).set_result(stored)
            flight.content = None

    async def _twin(self, flight: Flight, content: _Content) -> StoredFile | None:
        """Find the stored output of the same content, or make this flight the one that makes it."""
        while (twin := self._twins.get(content)) is not None:
            stored = await asyncio.shield(twin)
            if stored is not None:
                return stored
        self._twins[content] = asyncio.get_running_loop().create_future()
        flight.content = content
        return await self._work.find_file(*content)

    async def _compress(self, flight: Flight, data: bytes, content_type: str) -> StoredFile:
        claim = flight.claim
        begun = time.monotonic()
        try:
            compressed = await self._pool.compress(data, claim.settings, owner=claim.request_key)
        except ImageError as error:
            if error.code is ImageErrorCode.NOT_AN_IMAGE:
                raise ImageError(error.code, describe_non_image(content_type, data)) from None
            raise
        stored = time.monotonic()
        self._metrics.compress_seconds.observe(stored - begun)
        if not self._has_room():
            raise StorageFull("less than storage.min_free_bytes is left")
        picture = compressed.picture
        flight.file = f"{claim.token}.{EXTENSIONS[picture.output_format]}"
        await self._files.put(flight.file, compressed.data)
        self._metrics.store_seconds.observe(time.monotonic() - stored)
        self._metrics.bytes_out.inc(picture.output_bytes)
        return StoredFile(flight.file, picture)
