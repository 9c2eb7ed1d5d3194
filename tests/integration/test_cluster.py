"""The executor of a coordinator, with nodes in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from distributed.security import Security
from obstore.store import MemoryStore as MemoryObjects

from imgsvc.adapters import Replacements, create_executor
from imgsvc.config import Config
from imgsvc.errors import ImageError, ImageErrorCode, StartupError
from imgsvc.execution.cluster.certificates import write_certificates
from imgsvc.execution.cluster.dask_coordinator import DaskMembership
from imgsvc.execution.cluster.dask_node import ask_to_join
from imgsvc.execution.cluster.executor import ClusterExecutor
from imgsvc.execution.cluster.limits import ClusterLimits
from imgsvc.execution.cluster.messages import (
    JoinRequest,
    LeaveOrder,
    NodeStatus,
    Order,
    Refusal,
    Report,
    Welcome,
    decode,
)
from imgsvc.execution.cluster.node_jobs import Contact, NodeJobs
from imgsvc.execution.cluster.remote_node import NodeLostError
from imgsvc.execution.cluster.security import load_security
from imgsvc.execution.cluster.versions import differences, own_versions
from imgsvc.image_types import CompressionSettings
from imgsvc.metrics import Metrics
from imgsvc.models import Claim
from imgsvc.sample import Sample
from imgsvc.storage.base import StorageUnavailableError
from imgsvc.storage.bucket import BucketStore
from tests.fake_executor import FakeExecutor
from tests.harness.cluster import WELCOME
from tests.memory_store import MemoryStore
from tests.waiting import wait_until

SETTINGS = CompressionSettings()
TOKEN = "ab" * 16


def claim(url: str) -> Claim:
    return Claim(1, 1, "request", (0,), url, "http://a", attempts=0, settings=SETTINGS)


class NoMembership:
    """A membership without a network: tests pass links to `ClusterExecutor.use`."""

    async def start(self, executor: ClusterExecutor) -> None: ...

    async def close(self) -> None: ...


class DirectLink:
    """A `NodeLink` to jobs in this process. `broken`: the node does not respond."""

    def __init__(self, jobs: NodeJobs) -> None:
        self.jobs = jobs
        self.broken = asyncio.Event()
        self.orders: list[Order] = []

    async def give(self, orders: list[Order]) -> None:
        self._check()
        self.orders += orders
        await self.jobs.give(orders)

    async def take(self, seconds: float) -> Report:
        self._check()
        taking = asyncio.create_task(self.jobs.take(seconds))
        breaking = asyncio.create_task(self.broken.wait())
        await asyncio.wait({taking, breaking}, return_when=asyncio.FIRST_COMPLETED)
        breaking.cancel()
        if not taking.done():
            taking.cancel()
        self._check()
        return await taking

    def _check(self) -> None:
        if self.broken.is_set():
            raise ConnectionError("the node does not respond")


class Cluster:
    """A coordinator, and nodes with fake executors that share a store."""

    def __init__(self, limits: ClusterLimits = ClusterLimits()) -> None:
        self.limits = limits
        self.metrics = Metrics()
        self.store = MemoryStore()
        self.own = FakeExecutor(self.store)
        self.executor = ClusterExecutor(
            self.own, NoMembership(), self.metrics, local_node=False, limits=limits
        )
        self.executors: dict[str, FakeExecutor] = {}
        self.links: dict[str, DirectLink] = {}
        self.uses: dict[str, asyncio.Task[None]] = {}

    def add_node(self, name: str) -> FakeExecutor:
        executor = self.executors[name] = FakeExecutor(self.store)
        executor.sources = self.own.sources
        contact = Contact(self.limits.fence_seconds)
        link = DirectLink(NodeJobs(executor, self.store, contact, self.limits))
        self.links[name] = link
        self.uses[name] = asyncio.create_task(self.executor.use(name, link))
        return executor

    async def lose(self, name: str) -> None:
        self.links[name].broken.set()
        with suppress(BaseExceptionGroup):
            await self.uses.pop(name)

    async def compress(self, url: str, token: str = TOKEN) -> str:
        async with self.executor.fetch(claim(url), None) as fetched:
            assert fetched is not None
            return (await fetched.compress(token, SETTINGS, 1)).output_format

    async def close(self) -> None:
        for name in list(self.uses):
            self.uses[name].cancel()
        await asyncio.gather(*self.uses.values(), return_exceptions=True)
        for link in self.links.values():
            await link.jobs.close()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    cluster.own.sources = {
        f"http://a/{name}.jpg": f"/{name} {name}".encode() for name in ("hang", "a", "b", "c")
    }
    yield cluster
    await cluster.close()


# --- nodes ----------------------------------------------------------------------------------------


async def test_images_wait_for_the_first_node(cluster: Cluster) -> None:
    waiting = asyncio.create_task(cluster.compress("http://a/a.jpg"))
    await asyncio.sleep(0)
    assert not waiting.done()
    cluster.add_node("one")
    assert await waiting == "jpeg"


async def test_node_with_the_most_free_capacity_gets_the_image(cluster: Cluster) -> None:
    cluster.add_node("one")
    cluster.add_node("two")
    await wait_until(lambda: cluster.executor.workers == 4, "two nodes")
    hanging = [asyncio.create_task(cluster.compress("http://a/hang.jpg")) for _ in range(6)]
    await wait_until(
        lambda: [each.held for each in cluster.executors.values()] == [3, 3], "equal shares"
    )
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_node_whose_store_fails_gets_no_images(cluster: Cluster) -> None:
    cluster.add_node("one")
    await wait_until(lambda: cluster.executor.workers == 2, "the node")
    cluster.store.outage = "the bucket fails"
    await cluster.compress("http://a/a.jpg")  # the node reports its state with the events
    waiting = asyncio.create_task(cluster.compress("http://a/b.jpg"))
    await asyncio.sleep(0)
    assert cluster.executors["one"].held == 0
    assert not waiting.done()
    cluster.store.outage = None
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_images_of_a_lost_node_are_interrupted(cluster: Cluster) -> None:
    node = cluster.add_node("one")
    job = asyncio.create_task(cluster.compress("http://a/hang.jpg"))
    await wait_until(lambda: node.held == 1, "the fetch")
    await cluster.lose("one")
    with pytest.raises(NodeLostError):
        await job


async def test_image_that_ends_three_nodes_fails_and_runs_alone_the_third_time(
    cluster: Cluster,
) -> None:
    for number in (1, 2):
        node = cluster.add_node(f"node-{number}")
        job = asyncio.create_task(cluster.compress("http://a/hang.jpg"))
        await wait_until(lambda held=node: held.held == 1, "the fetch")  # type: ignore[misc]
        await wait_until(lambda: len(cluster.links[f"node-{number}"].orders) == 2, "the order")  # noqa: B023
        await cluster.lose(f"node-{number}")
        with pytest.raises(NodeLostError):
            await job
    node = cluster.add_node("node-3")
    job = asyncio.create_task(cluster.compress("http://a/hang.jpg"))
    await wait_until(lambda: node.held == 1, "the fetch")
    other = asyncio.create_task(cluster.compress("http://a/b.jpg"))
    await wait_until(lambda: len(cluster.links["node-3"].orders) == 2, "the order")
    assert (node.held, other.done()) == (1, False)
    await cluster.lose("node-3")
    with pytest.raises(ImageError) as caught:
        await job
    assert caught.value.code is ImageErrorCode.COMPRESS_CRASHED
    cluster.add_node("node-4")
    assert await other == "jpeg"


async def test_node_that_leaves_finishes_its_images_first(cluster: Cluster) -> None:
    node = cluster.add_node("one")
    async with cluster.executor.fetch(claim("http://a/a.jpg"), None) as fetched:
        assert fetched is not None
        cluster.links["one"].jobs.leave()
        (known,) = cluster.executor._nodes
        await wait_until(lambda: not known.accepts, "the report")
        waiting = asyncio.create_task(cluster.compress("http://a/b.jpg", "cd" * 16))
        await fetched.compress(TOKEN, SETTINGS, 1)
    await cluster.uses.pop("one")
    assert cluster.links["one"].orders[-1] == LeaveOrder()
    assert node.compressed == [b"/a a"]
    cluster.add_node("two")
    assert await waiting == "jpeg"


async def test_cluster_is_unhealthy_after_some_time_without_a_node() -> None:
    cluster = Cluster(replace(ClusterLimits(), absence_seconds=0.0))
    assert not cluster.executor.healthy
    cluster.add_node("one")
    await wait_until(lambda: cluster.executor.healthy, "the node")
    await cluster.lose("one")
    assert not cluster.executor.healthy
    await cluster.close()


async def test_silent_node_is_lost() -> None:
    cluster = Cluster(replace(ClusterLimits(), answer_seconds=0.05, poll_seconds=60.0))
    cluster.add_node("one")
    with pytest.raises(BaseExceptionGroup):
        await cluster.uses.pop("one")
    assert cluster.executor.workers == 0
    await cluster.close()


# --- the fence, and late outputs ------------------------------------------------------------------


async def test_node_without_contact_stores_nothing() -> None:
    objects = MemoryObjects()
    contact = Contact(0.0)
    store = BucketStore(objects, "memory", fence=contact)
    await contact.wait_lost()
    with pytest.raises(StorageUnavailableError):
        await store.put(f"{TOKEN}.jpg", b"output")
    assert await store.list_names() == []
    await store.close()


async def test_node_whose_put_is_cancelled_deletes_nothing() -> None:
    """Another node may have stored the same output meanwhile, and the database may list it."""
    objects = MemoryObjects()
    node, other = (BucketStore(objects, "memory", fence=Contact(10.0)) for _ in range(2))
    await other.put(f"{TOKEN}.jpg", b"output")
    late = asyncio.create_task(node.put(f"{TOKEN}.jpg", b"output"))
    await asyncio.sleep(0)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert await other.read(f"{TOKEN}.jpg", 0, 10) == b"output"
    await node.close()
    await other.close()


# --- joining --------------------------------------------------------------------------------------


def config(tmp_path: Path, **sections: dict[str, object]) -> Config:
    return Config.model_validate({"storage": {"data_dir": tmp_path}, **sections})


async def executor_of(config: Config) -> None:
    create_executor(
        config,
        None,  # type: ignore[arg-type]
        MemoryStore(),
        Metrics(),
        Replacements(),
        sample=Sample(b""),
    )


async def test_coordinator_needs_a_bucket_and_certificates(tmp_path: Path) -> None:
    cluster: dict[str, object] = {"listen": "tls://127.0.0.1:0", "certificates": tmp_path}
    with pytest.raises(StartupError, match="needs storage"):
        await executor_of(config(tmp_path, cluster=cluster))
    storage: dict[str, object] = {"data_dir": tmp_path, "bucket": "s3://images"}
    with pytest.raises(StartupError, match="imgsvc cluster certs"):
        await executor_of(config(tmp_path, cluster=cluster, storage=storage))
    write_certificates(tmp_path, [], renew=False)
    await executor_of(config(tmp_path, cluster=cluster, storage=storage))


@asynccontextmanager
async def listening(security: Security, listen: str) -> AsyncIterator[str]:
    membership = DaskMembership(listen, security, WELCOME, metrics=Metrics())
    await membership.start(Cluster().executor)
    try:
        yield membership.address
    finally:
        await membership.close()


async def test_node_of_another_version_is_refused_by_name() -> None:
    versions = await own_versions()
    async with listening(Security(), "tcp://127.0.0.1:0") as address:

        async def ask(versions: dict[str, str]) -> Welcome | Refusal:
            request = JoinRequest("node", versions)
            return await ask_to_join(address, Security(), request, ClusterLimits())

        assert await ask(versions) == WELCOME
        refusal = await ask({**versions, "pillow": "1.0"})
        assert isinstance(refusal, Refusal)
        assert f"pillow {versions['pillow']}, the node has 1.0" in refusal.reason


async def test_only_certificates_of_the_own_authority_are_accepted(tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    for folder in (own, foreign):
        write_certificates(folder, ["a"], renew=False)
    request = JoinRequest("node", await own_versions())
    async with listening(load_security(own), "tls://127.0.0.1:0") as address:
        node = load_security(own / "nodes" / "a")
        assert await ask_to_join(address, node, request, ClusterLimits()) == WELCOME
        with pytest.raises(OSError, match="comm"):
            await ask_to_join(
                address, load_security(foreign / "nodes" / "a"), request, ClusterLimits()
            )


def test_certificates_are_kept_until_they_are_renewed(tmp_path: Path) -> None:
    node, coordinator = tmp_path / "nodes" / "a", tmp_path
    assert write_certificates(tmp_path, ["a"], renew=False) == [coordinator, node]
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert write_certificates(tmp_path, ["a"], renew=False) == []
    assert write_certificates(tmp_path, [], renew=True) == [coordinator, node]
    changed = {path.name for path, data in first.items() if path.read_bytes() != data}
    assert changed == {"node.pem"}
    assert {path.stat().st_mode & 0o777 for path in first} == {0o600}
    assert sorted(path.name for path in node.iterdir()) == ["ca.pem", "node.pem"]
    with pytest.raises(StartupError, match="not a name"):
        write_certificates(tmp_path, ["../a"], renew=False)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(StartupError, match="on the coordinator"):
        write_certificates(tmp_path, ["b"], renew=False)


def test_differences_name_each_version() -> None:
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == ""
    assert differences({"a": "1"}, {"a": "2"}) == "a 1, the node has 2"
    assert differences({"a": "1"}, {}) == "a 1, the node has none"


def test_messages_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError):
        decode(b"\x80\x04K\x01.", Report)
    assert NodeStatus().workers == 0
