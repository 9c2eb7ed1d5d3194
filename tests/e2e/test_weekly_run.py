"""The weekly run: a catalogue is uploaded again, and only what has changed is done again."""

from __future__ import annotations

import random
import time
from typing import Any

from tests import sample_images
from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, stored_name, table
from tests.waiting import block_until

COUNT = 30


def serve(origin: Origin, number: int, version: int = 0) -> str:
    """Serve a version of an image with an ETag. Return its URL."""
    body = sample_images.encoded(number + 100 * version)
    headers = {"Content-Type": "image/jpeg", "ETag": f'"{number}-{version}"'}
    return origin.script(f"/{number}.jpg", Reply(headers=headers, body=body))


def catalogue(origin: Origin, *, changed: frozenset[int] = frozenset()) -> bytes:
    """Return a table of `COUNT` images."""
    urls = [serve(origin, n, version=int(n in changed)) for n in range(COUNT)]
    return table([(n, f"Product {n}", url) for n, url in enumerate(urls)])


def outputs(status: Any) -> list[str]:
    return [image["outputUrl"] for product in status["products"] for image in product["images"]]


def stored(service: Service) -> set[str]:
    return {p.name for p in (service.data_dir / "outputs").rglob("*") if p.is_file()}


def test_weekly_run_downloads_only_changed_images_and_keeps_their_urls(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    first = service.upload(catalogue(origin))
    before = service.finished(first)
    second = service.upload(catalogue(origin))
    after = service.finished(second)
    assert after["progress"]["reused"] == {
        "downloaded": 0,
        "notModified": COUNT,
        "sameBytes": 0,
        "sameUrl": 0,
    }
    response = service.get(f"/checkStatus/{second}")
    assert response.headers["X-Reused"] == (
        f"downloaded=0, notModified={COUNT}, sameBytes=0, sameUrl=0"
    )
    assert outputs(after) == outputs(before)

    changed = frozenset({3, 7})
    third = service.finished(service.upload(catalogue(origin, changed=changed)))
    assert third["progress"]["reused"]["downloaded"] == len(changed)
    pairs = zip(outputs(third), outputs(before), strict=True)
    assert {n for n, (new, old) in enumerate(pairs) if new != old} == changed

    assert service.call("DELETE", f"/deleteRequest/{first}").status == 204
    assert {service.get(url).status for url in [*outputs(before), *outputs(third)]} == {200}
    for request_id in (second, third["requestId"]):
        assert service.call("DELETE", f"/deleteRequest/{request_id}").status == 204
    assert stored(service) == set()
    again = service.finished(service.upload(catalogue(origin)))
    assert outputs(again) == outputs(before)


def test_outputs_survive_kills_while_their_requests_are_deleted_and_repeated(
    start_service: StartService, origin: Origin
) -> None:
    """Every round uploads the catalogue, deletes the last request, and kills the service."""
    service = start_service(storage={"min_free_bytes": 0})
    body = catalogue(origin)
    chance = random.Random(5)
    request_id = service.upload(body)
    for _ in range(6):
        service.finished(request_id)
        following = service.upload(body)
        if chance.random() < 0.5:
            service.finished(following)
        assert service.call("DELETE", f"/deleteRequest/{request_id}").status in {204, 409}
        time.sleep(chance.random() / 5)  # only spreads the kills over time
        service.kill()
        service.restart()
        request_id = following
    status = service.finished(request_id)
    assert status["status"] == "completed"
    assert {service.get(url).status for url in outputs(status)} == {200}
    names = set(map(stored_name, outputs(status)))
    block_until(lambda: stored(service) == names, "the leftovers to be deleted", 30)
