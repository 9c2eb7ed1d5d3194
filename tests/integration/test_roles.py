"""Tests of roles: which routes a key may call, and which requests it sees."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imgsvc.access import Role
from imgsvc.web.routes import ROUTES
from imgsvc.web.schema.route import Access, Route
from tests.harness.http import HttpHarness, HttpResponse, csv_body, open_http

ROLES = {"boss": "admin", "auditor": "read", "shop": "submit", "market": "submit"}
KEYS = [
    {"name": name, "role": role, "key": f"key-of-the-{name}-tests"} for name, role in ROLES.items()
]
CSV = {"Content-Type": "text/csv"}
UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"
OF_ONE_REQUEST = [route for route in ROUTES if route.is_of_one_request]
WITH_KEY = [route for route in ROUTES if route.access.needs_key]


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path, server={"keys": KEYS}) as http:
        yield http


def key_of(name: str) -> dict[str, str]:
    return {"X-API-Key": f"key-of-the-{name}-tests"} if name else {}


async def upload(http: HttpHarness, name: str, **headers: str) -> HttpResponse:
    all_headers = {**CSV, **key_of(name), **{k.replace("_", "-"): v for k, v in headers.items()}}
    return await http.post("/processImages", csv_body(), all_headers)


async def uploaded(http: HttpHarness, name: str, **headers: str) -> str:
    response = await upload(http, name, **headers)
    assert response.status == 201, response.body
    return str(response.json()["requestId"])


async def listed(http: HttpHarness, name: str, query: str = "") -> list[str]:
    response = await http.get(f"/listRequests{query}", key_of(name))
    return [each["requestId"] for each in response.json()["requests"]]


def label(route: Route[Any]) -> str:
    return f"{route.method} {route.path}"


def test_every_route_with_a_path_parameter_is_of_one_request_or_public() -> None:
    """A new route must not find a request by another parameter, which nothing checks."""
    others = [route for route in ROUTES if "{" in route.path and route not in OF_ONE_REQUEST]
    assert [label(route) for route in others if route.access is not Access.PUBLIC] == []
    assert all(route.access is Access.API for route in OF_ONE_REQUEST)
    assert len(OF_ONE_REQUEST) >= 7


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
async def test_request_of_another_owner_is_as_unknown_on_every_route(
    http: HttpHarness, method: str
) -> None:
    request_id = await uploaded(http, "shop")
    await http.complete(await http.claim())
    before = await http.get(f"/checkStatus/{request_id}?format=json", key_of("boss"))
    for route in OF_ONE_REQUEST:
        if method not in route.methods:
            continue
        foreign, unknown = [
            await http.call(method, route.path.format(requestId=each), headers=key_of("market"))
            for each in (request_id, UNKNOWN)
        ]
        assert (foreign.status, foreign.body) == (404, unknown.body), label(route)
        assert unknown.status == 404
    after = await http.get(f"/checkStatus/{request_id}?format=json", key_of("boss"))
    assert after.body == before.body


@pytest.mark.parametrize("route", OF_ONE_REQUEST, ids=label)
async def test_owner_and_admin_may_call_every_route_of_a_request(
    http: HttpHarness, route: Route[Any]
) -> None:
    expected = {
        "cancelRequest": 409,
        "retryFailed": 409,
        "repeatRequest": 201,
        "deleteRequest": 204,
    }
    for name in ("shop", "boss"):
        request_id = await uploaded(http, "shop")
        await http.complete(await http.claim())
        response = await http.call(
            route.method, route.path.format(requestId=request_id), headers=key_of(name)
        )
        assert response.status == expected.get(route.operation_id, 200)


@pytest.mark.parametrize("route", WITH_KEY, ids=label)
async def test_role_decides_which_routes_a_key_may_call(
    http: HttpHarness, route: Route[Any]
) -> None:
    for name, role in ROLES.items():
        for method in route.methods:
            path = route.path.format(requestId=UNKNOWN)
            response = await http.call(method, path, headers=key_of(name))
            allowed = role == "admin" or (
                method in {"GET", "HEAD"} if role == "read" else path != "/metrics"
            )
            assert (response.status != 403) is allowed, (name, method)
            if not allowed and method != "HEAD":
                assert response.problem()["type"] == "urn:imgsvc:problem:forbidden"


async def test_read_key_sees_requests_of_all_owners(http: HttpHarness) -> None:
    ids = [await uploaded(http, name) for name in ("shop", "market", "boss")]
    assert await listed(http, "auditor") == await listed(http, "boss") == ids[::-1]
    for request_id in ids:
        response = await http.get(f"/checkStatus/{request_id}", key_of("auditor"))
        assert response.status == 200


async def test_submit_key_lists_only_its_own_requests(http: HttpHarness) -> None:
    own = [await uploaded(http, name) for name in ("shop", "market", "shop", "boss", "shop")][::2]
    assert await listed(http, "shop") == own[::-1]
    assert await listed(http, "shop", "?status=pending") == own[::-1]
    assert await listed(http, "shop", "?status=failed") == []
    first = (await http.get("/listRequests?limit=2", key_of("shop"))).json()
    assert [each["requestId"] for each in first["requests"]] == own[:0:-1]
    assert await listed(http, "shop", f"?limit=2&cursor={first['nextCursor']}") == own[:1]


async def test_totals_are_of_the_requests_that_the_key_may_see(http: HttpHarness) -> None:
    for name in ("boss", "shop", "shop"):
        await uploaded(http, name)
    counts = {"boss": 3, "auditor": 3, "shop": 2, "market": 0}
    for name, count in counts.items():
        totals = (await http.get("/listRequests?limit=1", key_of(name))).json()["totals"]
        assert (totals["requests"], totals["images"]) == (count, 2 * count)


async def test_requests_without_owner_are_for_admin_and_read(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        request_id = await uploaded(http, "")
    async with open_http(tmp_path, server={"keys": KEYS}) as http:
        assert [await listed(http, name) for name in ROLES] == [[request_id], [request_id], [], []]
        path = f"/checkStatus/{request_id}"
        statuses = [(await http.get(path, key_of(name))).status for name in ROLES]
        assert statuses == [200, 200, 404, 404]


async def test_repeat_belongs_to_its_caller(http: HttpHarness) -> None:
    request_id = await uploaded(http, "shop")
    response = await http.post(f"/repeatRequest/{request_id}", headers=key_of("boss"))
    assert response.status == 201
    assert await listed(http, "shop") == [request_id]
    repeated = await http.post(f"/repeatRequest/{request_id}", headers=key_of("shop"))
    assert await listed(http, "shop") == [repeated.json()["requestId"], request_id]


async def test_foreign_request_that_is_being_deleted_is_unknown(http: HttpHarness) -> None:
    request_id = await uploaded(http, "shop")
    await http.complete(await http.claim())
    await http.service.stores.request_store.mark_deleting(request_id)
    path = f"/repeatRequest/{request_id}"
    assert (await http.post(path, headers=key_of("market"))).status == 404
    assert (await http.post(path, headers=key_of("shop"))).status == 409


async def test_idempotency_keys_are_unique_per_owner(http: HttpHarness) -> None:
    first = await upload(http, "shop", Idempotency_Key="k")
    other = await upload(http, "market", Idempotency_Key="k")
    again = await upload(http, "shop", Idempotency_Key="k")
    assert (first.status, other.status) == (201, 201)
    assert first.json()["requestId"] != other.json()["requestId"]
    assert again.json()["requestId"] == first.json()["requestId"]
    assert again.headers["Idempotent-Replayed"] == "true"
    changed = {**CSV, **key_of("shop"), "Idempotency-Key": "k"}
    assert (await http.post("/processImages?quality=3", csv_body(), changed)).status == 422


async def test_idempotency_keys_of_requests_without_owner_count_for_every_key(
    tmp_path: Path,
) -> None:
    async with open_http(tmp_path) as http:
        request_id = await uploaded(http, "", Idempotency_Key="old")
    async with open_http(tmp_path, server={"keys": KEYS}) as http:
        for name in ("boss", "shop", "market"):
            assert await uploaded(http, name, Idempotency_Key="old") == request_id
            changed = {**CSV, **key_of(name), "Idempotency-Key": "old"}
            response = await http.post("/processImages?quality=3", csv_body(), changed)
            assert response.status == 422
        await uploaded(http, "shop", Idempotency_Key="new")
    async with open_http(tmp_path) as http:
        response = await upload(http, "", Idempotency_Key="new")
        assert (response.status, "Idempotent-Replayed" in response.headers) == (201, False)


async def test_api_keys_are_admins_and_share_an_owner(tmp_path: Path) -> None:
    keys = ["first-key-of-tests", "second-key-of-tests"]
    async with open_http(tmp_path, server={"api_keys": keys, "keys": KEYS}) as http:
        ids = set()
        for number, key in enumerate(keys):
            headers = {"X-API-Key": key}
            session = (await http.get("/session", headers)).json()
            assert session == {"name": f"api_keys[{number}]", "role": Role.ADMIN}
            headers |= {**CSV, "Idempotency-Key": "k"}
            ids.add((await http.post("/processImages", csv_body(), headers)).json()["requestId"])
        assert len(ids) == 1


async def test_slug_of_a_url_is_remembered_per_owner(http: HttpHarness) -> None:
    url = "http://a.example/1.jpg"
    slugs = []
    for name, product in (("shop", "Lamp"), ("market", "Light"), ("shop", "Lantern")):
        rows = csv_body([(1, product, [url], "red")])
        created = await http.post("/processImages", rows, {**CSV, **key_of(name)})
        await http.complete(await http.claim())
        path = f"/checkStatus/{created.json()['requestId']}?format=json"
        status = (await http.get(path, key_of(name))).json()
        (output,) = [image["outputUrl"] for image in status["products"][0]["images"]]
        slugs.append(re.sub(r".*/|\.jpg", "", output))
    assert slugs == ["lamp-1", "light-1", "lamp-1"]
