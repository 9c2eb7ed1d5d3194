"""The sample works without a network: its images are read from the package."""

from __future__ import annotations

import re
from typing import Any

from tests.conftest import StartService
from tests.service_process import Service

KEY = {"X-API-Key": "a-key-of-this-test"}


def codes_of(status: Any) -> dict[str, str]:
    """Return the error codes of failed images, by the file name in their URLs."""
    images = [image for product in status["products"] for image in product["images"]]
    assert len(images) == 10
    return {
        image["inputUrl"].rpartition("/")[2]: image["error"]["code"]
        for image in images
        if image["error"]
    }


def open_service(start_service: StartService) -> Service:
    """Start a service that needs keys and may not fetch from loopback."""
    return start_service(
        server={"api_keys": ["a-key-of-this-test"]}, fetch={"allowed_networks": []}
    )


def process(service: Service, table: bytes) -> Any:
    """Upload a table, and return the status of its request once it has finished."""
    response = service.post("/processImages", table, KEY)
    assert response.status == 201, response.body
    path = f"{response.headers['Location']}?format=json&wait=60"
    return service.get(path, KEY).json()


def test_sample_is_processed_whatever_host_its_urls_name(start_service: StartService) -> None:
    service = open_service(start_service)
    table = service.get("/sample/products.csv").body
    assert service.url.encode() in table
    for base in (service.url, "https://shop.example/below"):
        status = process(service, table.replace(service.url.encode(), base.encode()))
        assert status["status"] == "partial"
        assert codes_of(status) == {"missing.jpg": "http_status"}
    assert process(service, table)["progress"]["reused"]["notModified"] == 9


def test_sample_images_are_served_without_a_key(start_service: StartService) -> None:
    service = open_service(start_service)
    table = service.get("/sample/products.csv").body.decode()
    url = re.findall(r"http://[^,\s\"]+haze.jpg", table)[0]
    image = service.get(url)
    assert (image.status, image.headers["Content-Type"]) == (200, "image/jpeg")
    assert image.body.startswith(b"\xff\xd8")
    assert service.get(url, {"If-None-Match": image.headers["ETag"]}).status == 304
    assert service.get(url.replace("haze.jpg", "missing.jpg")).status == 404
    assert service.get(re.sub("/sample/[0-9a-f]+/", f"/sample/{0:016x}/", url)).status == 404


def test_sample_of_another_instance_is_dialled_like_any_url(start_service: StartService) -> None:
    service = open_service(start_service)
    table = service.get("/sample/products.csv").body.decode()
    foreign = re.sub("/sample/[0-9a-f]+/", f"/sample/{0:016x}/", table)
    assert set(codes_of(process(service, foreign.encode())).values()) == {"blocked_address"}
