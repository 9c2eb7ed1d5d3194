"""A coordinator and nodes, each a process of its own, with a bucket on a server that runs here."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import StartService
from tests.node_process import Node, metric, wait_for_nodes
from tests.origin import ROOT, Origin, Reply
from tests.s3_servers import BUCKET, ENVIRON, S3Server, free_port
from tests.service_process import Service, table
from tests.waiting import block_until

pytestmark = [pytest.mark.external, pytest.mark.timeout(600)]

IMGSVC = [sys.executable, "-P", "-m", "imgsvc"]
PREFIX = "cluster"
StartNode = Callable[..., Node]


@pytest.fixture
def moto(moto_server: S3Server) -> Iterator[S3Server]:
    """Provide a server whose bucket is empty."""
    yield moto_server
    for key in moto_server.list_keys():
        moto_server.call("DELETE", f"{BUCKET}/{key}")


def certs(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [*IMGSVC, "cluster", "certs", *arguments, "--certificates", str(folder / "cluster")],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        timeout=120,
    )


@pytest.fixture
def coordinator(start_service: StartService, moto: S3Server, tmp_path: Path) -> Service:
    """Provide a coordinator that processes no images itself."""
    folder = tmp_path / "coordinator"
    folder.mkdir()
    certs(folder, "a", "b", "c", "d")
    return start_service(
        folder=folder,
        environ=dict(ENVIRON),
        cluster={"listen": f"tls://127.0.0.1:{free_port()}", "local_node": False},
        storage={"bucket": f"s3://{BUCKET}/{PREFIX}", "endpoint": moto.url, "min_free_bytes": 0},
    )


@pytest.fixture
def start_node(coordinator: Service) -> Iterator[StartNode]:
    """Provide a function that starts a node: `start_node("a")`."""
    started: list[Node] = []

    def start(name: str, *arguments: str) -> Node:
        address = str(coordinator.settings["cluster"]["listen"])
        node = Node(name, address, coordinator.folder, ENVIRON, *arguments)
        started.append(node)
        return node

    yield start
    for node in started:
        node.close()
        print(f"--- the log of node {node.name}\n{node.log()[-10_000:]}")


def photos(origin: Origin, count: int, delay: float = 0.0) -> bytes:
    urls = [
        origin.script(f"/slow/{n}.jpg", Reply(photo=f"/photo/{n}.jpg", delay=delay))
        if delay
        else origin.photo(n)
        for n in range(count)
    ]
    return table((n, f"Product {n}", url) for n, url in enumerate(urls))


def outputs(server: S3Server) -> set[str]:
    return {key.rpartition("/")[2] for key in server.list_keys() if key.count("/") == 2}


def recorded(service: Service) -> set[str]:
    with closing(sqlite3.connect(service.data_dir / "imgsvc.db")) as database:
        return {name for (name,) in database.execute("SELECT name FROM files")}


def check_complete(service: Service, server: S3Server, status: Any) -> None:
    """Assert that all images are completed at the first attempt, and that each has a whole output."""
    images = [image for product in status["products"] for image in product["images"]]
    assert {(image["status"], image["attempts"]) for image in images} == {("completed", 1)}
    for image in images:
        assert len(service.get(image["outputUrl"]).body) == image["outputBytes"]
    assert recorded(service) <= outputs(server)


def test_each_node_has_a_share_and_the_sum_is_complete(
    coordinator: Service, start_node: StartNode, origin: Origin, moto: S3Server
) -> None:
    assert coordinator.get("/health/ready").status == 200
    for name in "abcd":
        start_node(name)
    wait_for_nodes(coordinator, *"abcd")
    status = coordinator.finished(coordinator.upload(photos(origin, 80)))
    check_complete(coordinator, moto, status)
    assert outputs(moto) == recorded(coordinator)
    shares = [metric(coordinator, "imgsvc_node_images_total", name) for name in "abcd"]
    assert sum(shares) == 80
    assert all(share >= 5 for share in shares)
    assert origin.hits() == 80
    assert coordinator.stop() == 0


def completed_paths(status: Any) -> list[str]:
    """Return the paths of the sources of completed images."""
    images = [image for product in status["products"] for image in product["images"]]
    return [urlsplit(image["inputUrl"]).path for image in images if image["status"] == "completed"]


def wait_for_completed(service: Service, request_id: str, count: int) -> list[str]:
    """Wait until `count` images are completed. Return the paths of their sources."""

    def progress() -> int:
        progress = service.status(request_id, "?products=false")["progress"]
        assert progress["pending"] + progress["processing"], "the request has finished too early"
        return int(progress["completed"])

    block_until(lambda: progress() >= count, f"{count} completed images", 60)
    return completed_paths(service.status(request_id))


def test_killed_node_costs_no_image_and_no_attempt(
    coordinator: Service, start_node: StartNode, origin: Origin, moto: S3Server
) -> None:
    killed, _ = start_node("a"), start_node("b")
    wait_for_nodes(coordinator, "a", "b")
    request_id = coordinator.upload(photos(origin, 60, 0.3))
    done = wait_for_completed(coordinator, request_id, 5)
    killed.send(signal.SIGKILL)
    status = coordinator.finished(request_id)
    check_complete(coordinator, moto, status)
    assert outputs(moto) == recorded(coordinator)
    assert all(origin.hits(path) == 1 for path in done)
    assert metric(coordinator, "imgsvc_nodes_lost_total") == 1
    wait_for_nodes(coordinator, "b")


def test_stopped_node_is_lost_and_joins_again_when_it_continues(
    coordinator: Service, start_node: StartNode, origin: Origin, moto: S3Server
) -> None:
    stopped, _ = start_node("a"), start_node("b")
    wait_for_nodes(coordinator, "a", "b")
    request_id = coordinator.upload(photos(origin, 60, 0.3))
    wait_for_completed(coordinator, request_id, 5)
    stopped.send(signal.SIGSTOP)
    check_complete(coordinator, moto, coordinator.finished(request_id))
    wait_for_nodes(coordinator, "b")
    stopped.send(signal.SIGCONT)
    wait_for_nodes(coordinator, "a", "b")
    assert outputs(moto) == recorded(coordinator)
    status = coordinator.finished(coordinator.upload(photos(origin, 80)))
    check_complete(coordinator, moto, status)


def test_terminated_node_finishes_its_images_and_exits_with_0(
    coordinator: Service, start_node: StartNode, origin: Origin, moto: S3Server
) -> None:
    terminated, _ = start_node("a"), start_node("b")
    wait_for_nodes(coordinator, "a", "b")
    request_id = coordinator.upload(photos(origin, 60, 0.3))
    wait_for_completed(coordinator, request_id, 5)
    terminated.send(signal.SIGTERM)
    assert terminated.wait_exit() == 0, terminated.log()
    status = coordinator.finished(request_id)
    check_complete(coordinator, moto, status)
    assert origin.hits() == 60
    assert metric(coordinator, "imgsvc_nodes_lost_total") == 0


def test_nodes_join_again_after_the_coordinator_was_killed(
    coordinator: Service, start_node: StartNode, origin: Origin, moto: S3Server
) -> None:
    nodes = [start_node("a"), start_node("b")]
    wait_for_nodes(coordinator, "a", "b")
    request_id = coordinator.upload(photos(origin, 60, 0.3))
    done = wait_for_completed(coordinator, request_id, 5)
    coordinator.kill()
    coordinator.restart()
    status = coordinator.finished(request_id)
    check_complete(coordinator, moto, status)
    assert outputs(moto) == recorded(coordinator)
    assert all(origin.hits(path) == 1 for path in done)
    assert [node.process.poll() for node in nodes] == [None, None]


def test_downloads_of_all_nodes_from_one_host_stay_within_its_limit(
    coordinator: Service, start_node: StartNode, origin: Origin, moto: S3Server
) -> None:
    assert coordinator.stop() == 0
    coordinator.settings["fetch"]["per_host"] = 4
    coordinator.restart()
    for name in "abc":
        start_node(name)
    wait_for_nodes(coordinator, *"abc")
    coordinator.finished(coordinator.upload(photos(origin, 60, 0.1)))
    assert origin.peak() == 4


def test_certificate_of_another_authority_is_refused(
    coordinator: Service, start_node: StartNode, tmp_path: Path
) -> None:
    certs(tmp_path, "a")
    foreign = tmp_path / "cluster" / "nodes" / "a" / "node.pem"
    own = coordinator.folder / "cluster" / "nodes" / "a" / "node.pem"
    own.write_bytes(foreign.read_bytes())
    node = start_node("a")
    assert node.wait_exit() == 1
    assert "The certificate was refused" in node.log()
    assert metric(coordinator, "imgsvc_node_workers", "a") == 0
    certs(coordinator.folder, "a", "--renew")
    start_node("a")
    wait_for_nodes(coordinator, "a")
