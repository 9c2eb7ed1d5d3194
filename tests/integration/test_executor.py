"""Every implementation of `Executor` passes these tests.

To add an implementation, add a class like `LocalSubject`, and list it in `SUBJECTS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest

from imgsvc.config import CompressConfig, FetchConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.execution.base import ExecutionInterruptedError, Executor, Fetched
from imgsvc.execution.local import LocalExecutor
from imgsvc.image_types import CompressionSettings
from imgsvc.metrics import Metrics
from imgsvc.models import Claim, Conditions
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from imgsvc.storage.base import StorageFullError
from imgsvc.workers.pool import WorkerPool
from tests.fake_executor import FakeExecutor
from tests.harness.cluster import RunningNode
from tests.memory_store import MemoryStore
from tests.origin import Origin, Reply
from tests.waiting import wait_until

SETTINGS = CompressionSettings()
CONFIG = FetchConfig(allowed_networks=("127.0.0.0/8",))


class Subject(Protocol):
    """An executor that stores in `store`, and sources that a test serves to it."""

    store: MemoryStore

    @property
    def executor(self) -> Executor: ...

    def serve(self, path: str, actions: str = "") -> tuple[str, bytes]:
        """Serve a source. Return its URL and bytes. `actions`: `hang` or `refuse` when compressed."""

    def held_bytes(self) -> int:
        """Return the size of the fetched sources that are not dropped, or their number."""


class LocalSubject:
    """The executor of the service, with one worker that runs `tests.faulty_worker`."""

    def __init__(self, folder: Path, origin: Origin, session: aiohttp.ClientSession) -> None:
        self._folder = folder
        self._origin = origin
        self._budget = ByteBudget(2**20)
        self.store = MemoryStore()
        fetcher = Fetcher(session, CONFIG, self._budget)
        pool = WorkerPool(
            CompressConfig(workers=1), function="tests.faulty_worker:compress", confined=False
        )
        self.executor = LocalExecutor(fetcher, pool, self.store, Metrics())

    def serve(self, path: str, actions: str = "") -> tuple[str, bytes]:
        source = f"{self._folder / 'attempts'} {actions}".encode()
        headers = {"Content-Type": "image/jpeg", "ETag": f'"{hash(source)}"'}
        return self._origin.script(path, Reply(headers=headers, body=source)), source

    def held_bytes(self) -> int:
        return self._budget._used


@asynccontextmanager
async def local_subject(folder: Path, origin: Origin) -> AsyncIterator[Subject]:
    async with open_session(CONFIG, AddressRules(CONFIG.allowed_networks)) as session:
        yield LocalSubject(folder, origin, session)


class FakeSubject:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.executor = FakeExecutor(self.store)

    def serve(self, path: str, actions: str = "") -> tuple[str, bytes]:
        url, source = f"http://host.example{path}", f"{path} {actions}".encode()
        self.executor.sources[url] = source
        return url, source

    def held_bytes(self) -> int:
        return self.executor.held


@asynccontextmanager
async def fake_subject(_folder: Path, _origin: Origin) -> AsyncIterator[Subject]:
    yield FakeSubject()


class ClusterSubject(LocalSubject):
    """A coordinator without workers, and a node that has those of `LocalSubject`."""

    def __init__(self, folder: Path, origin: Origin, session: aiohttp.ClientSession) -> None:
        super().__init__(folder, origin, session)
        self.node = RunningNode(self.executor, self.store)
        self.executor: Executor = self.node.cluster  # type: ignore[assignment]


@asynccontextmanager
async def cluster_subject(folder: Path, origin: Origin) -> AsyncIterator[Subject]:
    async with open_session(CONFIG, AddressRules(CONFIG.allowed_networks)) as session:
        subject = ClusterSubject(folder, origin, session)
        async with subject.node.connected():
            yield subject


SUBJECTS: dict[str, Callable[[Path, Origin], AbstractAsyncContextManager[Subject]]] = {
    "local": local_subject,
    "fake": fake_subject,
    "cluster": cluster_subject,
}


@pytest.fixture(params=SUBJECTS)
async def subject(
    request: pytest.FixtureRequest, tmp_path: Path, origin: Origin
) -> AsyncIterator[Subject]:
    async with SUBJECTS[request.param](tmp_path, origin) as subject:
        await subject.executor.start()
        yield subject
        await subject.executor.close(0)


def claim(url: str) -> Claim:
    host_url = "/".join(url.split("/")[:3])
    return Claim(1, 1, "request", (0,), url, host_url, attempts=0, settings=SETTINGS)


@asynccontextmanager
async def fetch(subject: Subject, claim: Claim) -> AsyncIterator[Fetched]:
    """Fetch the source of a claim, without conditions."""
    async with subject.executor.fetch(claim, None) as fetched:
        assert fetched is not None
        yield fetched


async def dropped(subject: Subject) -> None:
    """Return when all sources are dropped. A node does that when it receives the order."""
    await wait_until(lambda: subject.held_bytes() == 0, "the sources to be dropped")


def token_of(fetched: Fetched) -> str:
    """Return the token of a source: equal for equal bytes."""
    return fetched.digest.hex()[:32]


# --- fetching -------------------------------------------------------------------------------------


async def test_fetched_has_digest_and_size_of_source(subject: Subject) -> None:
    url, source = subject.serve("/a.jpg")
    async with fetch(subject, claim(url)) as fetched:
        assert fetched.digest == hashlib.sha256(source).digest()
        assert fetched.size == len(source)
        assert subject.held_bytes() > 0


async def test_conditional_fetch_yields_none_only_while_source_is_not_modified(
    subject: Subject,
) -> None:
    job = claim(subject.serve("/a.jpg")[0])
    async with fetch(subject, job) as fetched:
        conditions = Conditions(fetched.digest, fetched.validators)
    async with subject.executor.fetch(job, conditions) as not_modified:
        assert not_modified is None
        await dropped(subject)
    _, changed = subject.serve("/a.jpg", "changed")
    async with subject.executor.fetch(job, conditions) as again:
        assert again is not None
        assert again.digest == hashlib.sha256(changed).digest()
        assert again.validators != conditions.validators


async def test_failed_fetch_raises_image_error_and_holds_no_bytes(
    subject: Subject, origin: Origin
) -> None:
    with pytest.raises(ImageError) as caught:
        async with fetch(subject, claim(origin.script("/missing.jpg", Reply(404)))):
            pass
    assert (caught.value.code, caught.value.http_status) == (ImageErrorCode.HTTP_STATUS, 404)
    await dropped(subject)


async def test_leaving_drops_the_bytes_and_stores_nothing(subject: Subject) -> None:
    url, _ = subject.serve("/a.jpg")
    async with fetch(subject, claim(url)) as fetched:
        pass
    await dropped(subject)
    with pytest.raises(ExecutionInterruptedError):
        await fetched.compress(secrets.token_hex(16), SETTINGS, 1)
    assert subject.store.outputs == {}


async def test_leaving_does_not_wait(subject: Subject) -> None:
    """So a job whose output is stored cannot be cancelled before it returns."""
    url, _ = subject.serve("/a.jpg")
    fetching = subject.executor.fetch(claim(url), None)
    fetched = await fetching.__aenter__()
    assert fetched is not None
    await fetched.compress(secrets.token_hex(16), SETTINGS, 1)
    with pytest.raises(StopIteration):
        fetching.__aexit__(None, None, None).__await__().__next__()


async def test_cancelled_fetch_holds_no_bytes(subject: Subject) -> None:
    """Each fetch is cancelled one iteration of the event loop later than the one before."""
    url, _ = subject.serve("/a.jpg")

    async def hold() -> None:
        async with fetch(subject, claim(url)):
            await asyncio.Event().wait()

    for iterations in range(20):
        fetching = asyncio.create_task(hold())
        for _ in range(iterations):
            await asyncio.sleep(0)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        assert fetching.cancelled()
        await dropped(subject)


# --- compressing ----------------------------------------------------------------------------------


async def test_compress_stores_output_under_token(subject: Subject) -> None:
    url, _ = subject.serve("/a.jpg")
    job = claim(url)
    async with fetch(subject, job) as fetched:
        info = await fetched.compress(token_of(fetched), SETTINGS, job.request_key)
    assert list(subject.store.outputs) == [f"{token_of(fetched)}.jpg"]
    assert info.output_format == "jpeg"


async def test_images_are_compressed_concurrently(subject: Subject) -> None:
    jobs = [claim(subject.serve(f"/{n}.jpg")[0]) for n in range(20)]

    async def run(number: int, job: Claim) -> None:
        async with fetch(subject, job) as fetched:
            await fetched.compress(f"{number:032x}", SETTINGS, job.request_key)

    await asyncio.gather(*(run(number, job) for number, job in enumerate(jobs)))
    assert set(subject.store.outputs) == {f"{number:032x}.jpg" for number in range(20)}
    await dropped(subject)


async def test_compress_with_stored_token_keeps_one_output(subject: Subject) -> None:
    url, _ = subject.serve("/a.jpg")
    job = claim(url)
    for _ in range(2):
        async with fetch(subject, job) as fetched:
            await fetched.compress(token_of(fetched), SETTINGS, job.request_key)
    assert list(subject.store.outputs) == [f"{token_of(fetched)}.jpg"]


async def test_source_that_cannot_be_compressed_raises_image_error(subject: Subject) -> None:
    job = claim(subject.serve("/a.jpg", "refuse")[0])
    async with fetch(subject, job) as fetched:
        with pytest.raises(ImageError) as caught:
            await fetched.compress(token_of(fetched), SETTINGS, job.request_key)
    assert caught.value.code is ImageErrorCode.CORRUPT_IMAGE
    assert subject.store.outputs == {}
    await dropped(subject)


async def test_full_store_raises_storage_full_error(subject: Subject) -> None:
    job = claim(subject.serve("/a.jpg")[0])
    subject.store.full = True
    async with fetch(subject, job) as fetched:
        with pytest.raises(StorageFullError):
            await fetched.compress(token_of(fetched), SETTINGS, job.request_key)
    assert subject.store.outputs == {}


async def test_failing_store_raises_storage_failed(subject: Subject) -> None:
    job = claim(subject.serve("/a.jpg")[0])
    async with fetch(subject, job) as fetched:
        subject.store.broken.add(f"{token_of(fetched)}.jpg")
        with pytest.raises(ImageError) as caught:
            await fetched.compress(token_of(fetched), SETTINGS, job.request_key)
    assert caught.value.code is ImageErrorCode.STORAGE_FAILED


async def test_cancelled_compression_stores_nothing_and_holds_no_bytes(subject: Subject) -> None:
    job = claim(subject.serve("/a.jpg", "hang")[0])

    async def run() -> None:
        async with fetch(subject, job) as fetched:
            await fetched.compress(token_of(fetched), SETTINGS, job.request_key)

    running = asyncio.create_task(run())
    await wait_until(subject.held_bytes, "the fetch")
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert subject.store.outputs == {}
    await dropped(subject)


# --- closing --------------------------------------------------------------------------------------


async def test_close_interrupts_images(subject: Subject) -> None:
    jobs = [claim(subject.serve("/a.jpg", "hang")[0]), claim(subject.serve("/b.jpg", "hang")[0])]

    async def run(job: Claim) -> None:
        async with fetch(subject, job) as fetched:
            await fetched.compress(token_of(fetched), SETTINGS, job.request_key)

    running = [asyncio.create_task(run(job)) for job in jobs]
    await wait_until(subject.held_bytes, "a fetch")
    await subject.executor.close(0)
    results = await asyncio.gather(*running, return_exceptions=True)
    # On other machines, it may be the loss of the node that interrupts them.
    assert [isinstance(result, ExecutionInterruptedError) for result in results] == [True] * 2
    assert subject.store.outputs == {}


async def test_make_thumbnail_returns_bytes_or_the_error_of_the_image(subject: Subject) -> None:
    _, output = subject.serve("/1.jpg")
    assert await subject.executor.make_thumbnail(output)
    _, damaged = subject.serve("/2.jpg", "refuse")
    with pytest.raises(ImageError) as caught:
        await subject.executor.make_thumbnail(damaged)
    assert caught.value.code is ImageErrorCode.CORRUPT_IMAGE


async def test_make_thumbnail_is_interrupted_when_executor_closes(subject: Subject) -> None:
    _, output = subject.serve("/1.jpg", "hang")
    call = asyncio.create_task(subject.executor.make_thumbnail(output))
    await asyncio.sleep(0)
    await subject.executor.close(0)
    with pytest.raises(ExecutionInterruptedError):
        await call
    with pytest.raises(ExecutionInterruptedError):
        await subject.executor.make_thumbnail(output)
