"""A bucket in memory that fails as a test says: obstore's own store, behind errors."""

from __future__ import annotations

from typing import Any

from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from imgsvc.storage.bucket import BucketStore
from imgsvc.storage.bucket_outage import BucketLimits

QUICK = BucketLimits(hold_seconds=0, probe_seconds=0.01, check_seconds=0.01)


def http_error(status: int, code: str) -> GenericError:
    """Return the error that obstore raises for a response with this status and error code."""
    body = f"<Error><Code>{code}</Code></Error>"
    return GenericError(f"Generic S3 error: Server returned non-2xx status code: {status}: {body}")


class FaultyObjects:
    """The methods of an `ObjectStore`. `error`: raised by each call. `refused`: keys to refuse.

    `puts` are the keys of all calls of `put_async`.
    """

    def __init__(self) -> None:
        self.objects = MemoryStore()
        self.error: Exception | None = None
        self.refused: set[str] = set()
        self.puts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if self.error is not None:
            raise self.error
        return getattr(self.objects, name)

    async def put_async(self, path: str, *arguments: Any, **options: Any) -> Any:
        self.puts.append(path)
        if self.error is not None:
            raise self.error
        if path in self.refused:
            raise http_error(400, "EntityTooLarge")
        return await self.objects.put_async(path, *arguments, **options)


def bucket_store(objects: Any, limits: BucketLimits = QUICK) -> BucketStore:
    """Return a store in this bucket."""
    return BucketStore(objects, "s3://bucket/prefix", limits=limits)
