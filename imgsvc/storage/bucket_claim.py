"""The marker object of a bucket, with which one instance of one database claims it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from imgsvc.errors import StartupError
from imgsvc.storage.base import StoreClaimedError
from imgsvc.storage.bucket_errors import (
    BUCKET_ERRORS,
    CONFLICTS,
    BucketError,
    classify,
    is_missing_object,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

MARKER_KEY = "imgsvc.json"


class Marker(NamedTuple):
    """The database that a bucket belongs to, and the number of its claim."""

    database: str
    generation: int


class FoundMarker(NamedTuple):
    """What a bucket has: a marker or None, and the version of the object to replace."""

    marker: Marker | None
    version: dict[str, str]


class BucketClaim:
    """Reads and replaces the marker of a bucket. `place`: the bucket's URL, for messages.

    All methods raise `BucketError` if the bucket fails.
    """

    def __init__(self, objects: ObjectStore, place: str) -> None:
        self._objects = objects
        self._place = place
        self._held: Marker | None = None

    async def find(self) -> FoundMarker:
        """Return the bucket's marker. Raise `StartupError` if the object is none."""
        try:
            result = await self._objects.get_async(MARKER_KEY)
            data = bytes(await result.bytes_async())
        except BUCKET_ERRORS as error:
            if is_missing_object(error):
                return FoundMarker(None, {})
            raise BucketError(classify(error)) from None
        versions = {"e_tag": result.meta.get("e_tag"), "version": result.meta.get("version")}
        try:
            fields = json.loads(data)
            marker = Marker(str(fields["database"]), int(fields["generation"]))
        except (ValueError, KeyError, TypeError):
            raise StartupError(
                f"The object {MARKER_KEY} in {self._place} is not a marker of imgsvc. Set "
                "storage.bucket to another prefix."
            ) from None
        return FoundMarker(marker, {key: value for key, value in versions.items() if value})

    async def acquire(self, database_id: str, found: FoundMarker) -> None:
        """Claim the bucket for a database if `found` is still its marker, else raise `StartupError`."""
        if found.marker is not None and found.marker.database != database_id:
            raise StartupError(
                f"{self._place} belongs to another database. Restore that database, or set "
                "storage.bucket to another bucket or prefix."
            )
        marker = Marker(database_id, found.marker.generation + 1 if found.marker else 1)
        mode: Any = found.version or "create"
        try:
            await self._objects.put_async(
                MARKER_KEY,
                json.dumps(marker._asdict()).encode(),
                attributes={"Content-Type": "application/json", "Cache-Control": "no-store"},
                mode=mode,
                use_multipart=False,
            )
        except CONFLICTS:
            raise StartupError(
                f"Another instance has claimed {self._place} at the same time. Stop one of them, then "
                "start this one again."
            ) from None
        except BUCKET_ERRORS as error:
            raise BucketError(classify(error)) from None
        self._held = marker

    async def check(self) -> None:
        """Raise `StoreClaimedError` unless the bucket still has the marker of this claim, if any."""
        if self._held is None or (found := (await self.find()).marker) == self._held:
            return
        if found is None:
            raise StoreClaimedError(
                f"{self._place} has lost the object {MARKER_KEY}, so the service stops. Check that the "
                "bucket is the right one, then start the service again."
            )
        raise StoreClaimedError(
            f"Another instance has claimed {self._place}, so this one stops. Run one instance of a "
            "database at a time."
        )
