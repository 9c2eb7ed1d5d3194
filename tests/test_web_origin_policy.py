"""Who calls from where."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.http_harness import HttpHarness, body_of, open_http

CSV = {"Content-Type": "text/csv"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def status(http: HttpHarness, headers: dict[str, str]) -> int:
    return (await http.post("/processImages?dryRun=true", body_of(), {**CSV, **headers})).status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://{host}"},
        {"Origin": "http://{host}.evil.example"},
        {"Sec-Fetch-Site": "cross-http"},
        {"Origin": "http://{host}", "Sec-Fetch-Site": "cross-http"},
    ],
)
async def test_a_foreign_page_changes_nothing(http: HttpHarness, headers: dict[str, str]) -> None:
    filled = {name: value.format(host=f"127.0.0.1:{http.port}") for name, value in headers.items()}
    answer = await http.post("/processImages", body_of(), {**CSV, **filled})
    assert answer.status == 403
    assert answer.problem()["type"] == "urn:imgsvc:problem:foreign-origin"
    for method, path in (
        ("POST", "/cancelRequest/x"),
        ("POST", "/retryFailed/x"),
        ("DELETE", "/deleteRequest/x"),
        ("POST", "/session"),
        ("DELETE", "/session"),
    ):
        assert (await http.call(method, path, headers=filled)).status == 403
    assert (await http.get("/listRequests", filled)).status == 200, "reading changes nothing"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://{host}"},
        {"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
async def test_our_own_page_and_programs_may(http: HttpHarness, headers: dict[str, str]) -> None:
    filled = {name: value.format(host=f"127.0.0.1:{http.port}") for name, value in headers.items()}
    assert await status(http, filled) == 200


@pytest.mark.parametrize("url", ["https://Img.example/a", "https://img.example:443"])
async def test_the_public_url_is_our_own(tmp_path: Path, url: str) -> None:
    async with open_http(tmp_path, server={"public_url": url}) as http:
        assert await status(http, {"Origin": "https://img.example"}) == 200
        assert await status(http, {"Origin": "http://img.example"}) == 403
        assert await status(http, {"Origin": "https://img.example", "Host": "img.example"}) == 200


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("imgsvc.localhost", True),
        ("[::1]:80", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
    ],
)
async def test_a_rebound_name_is_refused_on_loopback(
    http: HttpHarness, host: str, good: bool
) -> None:
    for method, path in (("GET", "/listRequests"), ("GET", "/"), ("POST", "/cancelRequest/x")):
        answer = await http.call(method, path, headers={"Host": host})
        assert (answer.status != 403) is good
        if not good:
            assert answer.problem()["type"] == "urn:imgsvc:problem:foreign-origin"
    assert (await http.get("/health/ready", {"Host": host})).status == 200


async def test_the_public_urls_name_is_ours(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"public_url": "https://img.example:8443"}) as http:
        for host, good in (("img.example:8443", 200), ("IMG.example", 200), ("b.example", 403)):
            assert (await http.get("/listRequests", {"Host": host})).status == good


async def test_an_international_name_of_ours_comes_as_browsers_write_it(tmp_path: Path) -> None:
    name = "xn--bcher-kva.example"
    async with open_http(tmp_path, server={"public_url": "https://bücher.example"}) as http:
        assert await status(http, {"Host": name, "Origin": f"https://{name}"}) == 200


async def test_with_keys_a_host_may_be_any(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"api_keys": ["k"]}) as http:
        headers = {"Host": "any.example", "X-API-Key": "k"}
        assert (await http.get("/listRequests", headers)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "a b", 'x"y', "x/y", "x?y", "x,y", "a@b", "<x>", "x:y", "x:99999", "é", "x\\y"),
        *("[::1", "[1:2]:80", "[127.0.0.1]"),
    ],
)
@pytest.mark.parametrize("keys", [[], ["k"]])
async def test_a_host_that_could_do_harm_is_refused(
    tmp_path: Path, host: str, keys: list[str]
) -> None:
    async with open_http(tmp_path, server={"api_keys": keys}) as http:
        call = f"GET /openapi.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        answer = await http.raw(call.encode())
        assert answer.split(b" ", 2)[1] == b"400"
        assert b"application/problem+json" in answer


async def test_two_hosts_or_none(http: HttpHarness) -> None:
    two = await http.raw(
        b"GET /listRequests HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"
    )
    none = await http.raw(b"GET /listRequests HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (two.split(b" ", 2)[1], none.split(b" ", 2)[1]) == (b"400", b"400")


async def test_http_1_0_needs_no_host(http: HttpHarness) -> None:
    answer = await http.raw(b"GET /openapi.json HTTP/1.0\r\n\r\n")
    assert answer.split(b" ", 2)[1] == b"200"
    assert f'"url":"http://127.0.0.1:{http.port}"'.encode() in answer


SHOP = "https://shop.example"


async def test_cors_is_off_by_default(http: HttpHarness) -> None:
    answer = await http.get("/listRequests", {"Origin": SHOP})
    assert not [name for name in answer.headers if name.startswith("Access-Control")]
    asked = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    preflight = await http.call("OPTIONS", "/processImages", headers=asked)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("allowed", [SHOP, "https://Shop.example:443"])
async def test_cors_by_setting(tmp_path: Path, allowed: str) -> None:
    server = {"cors_origins": [allowed], "api_keys": ["k"]}
    async with open_http(tmp_path, server=server) as http:
        asked = {
            "Origin": SHOP,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key",
        }
        preflight = await http.call("OPTIONS", "/processImages", headers=asked)
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == SHOP
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        assert "X-API-Key" in preflight.headers["Access-Control-Allow-Headers"]
        headers = {**CSV, "Origin": SHOP, "Sec-Fetch-Site": "cross-http", "X-API-Key": "k"}
        answer = await http.post("/processImages", body_of(), headers)
        assert answer.status == 201
        assert answer.headers["Access-Control-Allow-Origin"] == SHOP
        assert "Location" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        denied = await http.get("/listRequests", {"Origin": SHOP})
        assert denied.status == 401
        assert denied.headers["Access-Control-Allow-Origin"] == SHOP
        path = f"/checkStatus/{answer.json()['requestId']}"
        assert (await http.get(path, headers)).headers["Vary"] == "Accept, Origin"
        other = {"Origin": "https://other.example", "X-API-Key": "k"}
        foreign = await http.get("/listRequests", other)
        assert "Access-Control-Allow-Origin" not in foreign.headers
        assert foreign.headers["Vary"] == "Origin"
        asked["Origin"] = "https://other.example"
        refused = await http.call("OPTIONS", "/processImages", headers=asked)
        assert "Access-Control-Allow-Origin" not in refused.headers
