"""Tests of `BucketStore` on a bucket in memory, beside those of every store."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from imgsvc import __version__
from imgsvc.errors import ImageError, ImageErrorCode, StartupError
from imgsvc.storage.base import StorageUnavailableError, StoreClaimedError
from imgsvc.storage.bucket import BucketStore, object_key, open_bucket
from imgsvc.storage.bucket_outage import BucketLimits
from tests.faulty_objects import QUICK, FaultyObjects, bucket_store, http_error
from tests.origin import ROOT
from tests.waiting import wait_until

NAME = f"{'0123456789abcdef' * 2}.jpg"
DATABASE = "d" * 32
PATIENT = BucketLimits(hold_seconds=30, probe_seconds=0.01)
OUTAGES = [
    (http_error(503, "SlowDown"), "the bucket responds 503 SlowDown"),
    (http_error(500, "InternalError"), "the bucket responds 500 InternalError"),
    (GenericError("HTTP error: error sending request"), "the bucket does not respond"),
    (http_error(400, "ExpiredToken"), "the bucket responds 400 ExpiredToken"),
    (
        PermissionDeniedError("status code: 403 Forbidden: <Code>AccessDenied</Code>"),
        "the bucket denies access (AccessDenied)",
    ),
    (
        FileNotFoundError("status code: 404 Not Found: <Code>NoSuchBucket</Code>"),
        "the bucket does not exist",
    ),
]


@pytest.fixture
def objects() -> FaultyObjects:
    return FaultyObjects()


@pytest.fixture
async def store(objects: FaultyObjects) -> AsyncIterator[BucketStore]:
    store = bucket_store(objects, PATIENT)
    yield store
    await store.close()


# --- outages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "reason"), OUTAGES, ids=[reason for _, reason in OUTAGES])
async def test_output_waits_until_the_bucket_works_again(
    objects: FaultyObjects,
    store: BucketStore,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    reason: str,
) -> None:
    objects.error = error
    put = asyncio.create_task(store.put(NAME, b"data"))
    await wait_until(lambda: objects.puts.count("imgsvc-probe") > 2, "probes")
    assert store.problem == reason
    assert not put.done()
    assert objects.puts.count(object_key(NAME)) == 1
    assert caplog.text.count(reason) == 1
    objects.error = None
    await put
    await wait_until(lambda: store.problem is None, "the end of the outage")
    assert await store.read(NAME, 0, 10) == b"data"


async def test_put_raises_error_of_the_outage_when_it_takes_too_long(
    objects: FaultyObjects,
) -> None:
    store = bucket_store(objects, QUICK)
    objects.error = http_error(503, "SlowDown")
    with pytest.raises(StorageUnavailableError, match="503"):
        await store.put(NAME, b"data")
    assert store.problem is not None
    objects.error = None
    await wait_until(lambda: store.problem is None, "the probe to be accepted")
    await store.close()


async def test_refused_object_fails_only_while_the_probe_is_accepted(
    objects: FaultyObjects, store: BucketStore
) -> None:
    objects.refused.add(object_key(NAME))
    with pytest.raises(ImageError, match="400 EntityTooLarge") as caught:
        await store.put(NAME, b"data")
    assert caught.value.code is ImageErrorCode.STORAGE_FAILED
    assert store.problem is None
    assert objects.puts == [object_key(NAME), "imgsvc-probe"] * 2


async def test_close_ends_puts_that_wait(objects: FaultyObjects, store: BucketStore) -> None:
    objects.error = http_error(503, "SlowDown")
    put = asyncio.create_task(store.put(NAME, b"data"))
    await wait_until(lambda: store.problem, "the outage")
    await store.close()
    with pytest.raises(ImageError, match="closed"):
        await put


async def test_reads_deletes_and_lists_raise_error_of_an_outage(
    objects: FaultyObjects, store: BucketStore
) -> None:
    await store.put(NAME, b"data")
    objects.error = http_error(503, "SlowDown")
    for call in (store.read(NAME, 0, 1), store.delete([NAME]), store.list_names()):
        with pytest.raises(StorageUnavailableError, match="503"):
            await call
    assert store.problem is None  # only what is stored decides whether work pauses


async def test_missing_bucket_is_no_missing_output(
    objects: FaultyObjects, store: BucketStore
) -> None:
    objects.error = OUTAGES[-1][0]
    with pytest.raises(StorageUnavailableError, match="does not exist"):
        await store.read(NAME, 0, 1)


async def test_delete_continues_after_an_object_that_is_missing(
    objects: FaultyObjects, store: BucketStore
) -> None:
    """Some stores delete objects one after the other, and stop at the first that is missing."""
    names = [f"{secrets.token_hex(16)}.jpg" for _ in range(20)]
    for name in names[::2]:
        await store.put(name, b"data")
    real = objects.objects.delete_async

    async def delete_async(keys: list[str]) -> None:
        for key in keys:
            await objects.objects.head_async(key)
            await real(key)

    vars(objects)["delete_async"] = delete_async
    await store.delete(names)
    assert await store.list_names() == []


async def test_other_objects_are_no_outputs(objects: FaultyObjects, store: BucketStore) -> None:
    await store.put(NAME, b"data")
    for key in (f"ff/{NAME}", f"01/x/{NAME}", "01/readme.txt", "zz.jpg", "00.jpg"):
        await objects.put_async(key, b"other")
    assert await store.list_names() == [NAME]
    assert await store.list_names("0") == [NAME]


async def test_object_has_media_type_of_its_format(
    objects: FaultyObjects, store: BucketStore
) -> None:
    await store.put(f"{'ab' * 16}.webp", b"data")
    result = await objects.get_async(f"ab/{'ab' * 16}.webp")
    assert result.attributes["Content-Type"] == "image/webp"
    assert "immutable" in result.attributes["Cache-Control"]


# --- the claim ------------------------------------------------------------------------------------


async def marker(objects: FaultyObjects) -> Any:
    result = await objects.get_async("imgsvc.json")
    return json.loads(bytes(await result.bytes_async()))


async def test_each_claim_raises_the_generation_and_ends_the_one_before(
    objects: FaultyObjects, store: BucketStore
) -> None:
    await store.claim(DATABASE, None)
    assert await marker(objects) == {"database": DATABASE, "generation": 1}
    await store.put(NAME, b"data")
    newer = bucket_store(objects)
    await newer.claim(DATABASE, NAME)
    assert (await marker(objects))["generation"] == 2
    with pytest.raises(StoreClaimedError, match="Another instance"):
        await store.delete([NAME])
    assert await store.list_names() == [NAME]
    await newer.delete([NAME])
    await newer.close()


async def test_cancelled_put_keeps_the_output_of_a_newer_instance(objects: FaultyObjects) -> None:
    older = bucket_store(objects, BucketLimits(hold_seconds=30, probe_seconds=30))
    newer = bucket_store(objects)
    await older.claim(DATABASE, None)
    objects.error = http_error(503, "SlowDown")
    put = asyncio.create_task(older.put(NAME, b"data"))
    await wait_until(lambda: older.problem, "the outage to be detected")
    objects.error = None
    await newer.claim(DATABASE, None)
    await newer.put(NAME, b"data")
    put.cancel()
    await asyncio.gather(put, return_exceptions=True)
    assert await newer.list_names() == [NAME]
    await older.close()
    await newer.close()


async def test_watch_ends_when_another_instance_claims(objects: FaultyObjects) -> None:
    older, newer = bucket_store(objects), bucket_store(objects)
    await older.claim(DATABASE, None)
    watching = asyncio.create_task(older.watch())
    objects.error = http_error(503, "SlowDown")
    await wait_until(lambda: older.problem, "the outage to be detected")
    objects.error = None
    await newer.claim(DATABASE, None)
    with pytest.raises(StoreClaimedError, match="Another instance"):
        await watching
    await objects.delete_async(["imgsvc.json"])
    with pytest.raises(StoreClaimedError, match="has lost the object"):
        await newer.watch()
    await older.close()
    await newer.close()


async def test_concurrent_claims_start_one_instance(objects: FaultyObjects) -> None:
    stores = [bucket_store(objects) for _ in range(5)]
    results = await asyncio.gather(
        *(store.claim(DATABASE, None) for store in stores), return_exceptions=True
    )
    failed = [result for result in results if result is not None]
    assert len(failed) == len(stores) - (await marker(objects))["generation"]
    assert all(isinstance(error, StartupError) for error in failed)
    assert all("Another instance" in str(error) for error in failed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"database": "other", "generation": 3}', "belongs to another database"),
        (b"not JSON", "not a marker"),
        (b"[]", "not a marker"),
        (b'{"database": "other"}', "not a marker"),
    ],
)
async def test_claim_of_another_database_is_refused(
    objects: FaultyObjects, store: BucketStore, content: bytes, message: str
) -> None:
    await objects.put_async("imgsvc.json", content)
    with pytest.raises(StartupError, match=message):
        await store.claim(DATABASE, None)


async def test_new_database_cannot_claim_bucket_with_outputs(
    objects: FaultyObjects, store: BucketStore
) -> None:
    await objects.put_async("00-notes.txt", b"other")
    await store.claim("first", None)
    await objects.delete_async(["imgsvc.json"])
    await store.put(NAME, b"data")
    with pytest.raises(StartupError, match="the database is new"):
        await store.claim(DATABASE, None)


async def test_database_with_outputs_can_claim_only_a_bucket_that_has_them(
    store: BucketStore,
) -> None:
    with pytest.raises(StartupError, match="lacks the images"):
        await store.claim(DATABASE, NAME)
    await store.put(NAME, b"data")
    await store.claim(DATABASE, NAME)


@pytest.mark.parametrize(("error", "reason"), OUTAGES, ids=[reason for _, reason in OUTAGES])
async def test_claim_waits_for_an_outage_and_refuses_a_wrong_configuration(
    objects: FaultyObjects, store: BucketStore, error: Exception, reason: str
) -> None:
    objects.error = error
    waits = reason.startswith("the bucket responds 50") or "not respond" in reason
    with pytest.raises(StorageUnavailableError if waits else StartupError) as caught:
        await store.claim(DATABASE, None)
    assert reason in str(caught.value)
    assert (store.problem == reason) is waits


async def test_bucket_with_an_unknown_setting_is_refused() -> None:
    with pytest.raises(StartupError, match="gs://images/shop"):
        open_bucket("gs://images/shop", "https://storage.example")


@pytest.mark.parametrize(("module", "cleanup"), [("obstore", ""), ("json", "cleanup\n")])
def test_command_that_has_used_a_bucket_ends_without_cleanup_of_the_interpreter(
    module: str, cleanup: str
) -> None:
    """Threads of obstore may abort the process during that cleanup. What was printed is complete."""
    script = (
        f"import atexit, sys, {module}\n"
        "from imgsvc.cli import main\n"
        "atexit.register(print, 'cleanup')\n"
        "sys.argv[:] = ['imgsvc', '--version']\n"
        "main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"imgsvc {__version__}\n{cleanup}"
