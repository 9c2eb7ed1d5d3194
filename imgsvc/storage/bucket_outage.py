"""Outages of a bucket: whether it fails at present, why, and when it works again."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgsvc.storage.bucket_errors import BUCKET_ERRORS, BucketFailure, classify

if TYPE_CHECKING:
    from obstore.store import ObjectStore

log = logging.getLogger(__name__)

PROBE_KEY = "imgsvc-probe"
"""An object that is stored to find out whether the bucket works. Its content does not matter."""


@dataclass(frozen=True, slots=True)
class BucketLimits:
    """The limits of a bucket's store."""

    request_seconds: float = 60.0
    """Maximum time for one call of the bucket: 64 MiB at 10 Mbit/s."""
    connect_seconds: float = 5.0
    hold_seconds: float = 60.0
    """How long an output waits in memory for a bucket that fails. Then its image is requeued."""
    probe_seconds: float = 2.0
    """Interval between two probes while the bucket fails."""
    report_seconds: float = 60.0
    """Interval between two lines of the log while the bucket fails."""
    check_seconds: float = 30.0
    """Interval between two checks of the claim."""
    cancel_seconds: float = 0.5
    """How long a cancelled PUT, and then the deletion of its object, may take."""


class BucketOutage:
    """Whether a bucket fails. While it does, a task stores a probe until that succeeds."""

    def __init__(self, objects: ObjectStore, limits: BucketLimits) -> None:
        self._objects = objects
        self._limits = limits
        self._ended = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None
        self._closed = False
        self.reason: str | None = None

    def begin(self, failure: BucketFailure) -> None:
        """Record that the bucket fails."""
        if self._closed:
            return
        if self._probing is None:
            self._ended.clear()
            self._report(failure)
            self._probing = asyncio.create_task(self._probe_until_accepted())
        self.reason = failure.reason

    async def wait_ended(self, seconds: float) -> bool:
        """Wait until the bucket works again. Return False if it does not within this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self._ended.is_set()

    async def probe(self) -> BucketFailure | None:
        """Store the probe. Return None if the bucket accepts it."""
        try:
            await self._objects.put_async(PROBE_KEY, b"imgsvc", use_multipart=False)
        except BUCKET_ERRORS as error:
            return classify(error)
        return None

    async def close(self) -> None:
        """Stop probing, as if the bucket worked again."""
        self._closed = True
        self._ended.set()
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})

    async def _probe_until_accepted(self) -> None:
        loop = asyncio.get_running_loop()
        report_at = loop.time() + self._limits.report_seconds
        try:
            while True:
                await asyncio.sleep(self._limits.probe_seconds)
                failure = await self.probe()
                if failure is None:
                    break
                self.reason = failure.reason
                if loop.time() >= report_at:
                    report_at = loop.time() + self._limits.report_seconds
                    self._report(failure)
            log.info("the bucket works again")
        finally:
            self.reason = None
            self._probing = None
            self._ended.set()

    def _report(self, failure: BucketFailure) -> None:
        advice = (
            "Check storage.bucket, the credentials and their permissions"
            if failure.permanent
            else "Images wait until it works again"
        )
        log.error("%s. %s.", failure.reason, advice)
