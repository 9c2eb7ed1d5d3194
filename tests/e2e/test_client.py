"""The Python client, against a real service."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import get_type_hints
from zipfile import ZipFile

import pytest
from pydantic import BaseModel

from imgsvc.client import AsyncClient, Client, ServiceError, types
from imgsvc.web.schema import options, responses
from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table


def test_client_uploads_waits_and_downloads(
    service: Service, origin: Origin, tmp_path: Path
) -> None:
    missing = origin.url("/missing.jpg")
    file = tmp_path / "spring.csv"
    file.write_bytes(table([[1, "Lamp", [origin.photo(1), missing]], [2, "Vase", origin.photo(2)]]))
    with Client(service.url) as client:
        checked = client.check(file)
        assert [each["productName"] for each in checked["preview"]] == ["Lamp", "Vase"]
        accepted = client.upload(file, quality=40, format="webp", max_width=100)
        request_id = accepted["requestId"]
        assert accepted["name"] == "spring.csv"
        status = client.wait(request_id)
        assert (status["status"], status["settings"]["quality"]) == ("partial", "40")
        products = list(client.products(request_id))
        assert [len(each["images"]) for each in products] == [2, 1]
        assert [each["productName"] for each in client.products(request_id, 1, 1)] == ["Vase"]
        saved = client.download_table(request_id, tmp_path / "out.csv", layout="input")
        assert saved.read_text("utf-8").count(f"{service.url}/images/") == 2
        workbook = client.download_table(request_id, tmp_path / "out.xlsx")
        assert workbook.read_bytes().startswith(b"PK")
        with ZipFile(client.download_images(request_id, tmp_path / "images.zip")) as images:
            assert images.namelist() == ["Lamp-1.webp", "Vase-1.webp", "errors.csv"]


def test_download_without_a_path_is_named_after_the_request(
    service: Service, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Client(service.url) as client:
        data = io.BytesIO(table([[1, "Lamp", origin.photo(1)]]))
        request_id = client.upload(data, name="Frühling/2027.csv")["requestId"]
        client.wait(request_id)
        assert client.download_table(request_id) == Path("Frühling_2027-compressed.csv")
    assert [each.name for each in tmp_path.glob("*.csv")] == ["Frühling_2027-compressed.csv"]


def test_client_lists_repeats_and_deletes(service: Service, origin: Origin) -> None:
    origin.script("/flaky.jpg", Reply(404), Reply(photo="/photo/7.jpg"))
    with Client(service.url) as client:
        first = client.upload(table([[1, "a", origin.url("/flaky.jpg")]]), name="Week 1")
        client.wait(first["requestId"])
        client.retry(first["requestId"])
        assert client.wait(first["requestId"])["status"] == "completed"
        second = client.repeat(first["requestId"], name="Week 2", fresh=True)
        client.wait(second["requestId"])
        assert [each["name"] for each in client.requests()] == ["Week 2", "Week 1"]
        assert [each["name"] for each in client.requests(name="WEEK 1")] == ["Week 1"]
        assert client.request_page(limit=1)["nextCursor"] is not None
        client.delete(first["requestId"])
        assert [each["name"] for each in client.requests(status="completed")] == ["Week 2"]


def test_error_has_the_problem_report(service: Service) -> None:
    with Client(service.url) as client:
        with pytest.raises(ServiceError, match="row 2, column Product Name") as caught:
            client.upload(table([[1, "", "http://shop.example/1.jpg"]]))
        assert caught.value.status == 400
        assert caught.value.problem["type"] == "urn:imgsvc:problem:invalid-csv"
        with pytest.raises(ServiceError) as unknown:
            client.cancel("no-such-request")
        assert unknown.value.status == 404
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceError) as unreachable:
        client.status("x")
    assert unreachable.value.status == 0


async def test_client_of_asyncio_cancels_a_request(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    held = origin.script("/held.jpg", Reply(photo="/photo/1.jpg", gate="g"))
    async with AsyncClient(service.url) as client:
        accepted = await client.upload(table([[1, "a", held]]))
        await client.cancel(accepted["requestId"])
        states = [each["status"] async for each in client.watch(accepted["requestId"])]
    assert states[-1] == "cancelled"


def test_clients_have_the_same_methods() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        return {
            name: [str(each) for each in inspect.signature(function).parameters.values()]
            for name, function in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)


MODELS: dict[type, type[BaseModel]] = {
    types.AcceptedRequest: responses.AcceptedUpload,
    types.CheckedFile: responses.DryRunResult,
    types.Status: responses.StatusResponse,
    types.StatusImage: responses.ImageDetail,
    types.StatusProduct: responses.ProductDetail,
    types.StatusProgress: responses.ImageProgress,
    types.Settings: responses.RequestSettings,
    types.ListedRequest: responses.RequestSummary,
    types.RequestPage: responses.RequestList,
}


@pytest.mark.parametrize("typed", MODELS, ids=lambda each: each.__name__)
def test_types_have_the_fields_of_the_api(typed: type) -> None:
    fields = {field.alias or name for name, field in MODELS[typed].model_fields.items()}
    assert set(get_type_hints(typed)) == fields


def test_options_are_those_of_the_api() -> None:
    fields = set(options.UploadFields.model_fields) - {"dry_run"}
    assert set(get_type_hints(types.UploadArguments)) == fields
    assert set(get_type_hints(types.RepeatArguments)) == set(options.RepeatFields.model_fields)
