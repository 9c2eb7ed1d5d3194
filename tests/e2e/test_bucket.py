"""The service with a bucket, on servers with the S3 API that run here: see tests/s3_servers.py."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.conftest import StartService
from tests.origin import ROOT, Origin, Reply
from tests.s3_servers import (
    BUCKET,
    ENVIRON,
    FailingProxy,
    S3Server,
    running_rclone,
)
from tests.service_process import Service, stored_name, table
from tests.waiting import block_until

pytestmark = [pytest.mark.external, pytest.mark.timeout(600)]

URL = f"s3://{BUCKET}/shop/one"
OTHER_OBJECTS = {"shop/one/imgsvc.json", "shop/one/imgsvc-probe"}


@pytest.fixture
def moto(moto_server: S3Server) -> Iterator[S3Server]:
    """Provide a server whose bucket is empty."""
    yield moto_server
    for key in moto_server.list_keys():
        moto_server.call("DELETE", f"{BUCKET}/{key}")


@pytest.fixture
def proxy(moto: S3Server) -> Iterator[FailingProxy]:
    proxy = FailingProxy(moto)
    yield proxy
    proxy.close()


def settings(endpoint: str, **storage: object) -> dict[str, Any]:
    keys = {"bucket": URL, "endpoint": endpoint, "min_free_bytes": 0, **storage}
    return {"storage": keys, "environ": dict(ENVIRON)}


def photos(origin: Origin, count: int, held: int = 0) -> bytes:
    """Return a table of photographs. The last `held` of them wait at the origin for the gate `held`."""
    urls = [
        origin.photo(number)
        if number < count - held
        else origin.script(f"/held/{number}.jpg", Reply(photo=f"/photo/{number}.jpg", gate="held"))
        for number in range(count)
    ]
    return table((number, f"Product {number}", url) for number, url in enumerate(urls))


def output_urls(status: Any) -> list[str]:
    return [image["outputUrl"] for product in status["products"] for image in product["images"]]


def recorded_keys(service: Service) -> set[str]:
    with closing(sqlite3.connect(service.data_dir / "imgsvc.db")) as database:
        names = {name for (name,) in database.execute("SELECT name FROM files")}
    return {f"shop/one/{name[:2]}/{name}" for name in names}


def check_complete(service: Service, server: S3Server, request_id: str) -> None:
    """Assert that all images are completed, and that the objects are exactly their outputs."""
    status = service.status(request_id)
    assert status["progress"]["completed"] == status["progress"]["total"]
    for product in status["products"]:
        for image in product["images"]:
            assert len(service.get(image["outputUrl"]).body) == image["outputBytes"]
    assert server.list_keys() - OTHER_OBJECTS == recorded_keys(service)


def run(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = str(service.folder / "config.toml")
    return subprocess.run(
        [sys.executable, "-P", "-m", "imgsvc", *arguments, "--config", config],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **ENVIRON},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_service_stores_serves_checks_and_deletes_in_a_bucket(
    start_service: StartService, origin: Origin, moto: S3Server, tmp_path: Path
) -> None:
    service = start_service(**settings(moto.url))
    status = service.finished(service.upload(photos(origin, 8)))
    check_complete(service, moto, status["requestId"])
    outputs = service.data_dir / "outputs"
    assert not [path for path in outputs.rglob("*") if path.is_file()]
    url = output_urls(status)[0]
    whole = service.get(url)
    assert whole.headers["Content-Type"] == "image/jpeg"
    assert "immutable" in whole.headers["Cache-Control"]
    part = service.get(url, {"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, whole.body[10:20])
    assert service.get(url, {"If-None-Match": whole.headers["ETag"]}).status == 304
    assert service.call("HEAD", url).headers["Content-Length"] == str(len(whole.body))
    assert service.get(f"/downloadImages/{status['requestId']}").status == 200

    assert run(service, "check").returncode == 0
    copy = tmp_path / "backup"
    assert run(service, "backup", str(copy)).returncode == 0
    listed = {f"shop/one/{line}" for line in (copy / "outputs.txt").read_text().splitlines()}
    assert listed == recorded_keys(service)

    assert service.call("DELETE", f"/deleteRequest/{status['requestId']}").status in {200, 204}
    block_until(lambda: moto.list_keys() <= OTHER_OBJECTS, "the objects to be deleted")
    assert service.stop() == 0


def test_check_repairs_missing_damaged_and_unused_objects(
    start_service: StartService, origin: Origin, moto: S3Server
) -> None:
    service = start_service(**settings(moto.url))
    status = service.finished(service.upload(photos(origin, 3)))
    missing, damaged, _ = [stored_name(url) for url in output_urls(status)]
    unused = f"{'ab' * 16}.jpg"
    moto.call("DELETE", f"{BUCKET}/shop/one/{missing[:2]}/{missing}")
    moto.call("PUT", f"{BUCKET}/shop/one/{damaged[:2]}/{damaged}", b"damaged")
    moto.call("PUT", f"{BUCKET}/shop/one/ab/{unused}", b"unused")
    found = run(service, "check")
    assert found.returncode == 1, found.stderr
    assert set(found.stdout.splitlines()) == {
        f"missing: {missing}",
        f"damaged: {damaged}",
        f"without an image: {unused}",
    }
    assert service.stop() == 0
    assert run(service, "check", "--repair").returncode == 0
    service.restart()
    assert service.post(f"/retryFailed/{status['requestId']}").status == 202
    service.finished(status["requestId"])
    check_complete(service, moto, status["requestId"])


def test_redirect_sends_clients_to_a_presigned_url(
    start_service: StartService, origin: Origin, moto: S3Server
) -> None:
    service = start_service(**settings(moto.url, redirect=True))
    status = service.finished(service.upload(photos(origin, 1)))

    class KeepRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    (url,) = output_urls(status)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(KeepRedirect).open(url, timeout=30)
    with caught.value as response:
        assert response.code == 302
        assert response.headers["Cache-Control"] == "private, max-age=60"
        assert "ETag" not in response.headers
        location = response.headers["Location"]
    assert "X-Amz-Signature=" in location
    assert ENVIRON["AWS_SECRET_ACCESS_KEY"] not in location
    with urllib.request.urlopen(location, timeout=30) as response:
        assert response.headers["Content-Type"] == "image/jpeg"
        assert "immutable" in response.headers["Cache-Control"]
        assert len(response.read()) == status["products"][0]["images"][0]["outputBytes"]


def test_public_url_is_the_start_of_output_urls_and_leads_to_the_objects(
    start_service: StartService, origin: Origin, moto: S3Server
) -> None:
    public = f"{moto.url}/{BUCKET}/shop/one"
    service = start_service(**settings(moto.url, public_url=public))
    status = service.finished(service.upload(photos(origin, 2)))
    for url in output_urls(status):
        assert url.startswith(f"{public}/")
        assert len(urlsplit(url).path.split("/")[-2]) == 2
        assert moto.call("GET", urlsplit(url).path[1:])[:2] == b"\xff\xd8"
    csv = service.get(f"/checkStatus/{status['requestId']}").body.decode()
    assert all(url in csv for url in output_urls(status))


# --- the claim ------------------------------------------------------------------------------------


def start_error(folder: Path, endpoint: str, **environ: str) -> str:
    """Start a service that must refuse to start. Return its message."""
    folder.mkdir(exist_ok=True)
    process = subprocess.run(
        [sys.executable, "-P", "-m", "imgsvc", "serve", "--port", "0", "--data-dir", "data"],
        cwd=folder,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": os.environ["PATH"],
            "IMGSVC_STORAGE__BUCKET": URL,
            "IMGSVC_STORAGE__ENDPOINT": endpoint,
            **ENVIRON,
            **environ,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    return process.stderr


def test_new_database_and_copied_folder_cannot_use_a_claimed_bucket(
    start_service: StartService, origin: Origin, moto: S3Server, tmp_path: Path
) -> None:
    first = start_service(**settings(moto.url))
    first.finished(first.upload(photos(origin, 1)))
    assert "belongs to another database" in start_error(tmp_path / "new", moto.url)
    copy = tmp_path / "copy"
    assert run(first, "backup", str(copy / "data")).returncode == 0
    second = start_service(folder=copy, **settings(moto.url))
    assert first.process is not None
    assert first.process.wait(60) == 1  # it checks the claim every 30 s
    assert "Another instance has claimed" in first.log()
    second.finished(second.upload(photos(origin, 2)))
    moto.call("DELETE", f"{BUCKET}/shop/one/imgsvc.json")
    assert second.stop() == 0
    assert "contains images, but the database is new" in start_error(tmp_path / "new", moto.url)
    second.restart()


# --- outages --------------------------------------------------------------------------------------


def test_bucket_that_answers_503_costs_waiting_and_no_image(
    start_service: StartService, origin: Origin, moto: S3Server, proxy: FailingProxy
) -> None:
    service = start_service(**settings(proxy.url))
    request_id = service.upload(photos(origin, 60, held=40))
    block_until(lambda: len(proxy.puts) > 5, "the first outputs")
    proxy.status = 503
    origin.open_gate("held")
    block_until(lambda: not service.is_ready(), "the service to detect the outage")
    assert "503" in service.get("/health/ready").body.decode()
    refused = service.post("/processImages", photos(origin, 1))
    assert refused.status == 503
    assert "Retry-After" in refused.headers
    failed = proxy.failed
    block_until(lambda: proxy.failed > failed + 2, "more probes")
    proxy.status = 0
    service.finished(request_id)
    check_complete(service, moto, request_id)
    assert origin.hits() == 60  # outputs have waited in memory
    assert service.is_ready()


def test_sigterm_in_an_outage_exits_with_0_and_loses_no_image(
    start_service: StartService, origin: Origin, moto: S3Server, proxy: FailingProxy
) -> None:
    service = start_service(**settings(proxy.url))
    request_id = service.upload(photos(origin, 30, held=20))
    block_until(lambda: len(proxy.puts) > 5, "the first outputs")
    proxy.status = 503
    origin.open_gate("held")
    block_until(lambda: not service.is_ready(), "the service to detect the outage")
    assert service.stop() == 0
    proxy.status = 0
    service.restart()
    service.finished(request_id)
    block_until(lambda: moto.list_keys() - OTHER_OBJECTS == recorded_keys(service), "cleanup")
    check_complete(service, moto, request_id)


def test_server_that_stops_for_8_seconds_costs_waiting_and_no_image(
    start_service: StartService, origin: Origin, moto: S3Server
) -> None:
    service = start_service(**settings(moto.url))
    request_id = service.upload(photos(origin, 60))
    block_until(lambda: service.status(request_id)["progress"]["completed"] > 5, "outputs")
    moto.process.send_signal(signal.SIGSTOP)
    time.sleep(8)
    moto.process.send_signal(signal.SIGCONT)
    service.finished(request_id)
    check_complete(service, moto, request_id)
    assert origin.hits() == 60


def test_kill_during_puts_leaves_rows_and_objects_equal(
    start_service: StartService, origin: Origin, moto: S3Server
) -> None:
    service = start_service(**settings(moto.url))
    request_id = service.upload(photos(origin, 60))
    block_until(lambda: service.status(request_id)["progress"]["completed"] > 5, "outputs")
    service.kill()
    service.restart()
    service.finished(request_id)
    block_until(
        lambda: moto.list_keys() - OTHER_OBJECTS == recorded_keys(service),
        "unused objects to go",
        60,
    )
    check_complete(service, moto, request_id)


# --- signatures -----------------------------------------------------------------------------------


def test_signatures_are_right_and_a_wrong_secret_is_refused(
    start_service: StartService, origin: Origin, tmp_path: Path
) -> None:
    with running_rclone(tmp_path / "rclone") as server:
        error = start_error(tmp_path / "wrong", server.url, AWS_SECRET_ACCESS_KEY="wrong")
        assert "denies access" in error
        assert "wrong" not in error
        service = start_service(**settings(server.url))
        status = service.finished(service.upload(photos(origin, 3)))
        folder = tmp_path / "rclone" / BUCKET / "shop" / "one"
        for name in map(stored_name, output_urls(status)):
            assert (folder / name[:2] / name).read_bytes()[:2] == b"\xff\xd8"
        assert service.stop() == 0


def test_missing_bucket_stops_the_start(moto: S3Server, tmp_path: Path) -> None:
    error = start_error(tmp_path / "new", moto.url, IMGSVC_STORAGE__BUCKET="s3://missing/x")
    assert "s3://missing/x: the bucket does not exist" in error


def test_demo_runs_with_a_bucket_and_deletes_its_outputs(moto: S3Server) -> None:
    process = subprocess.run(
        [sys.executable, "-P", "-m", "imgsvc", "demo", "--bucket", URL, "--endpoint", moto.url],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **ENVIRON},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert {key.rpartition("/")[2] for key in moto.list_keys()} <= {"imgsvc.json", "imgsvc-probe"}


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_sigterm_while_a_bucket_is_in_use_exits_with_0(
    start_service: StartService, origin: Origin, moto: S3Server, delay: float
) -> None:
    """Threads of obstore can abort the interpreter while it ends."""
    service = start_service(**settings(moto.url))
    service.upload(photos(origin, 6))
    time.sleep(delay)
    assert service.stop() == 0


def test_workers_do_not_inherit_credentials(
    start_service: StartService, origin: Origin, moto: S3Server
) -> None:
    service = start_service(**settings(moto.url))
    service.finished(service.upload(photos(origin, 1)))
    assert service.process is not None
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert children
    for child in children:
        environ = Path(f"/proc/{child.pid}/environ").read_bytes()
        assert b"AWS_" not in environ
        assert ENVIRON["AWS_SECRET_ACCESS_KEY"].encode() not in environ


def test_process_stores_in_its_folder_although_a_bucket_is_set(
    origin: Origin, moto: S3Server, tmp_path: Path
) -> None:
    (tmp_path / "products.csv").write_bytes(photos(origin, 2))
    process = subprocess.run(
        [sys.executable, "-P", "-m", "imgsvc", "process", "products.csv", "-o", "out.csv"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": os.environ["PATH"],
            "IMGSVC_STORAGE__BUCKET": URL,
            "IMGSVC_STORAGE__ENDPOINT": moto.url,
            "IMGSVC_STORAGE__PUBLIC_URL": "https://cdn.example",
            "IMGSVC_FETCH__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert len(list((tmp_path / "out.images").rglob("*.jpg"))) == 2
    assert moto.list_keys() == set()
