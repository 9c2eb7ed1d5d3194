"""Uses a client that openapi-python-client has generated, as a user of it would: a program of its own.

The arguments are the service's URL, an API key, the URL of an image, and that of one that never
arrives. The folder of the generated package `imgsvc_client` is on `sys.path`.
"""

from __future__ import annotations

import io
import json
import sys
from importlib import import_module
from typing import Any
from uuid import UUID

client_module: Any = import_module("imgsvc_client")
models: Any = import_module("imgsvc_client.models")
types: Any = import_module("imgsvc_client.types")


def operation(tag: str, name: str) -> Any:
    """Return the module of an operation."""
    return import_module(f"imgsvc_client.api.{tag}.{name}")


def table(*urls: str) -> io.BytesIO:
    """Return a CSV with a product for each URL."""
    rows = [f"{number},Lamp,{url}" for number, url in enumerate(urls, 1)]
    return io.BytesIO("\r\n".join(["S. No.,Product Name,Input Image Urls", *rows]).encode())


def upload_file(client: Any, *urls: str) -> Any:
    """Upload a table as a file and return the response."""
    return operation("requests", "process_images").sync(
        client=client, body=types.File(payload=table(*urls))
    )


def wait_until_finished(client: Any, request_id: UUID) -> Any:
    """Poll a request until it has finished, and return its status."""
    check_status = operation("requests", "check_status")
    while True:
        text = check_status.sync(
            request_id, client=client, format_=models.CheckStatusFormat.JSON, wait=5
        )
        status = models.StatusResponse.from_dict(json.loads(text))
        if status.finished_at is not None:
            return status


def use_requests(client: Any, image_url: str) -> None:
    """Upload, poll, download, list and delete."""
    accepted = upload_file(client, image_url)
    assert isinstance(accepted, models.AcceptedUpload), accepted
    status = wait_until_finished(client, accepted.request_id)
    assert status.status is models.KnownRequestStatus.COMPLETED
    (image,) = status.products[0].images
    assert image.status is models.KnownImageStatus.COMPLETED
    csv = operation("requests", "check_status").sync(accepted.request_id, client=client)
    assert csv.startswith("S. No.,"), csv
    listed = operation("requests", "list_requests").sync(client=client, limit=10)
    assert [each.request_id for each in listed.requests] == [accepted.request_id]
    token, file = image.output_url.split("/")[-2:]
    slug, _, extension = file.rpartition(".")
    output = operation("images", "image").sync(
        token, slug, models.ImageExt(extension), client=client
    )
    assert len(output.payload.read()) == image.output_bytes
    archive = operation("images", "download_images").sync(accepted.request_id, client=client)
    assert archive.payload.read(2) == b"PK"
    deleted = operation("requests", "delete_request").sync_detailed(
        accepted.request_id, client=client
    )
    assert deleted.status_code == 204


def upload_form(client: Any, image_url: str) -> None:
    """Upload a form with an option in it."""
    body = models.ProcessImagesFilesBody(
        types.File(payload=table(image_url), file_name="lamps.csv", mime_type="text/csv")
    )
    body["quality"] = "40"
    accepted = operation("requests", "process_images").sync(client=client, body=body)
    assert isinstance(accepted, models.AcceptedUpload), accepted
    assert accepted.name == "lamps.csv"
    assert wait_until_finished(client, accepted.request_id).settings.quality == "40"


def reject_upload(client: Any) -> None:
    """Upload a table with an error in it."""
    problem = upload_file(client, "ftp://shop.example/lamp.jpg")
    assert isinstance(problem, models.ProblemReport), problem
    assert (problem.status, problem.errors[0].code) == (400, "unsupported_scheme")
    assert problem.help_.endswith("/docs#errors-invalid-csv")


def cancel(client: Any, slow_url: str) -> None:
    """Cancel a request whose image does not arrive."""
    accepted = upload_file(client, slow_url)
    cancelled = operation("requests", "cancel_request").sync(accepted.request_id, client=client)
    assert isinstance(cancelled, models.StatusResponse), cancelled
    assert wait_until_finished(client, accepted.request_id).status == "cancelled"


def sign_in(url: str, key: str) -> None:
    """Use a session cookie instead of a key, and sign out."""
    list_requests = operation("requests", "list_requests")
    sign_out = operation("sessions", "sign_out")
    with client_module.Client(url) as client:
        assert list_requests.sync(client=client).status == 401
        operation("sessions", "sign_in").sync(client=client, body=models.ApiKeyLogin(key))
        assert isinstance(list_requests.sync(client=client), models.RequestList)
        sign_out.sync(client=client)
        assert list_requests.sync(client=client).status == 401


def main(url: str, key: str, image_url: str, slow_url: str) -> None:
    """Use the service at `url` in all these ways."""
    with client_module.AuthenticatedClient(url, key) as client:
        use_requests(client, image_url)
        upload_form(client, image_url)
        reject_upload(client)
        cancel(client, slow_url)
        future = models.RequestSummary.from_dict(
            operation("requests", "list_requests").sync(client=client).requests[0].to_dict()
            | {"status": "archived", "colour": "red"}
        )
        assert (future.status, future["colour"]) == ("archived", "red")
    sign_in(url, key)


if __name__ == "__main__":
    main(*sys.argv[1:])
