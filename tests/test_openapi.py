"""What the API says of itself, held against what it does."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imgsvc.config import ServerConfig
from imgsvc.web.app import Access, routes
from imgsvc.web.auth import ApiKeys
from imgsvc.web.health import HealthHandler
from imgsvc.web.openapi import document
from imgsvc.web.operations import OPERATIONS, RAW_UPLOAD
from imgsvc.web.options import ListQuery, StatusQuery, UploadFields
from imgsvc.web.origin_policy import OriginPolicy
from imgsvc.web.problems import PROBLEMS
from imgsvc.web.responses import RequestList, StatusResponse
from imgsvc.web.uploads import RAW_TYPES
from tests.http_harness import HttpHarness, open_http

KEYS = {"api_keys": ["k"]}
UNDESCRIBED = {"/openapi.json", "/postman.json", "/docs", "/static/{path:.+}", "/"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if "$ref" in node else set()
        return found.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


async def test_every_route_is_described_and_no_other(http: HttpHarness) -> None:
    parts = http.service.app_context
    origins, keys = OriginPolicy(ServerConfig()), ApiKeys([])
    table = routes(parts, origins, keys, HealthHandler(parts.health, parts.metrics))
    served = {
        (route.method.lower(), route.path.replace("request_id", "requestId")): route.access
        for route in table
        if route.path not in UNDESCRIBED
    }
    described = {(o.method, o.path): o for o in OPERATIONS}
    assert served.keys() == described.keys()
    for call, access in served.items():
        operation = described[call]
        assert operation.public is (access in {Access.PUBLIC, Access.SUPERVISOR})
        assert operation.always is (access is not Access.API)


def test_all_references_lead_somewhere() -> None:
    for with_keys in (True, False):
        described = document(with_keys=with_keys)
        schemas = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
        assert references(described) == schemas, "and none is there that nobody refers to"


def test_the_options_are_those_that_are_parsed() -> None:
    paths = document(with_keys=False)["paths"]
    for model, path, method in (
        (UploadFields, "/processImages", "post"),
        (StatusQuery, "/checkStatus/{requestId}", "get"),
        (ListQuery, "/listRequests", "get"),
    ):
        parameters = paths[path][method]["parameters"]
        named = {p["name"] for p in parameters if p["in"] == "query"}
        assert named == {str(field.alias) for field in model.model_fields.values()}
        for parameter in parameters:
            assert "type" in parameter["schema"] or "enum" in parameter["schema"], parameter
            assert parameter["description"]


def test_every_refusal_is_described_as_a_problem() -> None:
    for item in document(with_keys=True)["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
                    assert int(status) in {code for code, _ in PROBLEMS.values()}


def test_the_types_of_an_upload() -> None:
    assert set(RAW_TYPES) - set(RAW_UPLOAD) == {"application/csv", "application/vnd.ms-excel"}


def test_keys_are_spoken_of_where_there_are_any() -> None:
    assert "securitySchemes" not in document(with_keys=False)["components"]
    described = document(with_keys=True)
    assert set(described["components"]["securitySchemes"]) == {"bearer", "header", "cookie"}
    upload = described["paths"]["/processImages"]["post"]
    assert upload["security"]
    assert "401" in upload["responses"]
    image = described["paths"]["/images/{file}"]["get"]
    assert image["security"] == []
    assert "401" not in image["responses"]


async def test_it_is_served_with_the_address_it_was_asked_at(tmp_path: Path) -> None:
    async with open_http(tmp_path, server=KEYS) as http:
        described = (await http.get("/openapi.json", {"Host": "img.example:81"})).json()
        assert described["openapi"] == "3.1.0"
        assert described["servers"] == [{"url": "http://img.example:81"}]
        collection = (await http.get("/postman.json", {"Host": "img.example:81"})).json()
        assert collection["info"]["schema"].endswith("/v2.1.0/collection.json")
        variables = {v["key"]: v["value"] for v in collection["variable"]}
        assert variables["baseUrl"] == "http://img.example:81"
        assert variables["apiKey"] == ""


async def test_answers_are_what_is_described(http: HttpHarness) -> None:
    request_id = await http.upload(query="?webhookUrl=https://x.example/hook")
    claims = await http.claim()
    await http.complete(claims[:1])
    await http.fail(claims[1:])
    answer = await http.get(f"/checkStatus/{request_id}?format=json")
    StatusResponse.model_validate_json(answer.body, strict=True)
    RequestList.model_validate_json((await http.get("/listRequests")).body, strict=True)


async def test_the_collection_calls_what_there_is(http: HttpHarness) -> None:
    collection = (await http.get("/postman.json")).json()
    described = {(o.method.upper(), re.sub(r"{\w+}", "*", o.path)) for o in OPERATIONS}
    called = set()
    for item in collection["item"]:
        url = item["request"]["url"]
        if url.startswith("{{baseUrl}}"):
            path = url.removeprefix("{{baseUrl}}").partition("?")[0].replace("{{requestId}}", "*")
            called.add((item["request"]["method"], path))
    assert called <= described
    wanted = {path for _, path in described if path.startswith(("/process", "/check", "/download"))}
    assert wanted <= {path for _, path in called}


@pytest.mark.external
async def test_the_collection_runs_as_it_is(http: HttpHarness, tmp_path: Path) -> None:
    import asyncio  # noqa: PLC0415

    async def process() -> None:
        while True:
            if claims := await http.claim():
                await http.complete(claims)
            await asyncio.sleep(0.05)

    processing = asyncio.create_task(process())
    file = tmp_path / "collection.json"
    file.write_text(json.dumps((await http.get("/postman.json")).json()))
    done = await asyncio.to_thread(
        subprocess.run,
        ["newman", "run", str(file), "--bail"],
        capture_output=True,
        text=True,
        check=False,
    )
    processing.cancel()
    assert done.returncode == 0, done.stdout
