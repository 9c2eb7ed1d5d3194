"""Tests of the `Host` and `Origin` checks and of the CORS headers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.http import HttpHarness, csv_body, open_http

CSV = {"Content-Type": "text/csv"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def dry_run_status(http: HttpHarness, headers: dict[str, str]) -> int:
    """Return the HTTP status of a valid upload with these headers."""
    return (await http.post("/processImages?dryRun=true", csv_body(), {**CSV, **headers})).status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://{host}"},
        {"Origin": "http://{host}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://{host}", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_unsafe_methods_return_403_for_other_origins(
    http: HttpHarness, headers: dict[str, str]
) -> None:
    filled = {name: value.format(host=f"127.0.0.1:{http.port}") for name, value in headers.items()}
    response = await http.post("/processImages", csv_body(), {**CSV, **filled})
    assert response.status == 403
    assert response.problem()["type"] == "urn:imgsvc:problem:foreign-origin"
    for method, path in (
        ("POST", "/cancelRequest/x"),
        ("POST", "/retryFailed/x"),
        ("DELETE", "/deleteRequest/x"),
        ("POST", "/session"),
        ("DELETE", "/session"),
    ):
        assert (await http.call(method, path, headers=filled)).status == 403
    assert (await http.get("/listRequests", filled)).status == 200, "safe methods are allowed"


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
async def test_unsafe_methods_allow_same_origin_and_non_browser_clients(
    http: HttpHarness, headers: dict[str, str]
) -> None:
    filled = {name: value.format(host=f"127.0.0.1:{http.port}") for name, value in headers.items()}
    assert await dry_run_status(http, filled) == 200


@pytest.mark.parametrize("url", ["https://Img.example/a", "https://img.example:443"])
async def test_origin_of_public_url_is_trusted(tmp_path: Path, url: str) -> None:
    async with open_http(tmp_path, server={"public_url": url}) as http:
        assert await dry_run_status(http, {"Origin": "https://img.example"}) == 200
        assert await dry_run_status(http, {"Origin": "http://img.example"}) == 403
        assert (
            await dry_run_status(http, {"Origin": "https://img.example", "Host": "img.example"})
            == 200
        )


@pytest.mark.parametrize(
    ("host", "accepted"),
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
async def test_loopback_without_keys_accepts_only_loopback_hosts(
    http: HttpHarness, host: str, accepted: bool
) -> None:
    for method, path in (("GET", "/listRequests"), ("GET", "/"), ("POST", "/cancelRequest/x")):
        response = await http.call(method, path, headers={"Host": host})
        assert (response.status != 403) is accepted
        if not accepted:
            assert response.problem()["type"] == "urn:imgsvc:problem:foreign-origin"
    assert (await http.get("/health/ready", {"Host": host})).status == 200


async def test_host_of_public_url_is_accepted_on_loopback(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"public_url": "https://img.example:8443"}) as http:
        for host, expected in (("img.example:8443", 200), ("IMG.example", 200), ("b.example", 403)):
            assert (await http.get("/listRequests", {"Host": host})).status == expected


async def test_international_public_url_matches_punycode_host_and_origin(tmp_path: Path) -> None:
    name = "xn--bcher-kva.example"
    async with open_http(tmp_path, server={"public_url": "https://bücher.example"}) as http:
        assert await dry_run_status(http, {"Host": name, "Origin": f"https://{name}"}) == 200


async def test_any_host_is_accepted_with_api_keys(tmp_path: Path) -> None:
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
async def test_malformed_host_returns_400(tmp_path: Path, host: str, keys: list[str]) -> None:
    async with open_http(tmp_path, server={"api_keys": keys}) as http:
        api_call = f"GET /openapi.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        response = await http.raw(api_call.encode())
        assert response.split(b" ", 2)[1] == b"400"
        assert b"application/problem+json" in response


async def test_repeated_or_missing_host_returns_400(http: HttpHarness) -> None:
    repeated = await http.raw(
        b"GET /listRequests HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"
    )
    missing = await http.raw(b"GET /listRequests HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (repeated.split(b" ", 2)[1], missing.split(b" ", 2)[1]) == (b"400", b"400")


async def test_http_1_0_without_host_uses_socket_address(http: HttpHarness) -> None:
    response = await http.raw(b"GET /openapi.json HTTP/1.0\r\n\r\n")
    assert response.split(b" ", 2)[1] == b"200"
    assert f'"url":"http://127.0.0.1:{http.port}"'.encode() in response


SHOP = "https://shop.example"


async def test_response_has_no_cors_headers_by_default(http: HttpHarness) -> None:
    response = await http.get("/listRequests", {"Origin": SHOP})
    assert not [name for name in response.headers if name.startswith("Access-Control")]
    preflight_headers = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    preflight = await http.call("OPTIONS", "/processImages", headers=preflight_headers)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("allowed", [SHOP, "https://Shop.example:443"])
async def test_response_has_cors_headers_only_for_origins_in_cors_origins(
    tmp_path: Path, allowed: str
) -> None:
    server = {"cors_origins": [allowed], "api_keys": ["k"]}
    async with open_http(tmp_path, server=server) as http:
        preflight_headers = {
            "Origin": SHOP,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key",
        }
        preflight = await http.call("OPTIONS", "/processImages", headers=preflight_headers)
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == SHOP
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        assert "X-API-Key" in preflight.headers["Access-Control-Allow-Headers"]
        headers = {**CSV, "Origin": SHOP, "Sec-Fetch-Site": "cross-site", "X-API-Key": "k"}
        response = await http.post("/processImages", csv_body(), headers)
        assert response.status == 201
        assert response.headers["Access-Control-Allow-Origin"] == SHOP
        assert "Location" in response.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in response.headers
        denied = await http.get("/listRequests", {"Origin": SHOP})
        assert denied.status == 401
        assert denied.headers["Access-Control-Allow-Origin"] == SHOP
        path = f"/checkStatus/{response.json()['requestId']}"
        assert (await http.get(path, headers)).headers["Vary"] == "Accept, Origin"
        other = {"Origin": "https://other.example", "X-API-Key": "k"}
        cross_origin = await http.get("/listRequests", other)
        assert "Access-Control-Allow-Origin" not in cross_origin.headers
        assert cross_origin.headers["Vary"] == "Origin"
        preflight_headers["Origin"] = "https://other.example"
        blocked = await http.call("OPTIONS", "/processImages", headers=preflight_headers)
        assert "Access-Control-Allow-Origin" not in blocked.headers
