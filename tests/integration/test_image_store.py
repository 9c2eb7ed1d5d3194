"""Every implementation of `ImageStore` passes these tests.

To add an implementation, add a class like `FilesystemSubject`, and list it in `SUBJECTS`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.storage.base import ImageStore, StorageUnavailableError
from imgsvc.storage.bucket import object_key, open_bucket
from imgsvc.storage.filesystem import FilesystemStore, output_path
from tests.faulty_objects import QUICK, FaultyObjects, bucket_store, http_error
from tests.harness.service import SwitchableDisk
from tests.memory_store import MemoryStore
from tests.s3_servers import BUCKET, ENVIRON, FailingProxy, S3Server

NAME = "0123456789abcdef0123456789abcdef01.jpg"
OLD_NAME = "0123456789abcdef0123456789abcdef.jpg"
"""A name of version 1.0."""
OTHER = "fedcba9876543210fedcba9876543210fe.webp"
INVALID_NAMES = ("", "lock", NAME[:-4], NAME + ".tmp", "../" + NAME, NAME.upper(), NAME[1:])


class Subject(Protocol):
    """A store, and the ways in which a test makes it fail."""

    @property
    def store(self) -> ImageStore: ...

    def set_full(self, full: bool) -> None:
        """Make the store unable, or able, to store anything."""

    def break_name(self, name: str) -> None:
        """Make this output fail to be stored, for another reason than missing space."""

    def leave_partial(self, name: str) -> None:
        """Leave what remains of a `put` whose process was killed."""

    def has_partial(self) -> bool:
        """Return whether anything incomplete remains."""


class FilesystemSubject:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = SwitchableDisk(folder)
        self.store = FilesystemStore(folder, self._disk)

    def set_full(self, full: bool) -> None:
        self._disk.full = full

    def break_name(self, name: str) -> None:
        output_path(self._folder, name).parent.write_bytes(b"a file where a folder should be")

    def leave_partial(self, name: str) -> None:
        self.store._temporary(name).write_bytes(b"half")

    def has_partial(self) -> bool:
        return any((self._folder / "outputs" / "tmp").iterdir())


class MemorySubject:
    def __init__(self, _folder: Path) -> None:
        self.store = MemoryStore()

    def set_full(self, full: bool) -> None:
        self.store.full = full

    def break_name(self, name: str) -> None:
        self.store.broken.add(name)

    def leave_partial(self, name: str) -> None:
        self.store.partial.add(name)

    def has_partial(self) -> bool:
        return bool(self.store.partial)


class BucketSubject:
    def __init__(self, _folder: Path) -> None:
        self.objects = FaultyObjects()
        self.store = bucket_store(self.objects)

    def set_full(self, full: bool) -> None:
        self.objects.error = http_error(503, "SlowDown") if full else None

    def break_name(self, name: str) -> None:
        self.objects.refused.add(object_key(name))

    def leave_partial(self, name: str) -> None:
        """Do nothing: a PUT leaves a whole object or none."""

    def has_partial(self) -> bool:
        return False


class MotoSubject:
    """A store on a server with the S3 API, behind a proxy. Each test has a prefix of its own."""

    def __init__(self, server: S3Server) -> None:
        self.proxy = FailingProxy(server)
        with pytest.MonkeyPatch.context() as monkeypatch:
            for name, value in ENVIRON.items():
                monkeypatch.setenv(name, value)
            prefix = secrets.token_hex(8)
            self.store = open_bucket(f"s3://{BUCKET}/{prefix}", self.proxy.url, limits=QUICK)

    def set_full(self, full: bool) -> None:
        self.proxy.status = 503 if full else 0

    def break_name(self, name: str) -> None:
        self.proxy.refused.add(object_key(name))

    def leave_partial(self, name: str) -> None:
        """Do nothing: a PUT leaves a whole object or none."""

    def has_partial(self) -> bool:
        return False


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "filesystem": FilesystemSubject,
    "memory": MemorySubject,
    "bucket": BucketSubject,
}
MOTO = pytest.param("moto", marks=pytest.mark.external)


@pytest.fixture(params=[*SUBJECTS, MOTO])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param != "moto":
        subject = SUBJECTS[request.param](tmp_path)
        yield subject
        await subject.store.close()
        return
    moto = MotoSubject(request.getfixturevalue("moto_server"))
    yield moto
    await moto.store.close()
    moto.proxy.close()


@pytest.fixture
def store(subject: Subject) -> ImageStore:
    return subject.store


def new_name(extension: str = "jpg") -> str:
    return f"{secrets.token_hex(17)}.{extension}"


async def read_all(store: ImageStore, name: str) -> bytes:
    return await store.read(name, 0, 2**30)


# --- put ------------------------------------------------------------------------------------------


async def test_put_stores_all_bytes_of_concurrent_outputs(store: ImageStore) -> None:
    outputs = {new_name("png"): secrets.token_bytes(1 + 5_000 * i) for i in range(100)}
    await asyncio.gather(*(store.put(name, data) for name, data in outputs.items()))
    for name, data in outputs.items():
        assert await read_all(store, name) == data
    assert await store.list_names() == sorted(outputs)


@pytest.mark.parametrize("name", [NAME, OLD_NAME, OTHER])
async def test_put_accepts_names_of_outputs(store: ImageStore, name: str) -> None:
    await store.put(name, b"x")
    assert await store.list_names() == [name]


@pytest.mark.parametrize("name", INVALID_NAMES)
async def test_every_method_raises_value_error_for_invalid_name(
    store: ImageStore, name: str
) -> None:
    with pytest.raises(ValueError, match="not an output name"):
        await store.put(name, b"x")
    with pytest.raises(ValueError, match="not an output name"):
        await store.read(name, 0, 1)
    with pytest.raises(ValueError, match="not an output name"):
        await store.delete([NAME, name])
    assert await store.list_names() == []


async def test_put_of_stored_name_keeps_one_complete_output(store: ImageStore) -> None:
    data = secrets.token_bytes(10_000)
    await store.put(NAME, data)
    await store.put(NAME, data)
    await asyncio.gather(*(store.put(NAME, data) for _ in range(5)))
    assert await store.list_names() == [NAME]
    assert await read_all(store, NAME) == data


async def test_put_raises_storage_unavailable_error_until_outputs_can_be_stored(
    subject: Subject, store: ImageStore
) -> None:
    subject.set_full(True)
    with pytest.raises(StorageUnavailableError):
        await store.put(NAME, b"x")
    subject.set_full(False)
    assert await store.list_names() == []
    await store.put(NAME, b"x")
    assert await store.list_names() == [NAME]


async def test_put_raises_storage_failed_and_stores_other_outputs(
    subject: Subject, store: ImageStore
) -> None:
    subject.break_name(NAME)
    good = asyncio.create_task(store.put(OTHER, b"good"))
    with pytest.raises(ImageError, match="could not be stored") as caught:
        await store.put(NAME, b"bad")
    assert caught.value.code is ImageErrorCode.STORAGE_FAILED
    await good
    assert await store.list_names() == [OTHER]
    assert not subject.has_partial()


async def test_put_leaves_no_output_when_cancelled(subject: Subject, store: ImageStore) -> None:
    """Each call is cancelled one iteration of the event loop later than the one before."""
    stored = []
    for iterations in range(40):
        name = new_name()
        put = asyncio.create_task(store.put(name, bytes(5_000)))
        for _ in range(iterations):
            await asyncio.sleep(0)
        put.cancel()
        await asyncio.gather(put, return_exceptions=True)
        if not put.cancelled():
            stored.append(name)
    assert await store.list_names() == sorted(stored)
    assert not subject.has_partial()


async def test_put_raises_image_error_after_close(store: ImageStore) -> None:
    await store.close()
    with pytest.raises(ImageError):
        await store.put(NAME, b"x")


# --- read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (0, 10, b"0123456789"),
        (0, 3, b"012"),
        (4, 3, b"456"),
        (4, 100, b"456789"),
        (10, 5, b""),
        (11, 5, b""),
        (3, 0, b""),
    ],
)
async def test_read_returns_fewer_bytes_only_at_the_end(
    store: ImageStore, offset: int, count: int, expected: bytes
) -> None:
    await store.put(NAME, b"0123456789")
    assert await store.read(NAME, offset, count) == expected


async def test_read_raises_file_not_found_error_for_missing_output(store: ImageStore) -> None:
    with pytest.raises(FileNotFoundError):
        await store.read(NAME, 0, 1)


# --- delete ---------------------------------------------------------------------------------------


async def test_delete_removes_outputs_and_ignores_missing_ones(store: ImageStore) -> None:
    names = sorted(new_name() for _ in range(10))
    await asyncio.gather(*(store.put(name, b"x") for name in names))
    await store.delete([*names[:9], new_name()])
    await store.delete(iter(names[:9]))
    assert await store.list_names() == names[9:]
    with pytest.raises(FileNotFoundError):
        await store.read(names[0], 0, 1)


async def test_deleted_output_can_be_stored_again(store: ImageStore) -> None:
    await store.put(NAME, b"x")
    await store.delete([NAME])
    await store.put(NAME, b"x")
    assert await read_all(store, NAME) == b"x"


# --- list -----------------------------------------------------------------------------------------


async def test_list_names_returns_pages_in_order(store: ImageStore) -> None:
    names = sorted([*(new_name() for _ in range(30)), NAME, OLD_NAME])
    await asyncio.gather(*(store.put(name, b"x") for name in names))
    found: list[str] = []
    while page := await store.list_names(after=found[-1] if found else "", limit=7):
        assert len(page) <= 7
        found += page
    assert found == names


@pytest.mark.parametrize(
    ("prefix", "after", "expected"),
    [
        ("", "", [OLD_NAME, NAME, OTHER]),
        ("0", "", [OLD_NAME, NAME]),
        (OLD_NAME[:32] + "0", "", [NAME]),
        ("fe", NAME, [OTHER]),
        ("01", OTHER, []),
        ("a", "", []),
        ("", OTHER, []),
        ("", "0", [OLD_NAME, NAME, OTHER]),
    ],
)
async def test_list_names_returns_names_with_prefix_after_a_name(
    store: ImageStore, prefix: str, after: str, expected: list[str]
) -> None:
    for name in (OTHER, NAME, OLD_NAME):
        await store.put(name, b"x")
    assert await store.list_names(prefix, after) == sorted(expected)


# --- sweep ----------------------------------------------------------------------------------------


async def test_sweep_removes_only_incomplete_outputs(subject: Subject, store: ImageStore) -> None:
    done = new_name()
    await store.put(done, b"x")
    subject.leave_partial(new_name())
    await store.sweep()
    assert await store.list_names() == [done]
    assert not subject.has_partial()
