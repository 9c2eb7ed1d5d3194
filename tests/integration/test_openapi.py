"""Tests that the OpenAPI document and the Postman collection match the API."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from imgsvc.models import RequestStatus
from imgsvc.network.webhooks import sign
from imgsvc.web.handlers.uploads import RAW_TYPES
from imgsvc.web.http.problems import PROBLEMS
from imgsvc.web.routes import ROUTES
from imgsvc.web.schema import openapi
from imgsvc.web.schema.options import ListQuery, StatusQuery, UploadFields
from imgsvc.web.schema.responses import RequestList, StatusResponse, WebhookEvent
from tests.harness.http import HttpHarness, open_http

KEYS = {"api_keys": ["key-of-the-tests"]}
DOCUMENTED = [route for route in ROUTES if route.tag]
UNDOCUMENTED_PATHS = {
    "/openapi.json",
    "/postman.json",
    "/docs",
    "/sample/products.csv",
    "/sample/{id}/{name}",
    "/static/{path:.+}",
    "/",
}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


def references(node: Any) -> set[str]:
    """Return all `$ref` values in a JSON document."""
    if isinstance(node, dict):
        found = {node["$ref"]} if "$ref" in node else set()
        return found.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def openapi_document(*, with_keys: bool) -> dict[str, Any]:
    return openapi.openapi_document(ROUTES, cookie="imgsvc_session" if with_keys else None)


def test_document_has_every_route_but_the_pages_and_documents() -> None:
    documented = {
        (method.upper(), path)
        for path, item in openapi_document(with_keys=False)["paths"].items()
        for method in item
    }
    assert documented == {(route.method, route.path) for route in DOCUMENTED}
    assert {route.path for route in ROUTES if not route.tag} == UNDOCUMENTED_PATHS


def test_documented_routes_are_described_completely() -> None:
    ids = [route.operation_id for route in DOCUMENTED]
    assert len(set(ids)) == len(ids)
    for route in DOCUMENTED:
        assert route.tag in openapi.TAGS
        assert route.operation_id
        assert route.summary
        assert route.responses
        in_path = re.findall(r"{(\w+)}", route.path)
        assert [parameter.name for parameter in route.path_parameters] == in_path


def test_document_describes_the_webhook() -> None:
    webhooks = openapi_document(with_keys=False)["webhooks"]
    (event,) = webhooks
    assert event == get_args(WebhookEvent.model_fields["type"].annotation)[0]
    content = webhooks[event]["post"]["requestBody"]["content"]
    assert content == {
        "application/json": {"schema": {"$ref": "#/components/schemas/WebhookEvent"}}
    }
    headers = {parameter["name"] for parameter in webhooks[event]["post"]["parameters"]}
    assert headers == sign(b"key", "id", 0, b"").keys()


def test_document_defines_exactly_the_referenced_schemas() -> None:
    for with_keys in (True, False):
        document = openapi_document(with_keys=with_keys)
        schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert references(document) == schemas


def test_query_parameters_match_option_models() -> None:
    paths = openapi_document(with_keys=False)["paths"]
    for model, path, method in (
        (UploadFields, "/processImages", "post"),
        (StatusQuery, "/checkStatus/{requestId}", "get"),
        (ListQuery, "/listRequests", "get"),
    ):
        parameters = paths[path][method]["parameters"]
        names = {p["name"] for p in parameters if p["in"] == "query"}
        assert names == {str(field.alias) for field in model.model_fields.values()}
        for parameter in parameters:
            assert "type" in parameter["schema"] or "enum" in parameter["schema"], parameter
            assert parameter["description"]


def test_error_responses_are_problem_reports() -> None:
    for item in openapi_document(with_keys=True)["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
                    assert int(status) in {code for code, _ in PROBLEMS.values()}


def test_documented_upload_content_types_are_accepted() -> None:
    upload = openapi_document(with_keys=False)["paths"]["/processImages"]["post"]
    assert set(upload["requestBody"]["content"]) <= {*RAW_TYPES, "multipart/form-data"}


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield each object in a JSON document."""
    if isinstance(schema, dict):
        yield schema
    if isinstance(schema, dict | list):
        for value in schema.values() if isinstance(schema, dict) else schema:
            yield from nodes(value)


def test_response_schemas_allow_more_keys_and_values() -> None:
    schemas = openapi_document(with_keys=True)["components"]["schemas"]
    assert not [node for node in nodes(schemas) if "additionalProperties" in node]
    for node in nodes(schemas):
        if "enum" in node or "x-extensible-enum" in node:
            assert "Values may be added." in node["description"]
    status = schemas["RequestStatus"]
    known, other = status["anyOf"]
    assert other == {"type": "string"}
    assert known["enum"] == status["x-extensible-enum"] == [str(each) for each in RequestStatus]


def test_document_has_security_only_with_keys() -> None:
    assert "securitySchemes" not in openapi_document(with_keys=False)["components"]
    document = openapi_document(with_keys=True)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header", "cookie"}
    upload = document["paths"]["/processImages"]["post"]
    assert upload["security"]
    assert "401" in upload["responses"]
    for path in ("/images/{token}/{slug}.{ext}", "/images/{file}"):
        image = document["paths"][path]["get"]
        assert image["security"] == []
        assert "401" not in image["responses"]


def test_document_has_the_refusals_that_keys_or_their_absence_cause() -> None:
    def codes(path: str, method: str, *, with_keys: bool) -> str:
        responses = openapi_document(with_keys=with_keys)["paths"][path][method]["responses"]
        return " ".join(re.findall(r"`([a-z-]+)`", json.dumps(responses)))

    for path, method, expected in (
        ("/listRequests", "get", set()),
        ("/metrics", "get", {"forbidden"}),
        ("/processImages", "post", {"forbidden", "foreign-origin"}),
    ):
        with_keys = set(codes(path, method, with_keys=True).split())
        without_keys = set(codes(path, method, with_keys=False).split())
        access = {
            "forbidden",
            "foreign-origin",
            "foreign-host",
            "unauthorized",
            "too-many-attempts",
        }
        assert with_keys & access == expected | {"unauthorized", "too-many-attempts"}
        assert without_keys & access == expected - {"forbidden"} | {"foreign-host"}


async def test_documents_have_url_of_the_request_host(tmp_path: Path) -> None:
    async with open_http(tmp_path, server=KEYS) as http:
        document = (await http.get("/openapi.json", {"Host": "img.example:81"})).json()
        assert document["openapi"] == "3.1.0"
        assert document["servers"] == [{"url": "http://img.example:81"}]
        collection = (await http.get("/postman.json", {"Host": "img.example:81"})).json()
        assert collection["info"]["schema"].endswith("/v2.1.0/collection.json")
        variables = {v["key"]: v["value"] for v in collection["variable"]}
        assert variables["baseUrl"] == "http://img.example:81"
        assert variables["apiKey"] == ""
        assert variables["imageUrl"].startswith("http://img.example:81/sample/")


async def test_responses_match_their_models(http: HttpHarness) -> None:
    request_id = await http.upload(query="?webhookUrl=https://x.example/hook")
    claims = await http.claim()
    await http.complete(claims[:1])
    await http.fail(claims[1:])
    response = await http.get(f"/checkStatus/{request_id}?format=json")
    StatusResponse.model_validate_json(response.body, strict=True)
    RequestList.model_validate_json((await http.get("/listRequests")).body, strict=True)


async def test_postman_collection_uses_existing_operations(http: HttpHarness) -> None:
    collection = (await http.get("/postman.json")).json()
    documented = {(route.method, re.sub(r"{\w+}", "*", route.path)) for route in DOCUMENTED}
    used = set()
    for item in collection["item"]:
        url = item["request"]["url"]
        if url.startswith("{{baseUrl}}"):
            path = url.removeprefix("{{baseUrl}}").partition("?")[0]
            path = re.sub(r"{{\w+Id}}", "*", path)
            used.add((item["request"]["method"], path))
    assert used <= documented
    required = {
        path for _, path in documented if path.startswith(("/process", "/check", "/download"))
    }
    assert required <= {path for _, path in used}


@pytest.mark.external
async def test_postman_collection_runs_in_newman(http: HttpHarness, tmp_path: Path) -> None:
    import asyncio  # noqa: PLC0415

    async def process_images() -> None:
        while True:
            if claims := await http.claim():
                await http.complete(claims)
            await asyncio.sleep(0.05)

    processing = asyncio.create_task(process_images())
    file = tmp_path / "collection.json"
    file.write_text(json.dumps((await http.get("/postman.json")).json()))
    newman = await asyncio.to_thread(
        subprocess.run,
        ["newman", "run", str(file), "--bail"],
        capture_output=True,
        text=True,
        check=False,
    )
    processing.cancel()
    assert newman.returncode == 0, newman.stdout
