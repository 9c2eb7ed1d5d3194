"""The store of outputs in a bucket: S3 or a server with its API, Google Cloud Storage, or Azure.

An output is the object `PREFIX/ab/TOKEN.EXT`, where `ab` are the first two digits of the token.
docs/explanation/decisions/0016-outputs-in-a-bucket.md has the reasons.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import from_url

from imgsvc.errors import ImageError, ImageErrorCode, StartupError
from imgsvc.image_types import MEDIA_TYPES
from imgsvc.storage.base import (
    Fence,
    ImageStore,
    StorageUnavailableError,
    StoreClaimedError,
    check_output_name,
    is_output_name,
)
from imgsvc.storage.bucket_claim import BucketClaim
from imgsvc.storage.bucket_errors import (
    BUCKET_ERRORS,
    BucketError,
    classify,
    is_missing_object,
    is_range_error,
)
from imgsvc.storage.bucket_outage import BucketLimits, BucketOutage

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CACHE_CONTROL = "public, max-age=31536000, immutable"
DELETIONS_AT_ONCE = 16
PRESIGNED_SECONDS = 300.0
"""How long a presigned URL is valid. Clients keep the redirect to it for 60 s."""
_CREDENTIALS = ("AWS_", "AZURE_", "GOOGLE_")
"""Prefixes of the environment variables that obstore reads."""


def open_bucket(
    url: str,
    endpoint: str = "",
    *,
    redirect: bool = False,
    fence: Fence | None = None,
    limits: BucketLimits = BucketLimits(),
) -> BucketStore:
    """Return the store at `s3://BUCKET/PREFIX`, or `gs://`, `az://`. `endpoint`: of another server.

    The credentials are those in the environment, or the role of the machine. They are removed from the
    environment, which worker processes inherit. `fence`: see `BucketStore`. Raise `StartupError` if
    they are incomplete.
    """
    options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    try:
        objects = from_url(
            url,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "timeout": timedelta(seconds=limits.request_seconds),
                "connect_timeout": timedelta(seconds=limits.connect_seconds),
            },
            retry_config={
                "max_retries": 2,
                "retry_timeout": timedelta(seconds=limits.request_seconds),
            },
            **options,
        )
    except (*BUCKET_ERRORS, ValueError, TypeError) as error:
        raise StartupError(f"Cannot use {url}: {str(error).splitlines()[0]}.") from None
    for name in [name for name in os.environ if name.startswith(_CREDENTIALS)]:
        del os.environ[name]
    return BucketStore(objects, url, redirect=redirect, fence=fence, limits=limits)


def object_key(name: str) -> str:
    """Return the key of an output, without the prefix. Raise ValueError if it is not a name."""
    check_output_name(name)
    return f"{name[:2]}/{name}"


class BucketStore(ImageStore):
    """An `ImageStore` in a bucket. Use `open_bucket`. `place`: the bucket's URL, for messages.

    `fence` is that of a node of a cluster. A node begins no PUT without its permission, and deletes
    nothing: another node may have stored the same output meanwhile.
    """

    def __init__(
        self,
        objects: ObjectStore,
        place: str,
        *,
        redirect: bool = False,
        fence: Fence | None = None,
        limits: BucketLimits = BucketLimits(),
    ) -> None:
        self._objects = objects
        self._place = place
        self._redirect = redirect
        self._fence = fence
        self._limits = limits
        self._outage = BucketOutage(objects, limits)
        self._claim = BucketClaim(objects, place)
        self._puts: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def problem(self) -> str | None:
        """Why the bucket fails at present, or None."""
        return self._outage.reason

    # --- outputs -----------------------------------------------------------------------------

    async def put(self, name: str, data: bytes) -> None:
        """Store an output. If the bucket fails, wait for it for a while."""
        put = asyncio.create_task(self._put(name, object_key(name), data))
        self._puts.add(put)
        put.add_done_callback(self._puts.discard)
        try:
            await asyncio.shield(put)
        except asyncio.CancelledError:
            await self._abandon(put, name)
            raise
        finally:
            del put  # an error of the task refers to this frame: a cycle that would keep the data

    async def _put(self, name: str, key: str, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.hold_seconds
        attributes = {
            "Content-Type": MEDIA_TYPES[name.rpartition(".")[2]],
            "Cache-Control": CACHE_CONTROL,
        }
        refusals = 0
        while True:
            if self._closed:
                raise _not_stored("the store is closed")
            if self._fence is not None:
                self._fence.check()
            try:
                await self._objects.put_async(key, data, attributes=attributes, use_multipart=False)
            except BUCKET_ERRORS as error:
                failure = classify(error)
            else:
                return
            if failure.refused:
                probed = await self._outage.probe()
                if probed is None:
                    refusals += 1
                    if refusals == 2:
                        raise _not_stored(failure.reason)
                    continue
                failure = probed
            self._outage.begin(failure)
            if not await self._outage.wait_ended(deadline - loop.time()):
                raise BucketError(failure)

    async def _abandon(self, put: asyncio.Task[None], name: str) -> None:
        """Delete an output whose caller forgets it now.

        If that takes too long, the reservation of its token still makes the maintenance delete it. If
        another instance has claimed the bucket, it may have stored the same output: keep it.
        """
        await asyncio.wait({put}, timeout=self._limits.cancel_seconds)
        put.cancel()
        await asyncio.wait({put})
        if self._fence is not None:
            return
        with suppress(TimeoutError, OSError, StorageUnavailableError, StoreClaimedError):
            async with asyncio.timeout(self._limits.cancel_seconds):
                await self.delete([name])

    async def read(self, name: str, offset: int, count: int) -> bytes:
        """Return a part of an output, by one call with a range."""
        key = object_key(name)
        try:
            if count:
                return bytes(await self._objects.get_range_async(key, start=offset, length=count))
            await self._objects.head_async(key)
        except BUCKET_ERRORS as error:
            if is_missing_object(error):
                raise FileNotFoundError(name) from None
            if is_range_error(error) and await self._size(key) <= offset:
                return b""
            raise BucketError(classify(error)) from None
        return b""

    async def _size(self, key: str) -> int:
        try:
            return (await self._objects.head_async(key))["size"]
        except BUCKET_ERRORS as error:
            raise BucketError(classify(error)) from None

    async def delete(self, names: Iterable[str]) -> None:
        """Delete outputs permanently, if the claim still holds."""
        keys = [object_key(name) for name in names]
        await self._claim.check()
        await self._delete(keys)

    async def _delete(self, keys: list[str]) -> None:
        try:
            await self._objects.delete_async(keys)
        except BUCKET_ERRORS as error:
            if not is_missing_object(error):
                raise BucketError(classify(error)) from None
            # Some stores fail at the first object that does not exist.
            if len(keys) > 1:
                for start in range(0, len(keys), DELETIONS_AT_ONCE):
                    group = keys[start : start + DELETIONS_AT_ONCE]
                    await asyncio.gather(*(self._delete([key]) for key in group))

    async def list_names(self, prefix: str = "", after: str = "", limit: int = 1_000) -> list[str]:
        """Return the names of stored outputs, in order."""
        names: list[str] = []
        start = max(prefix, after)
        options: dict[str, Any] = {"prefix": prefix[:2]} if len(prefix) >= 2 else {}
        if start:
            options["offset"] = f"{start[:2]}/{start}" if len(start) >= 2 else start
        try:
            async for objects in self._objects.list_async(**options, chunk_size=limit):
                for found in objects:
                    folder, _, name = found["path"].rpartition("/")
                    if not is_output_name(name) or folder != name[:2] or name <= after:
                        continue
                    if not name.startswith(prefix):
                        if name > prefix:
                            return names
                        continue
                    names.append(name)
                    if len(names) == limit:
                        return names
        except BUCKET_ERRORS as error:
            raise BucketError(classify(error)) from None
        return names

    async def sweep(self) -> None:
        """Do nothing: a bucket has no incomplete objects."""

    async def close(self) -> None:
        """Wait for the calls of `put`, which end as soon as their current call of the bucket does."""
        self._closed = True
        await self._outage.close()
        if self._puts:
            await asyncio.wait(self._puts)

    # --- the claim, and clients ---------------------------------------------------------------

    async def claim(self, database_id: str, known_output: str | None) -> None:
        """Claim the bucket for a database. A new database cannot claim a bucket with outputs."""
        try:
            found = await self._claim.find()
            if found.marker is None:
                await self._check_outputs(known_output)
            await self._claim.acquire(database_id, found)
        except BucketError as error:
            if not (error.failure.permanent or error.failure.refused):
                self._outage.begin(error.failure)
                raise
            raise StartupError(
                f"Cannot use {self._place}: {error}. Check storage.bucket, storage.endpoint, the "
                "credentials in the environment, and their permissions."
            ) from None

    async def _check_outputs(self, known_output: str | None) -> None:
        """Raise `StartupError` if a bucket without a marker has not the outputs of the database."""
        if known_output is None and await self.list_names(limit=1):
            raise StartupError(
                f"{self._place} contains images, but the database is new. Restore the database from a "
                "backup, or set storage.bucket to another bucket or prefix."
            )
        if known_output is not None:
            try:
                await self.read(known_output, 0, 0)
            except FileNotFoundError:
                raise StartupError(
                    f"{self._place} lacks the images of this database. Copy the folder `outputs` of "
                    "storage.data_dir to it first, or set storage.data_dir to a new folder."
                ) from None

    async def watch(self) -> None:
        """Check the claim at intervals. If that fails, the bucket fails."""
        while True:
            await asyncio.sleep(self._limits.check_seconds)
            try:
                await self._claim.check()
            except BucketError as error:
                self._outage.begin(error.failure)
            except StartupError as error:  # the marker is damaged
                raise StoreClaimedError(str(error)) from None

    async def direct_url(self, name: str, method: str) -> str | None:
        """Return a presigned URL if the service redirects to the bucket."""
        if not self._redirect:
            return None
        sign: Any = obstore.sign_async  # its types exclude stores that cannot sign, as in tests
        expiry = timedelta(seconds=PRESIGNED_SECONDS)
        try:
            return str(await sign(self._objects, method, object_key(name), expiry))
        except BUCKET_ERRORS as error:
            raise BucketError(classify(error)) from None


def _not_stored(reason: str) -> ImageError:
    message = f"The output could not be stored: {reason}."
    return ImageError(ImageErrorCode.STORAGE_FAILED, message)
