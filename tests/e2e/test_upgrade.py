"""Tests that this release opens data folders of version 1.0.0 without loss.

tests/upgrade/make_data_folder.py created the folders and documents their content.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.harness.audit import audit
from tests.origin import Origin, Reply
from tests.service_process import Service
from tests.upgrade.data_folder import (
    PUBLIC_URL,
    DataFolder,
    contains_text,
    serve_sources,
    settings_for,
    unpack,
)
from tests.waiting import block_until

VERSIONS = ("1.0.0-schema-1", "1.0.0-schema-2")
"""Folders in tests/upgrade/: from the release, and with its last schema before tables were renamed."""


@pytest.fixture(params=VERSIONS)
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> DataFolder:
    """Unpack the data folder into the folder in which `open_folder` starts a service."""
    (tmp_path / "service").mkdir()
    return unpack(request.param, tmp_path / "service" / "data")


def open_folder(start_service: StartService, origin: Origin, folder: DataFolder) -> Service:
    """Start a service on the folder, with an origin that can now serve every image."""
    serve_sources(origin, folder.expected["sources"])
    webhook = {"timeout_seconds": 90}
    return start_service(folder=folder.path.parent, webhook=webhook, **settings_for(origin))


def accept_webhooks(origin: Origin, folder: DataFolder) -> None:
    for url in folder.expected["webhooks"].values():
        origin.script(url, Reply(body=b""))


def images_of(status: Any) -> list[Any]:
    return [image for product in status["products"] for image in product["images"]]


def includes(value: Any, old: Any) -> bool:
    """Return whether a JSON value is the old one, apart from new keys of its objects."""
    if isinstance(old, dict):
        return old.keys() <= value.keys() and all(includes(value[k], old[k]) for k in old)
    if isinstance(old, list):
        return len(value) == len(old) and all(map(includes, value, old))
    return bool(value == old)


def output_paths(status: Any) -> list[str]:
    """Return the paths of the outputs in a request's status, without the public URL."""
    urls = [image["outputUrl"] for image in images_of(status)]
    return [url.removeprefix(PUBLIC_URL) for url in urls if url is not None]


def digests(service: Service, paths: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of the service's response body for each path."""
    found = {}
    for path in paths:
        response = service.get(path)
        assert response.status == 200, path
        found[path] = hashlib.sha256(response.body).hexdigest()
    return found


def all_statuses(service: Service) -> list[Any]:
    requests = service.get("/listRequests").json()["requests"]
    return [service.status(request["requestId"]) for request in requests]


def wait_for_webhook(service: Service, request_id: str) -> None:
    def is_delivered() -> bool:
        return bool(service.status(request_id)["webhook"]["status"] == "delivered")

    block_until(is_delivered, f"the webhook of {request_id}", 30)


def wait_until_removed(folder: DataFolder, text: str) -> None:
    block_until(lambda: not contains_text(folder.database, text), f"{text!r} to be removed", 30)


def check_files(service: Service, folder: DataFolder) -> None:
    """Check that each stored file is the output of an image, and that each output is stored once."""
    paths = [path for status in all_statuses(service) for path in output_paths(status)]
    stored = [hashlib.sha256((folder.path / f).read_bytes()).hexdigest() for f in folder.files()]
    assert sorted(stored) == sorted(set(digests(service, paths).values()))


def check_database(service: Service, folder: DataFolder) -> None:
    """Stop the service, and check the consistency of its database."""
    assert service.stop() == 0
    with closing(sqlite3.connect(folder.database)) as connection:
        audit(connection)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_service_returns_same_responses_when_started_on_old_folder(
    start_service: StartService, origin: Origin, folder: DataFolder
) -> None:
    expected = folder.expected
    for url in expected["webhooks"].values():
        # The webhook's state cannot change before the receiver responds.
        origin.script(url, Reply(gate="receiver", body=b""))
    service = open_folder(start_service, origin, folder)
    for request in expected["finished"].values():
        request_id = request["json"]["requestId"]
        status = service.status(request_id)
        assert includes(status, request["json"])
        assert all(image["notes"] == [] for image in images_of(status))
        assert (status["name"], status["layout"], status["skipped"]) == (None, None, 0)
        in_input_layout = service.get(f"/checkStatus/{request_id}?layout=input")
        assert in_input_layout.status == 409
        assert in_input_layout.json()["type"] == "urn:imgsvc:problem:not-available"
        csv = service.get(f"/checkStatus/{request_id}?format=csv")
        assert csv.body.decode() == request["csv"]
    finished = {request["requestId"] for request in expected["list"]}
    unfinished = {request["requestId"] for request in expected["unfinished"].values()}
    listed = service.get("/listRequests").json()["requests"]
    assert includes([each for each in listed if each["requestId"] in finished], expected["list"])
    assert {each["requestId"] for each in listed} == finished | unfinished
    assert digests(service, expected["outputs"]) == expected["outputs"]
    for request in expected["finished"].values():
        request_id = request["json"]["requestId"]
        repeated = service.post(f"/repeatRequest/{request_id}")
        assert repeated.status == 201
        assert repeated.json()["images"] == request["json"]["progress"]["total"]
    origin.open_gate("receiver")


def test_service_finishes_old_requests_when_started_on_old_folder(
    start_service: StartService, origin: Origin, folder: DataFolder
) -> None:
    expected = folder.expected
    before = expected["unfinished"]
    accept_webhooks(origin, folder)
    service = open_folder(start_service, origin, folder)

    half_done = service.finished(before["half_done"]["requestId"])
    assert half_done["status"] == "completed"
    images, images_before = images_of(half_done), images_of(before["half_done"])
    assert [i["inputUrl"] for i in images] == [i["inputUrl"] for i in images_before]
    # An attempt that the kill interrupted does not count. The attempt that failed before it counts.
    attempts = [i["attempts"] + (i["status"] != "completed") for i in images_before]
    assert [i["attempts"] for i in images] == attempts
    assert set(output_paths(before["half_done"])) < set(output_paths(half_done))
    assert len(set(output_paths(half_done))) == len({image["inputUrl"] for image in images})

    cancelling = service.finished(before["cancelling"]["requestId"])
    assert cancelling["status"] == "cancelled"
    progress = cancelling["progress"]
    assert (progress["completed"], progress["cancelled"]) == (1, progress["total"] - 1)
    assert output_paths(cancelling) == output_paths(before["cancelling"])

    finished = {name: each["json"] for name, each in expected["finished"].items()}
    for name, url in expected["webhooks"].items():
        request_id = (finished.get(name) or before[name])["requestId"]
        wait_for_webhook(service, request_id)
        (webhook,) = origin.seen(url)
        body = json.loads(webhook.body)
        assert (body["type"], body["requestId"]) == ("request.finished", request_id)
        assert body["status"] == "completed"
    for name in ("delivered", "refused"):
        assert origin.hits(finished[name]["webhook"]["url"]) == 0

    assert digests(service, expected["outputs"]) == expected["outputs"]
    leftovers = set(expected["removed"]["files"])
    block_until(lambda: not folder.files() & leftovers, "the leftovers to be removed", 30)
    check_files(service, folder)
    check_database(service, folder)


def test_service_removes_leftovers_when_started_on_old_folder(
    start_service: StartService, origin: Origin, folder: DataFolder
) -> None:
    removed = folder.expected["removed"]
    assert set(removed["files"]) <= folder.files()
    accept_webhooks(origin, folder)
    service = open_folder(start_service, origin, folder)
    for request in folder.expected["unfinished"].values():
        service.finished(request["requestId"])
    for text in removed["texts"]:
        wait_until_removed(folder, text)
    assert not folder.files() & set(removed["files"])
    for request_id in removed["requests"]:
        assert service.get(f"/checkStatus/{request_id}").status == 404
    check_files(service, folder)
    check_database(service, folder)


def test_old_requests_can_be_replayed_retried_and_deleted_when_opened(
    start_service: StartService, origin: Origin, folder: DataFolder
) -> None:
    expected = folder.expected
    finished = {name: each["json"] for name, each in expected["finished"].items()}
    accept_webhooks(origin, folder)
    service = open_folder(start_service, origin, folder)
    for request in expected["unfinished"].values():
        service.finished(request["requestId"])

    replay = expected["replay"]
    upload = f"/processImages{replay['query']}", replay["body"].encode()
    headers = {"Idempotency-Key": replay["key"]}
    response = service.post(*upload, headers)
    assert (response.status, response.headers["Idempotent-Replayed"]) == (201, "true")
    assert response.json()["requestId"] == finished[replay["request"]]["requestId"]

    partial = finished["partial"]
    assert service.post(f"/retryFailed/{partial['requestId']}").status == 202
    retried = service.finished(partial["requestId"])
    assert (retried["status"], retried["failures"]) == ("completed", [])
    assert set(output_paths(partial)) < set(output_paths(retried))
    assert digests(service, expected["outputs"]) == expected["outputs"]

    # Files that another request uses too stay until the last of these requests is deleted.
    deleted = output_paths(finished["completed"])
    request_id = finished["completed"]["requestId"]
    assert service.call("DELETE", f"/deleteRequest/{request_id}").status == 204
    assert [service.get(path).status for path in deleted] == [404] * len(deleted)
    kept = {path: digest for path, digest in expected["outputs"].items() if path not in deleted}
    assert digests(service, kept) == kept
    check_files(service, folder)

    # Deleting all requests deletes all files, and the Idempotency-Key can be used again.
    for status in all_statuses(service):
        assert service.call("DELETE", f"/deleteRequest/{status['requestId']}").status == 204
    assert folder.files() == set()
    response = service.post(*upload, headers)
    assert (response.status, response.headers["Idempotent-Replayed"]) == (201, None)
    assert service.finished(response.json()["requestId"])["status"] == "completed"
    check_files(service, folder)
    check_database(service, folder)
