"""Tests of the `Host` and `Origin` checks and of the CORS headers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.web.routes import ROUTES
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
        ("localhost.", True),
        ("[::1]:80", True),
        ("[2001:db8::1]", True),
        ("10.0.0.1:8080", True),
        ("203.0.113.7", True),
        ("nas", True),
        ("NAS:8080", True),
        ("nas.local", True),
        ("Images.Internal:80", True),
        ("a.b.home.arpa.", True),
        ("evil.example", False),
        ("evil.example.", False),
        ("EVIL.example:8080", False),
        ("evil.", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1.", False),
        ("127.1", False),
        ("localhost.evil.example", False),
        ("nas.local.evil.example", False),
        ("evillocal.example", False),
        ("notlocal.", False),
        (".local.example", False),
    ],
)
async def test_without_keys_only_hosts_of_the_local_network_are_accepted(
    http: HttpHarness, host: str, accepted: bool
) -> None:
    for method, path in (("GET", "/listRequests"), ("GET", "/"), ("POST", "/cancelRequest/x")):
        response = await http.call(method, path, headers={"Host": host})
        assert (response.status != 403) is accepted
        if not accepted:
            assert response.problem()["type"] == "urn:imgsvc:problem:foreign-host"
    assert (await http.get("/health/ready", {"Host": host})).status == 200


async def test_every_route_but_health_checks_the_host(http: HttpHarness) -> None:
    for route in ROUTES:
        path = re.sub(r"{(\w+)[^}]*}", "x", route.path)
        for method in route.methods:
            response = await http.call(method, path, headers={"Host": "evil.example"})
            assert (response.status == 403) is not path.startswith("/health/"), path
    assert (await http.get("/unknown", {"Host": "evil.example"})).status == 403


async def test_redirect_to_the_path_prefix_checks_the_host(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"public_url": "https://img.example/a"}) as http:
        assert (await http.get("/a", {"Host": "img.example"})).status == 308
        assert (await http.get("/a", {"Host": "evil.example"})).status == 403


async def test_host_check_does_not_depend_on_the_address_to_listen_on(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"host": "0.0.0.0"}) as http:
        assert (await http.get("/listRequests", {"Host": "evil.example"})).status == 403
        assert (await http.get("/listRequests", {"Host": "192.168.1.7"})).status == 200


async def test_hosts_of_public_url_and_allowed_hosts_are_accepted(tmp_path: Path) -> None:
    server = {"public_url": "https://img.example:8443", "allowed_hosts": ["Other.example"]}
    async with open_http(tmp_path, server=server) as http:
        for host, expected in (
            ("img.example:8443", 200),
            ("IMG.example", 200),
            ("img.example.", 200),
            ("other.example:80", 200),
            ("b.example", 403),
            ("a.other.example", 403),
        ):
            assert (await http.get("/listRequests", {"Host": host})).status == expected


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://evil.example/listRequests", b"403"),
        ("HTTP://evil.example:80/listRequests", b"403"),
        ("http://localhost:9/listRequests", b"200"),
        ("http://a@localhost/listRequests", b"400"),
    ],
)
async def test_host_of_absolute_target_counts_instead_of_the_header(
    http: HttpHarness, target: str, status: bytes
) -> None:
    for host in ("localhost", "evil.example"):
        call = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert (await http.raw(call.encode())).split(b" ", 2)[1] == status


async def test_international_public_url_matches_punycode_host_and_origin(tmp_path: Path) -> None:
    name = "xn--bcher-kva.example"
    async with open_http(tmp_path, server={"public_url": "https://bücher.example"}) as http:
        assert await dry_run_status(http, {"Host": name, "Origin": f"https://{name}"}) == 200


async def test_any_host_is_accepted_with_api_keys(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"api_keys": ["key-of-the-tests"]}) as http:
        headers = {"Host": "any.example", "X-API-Key": "key-of-the-tests"}
        assert (await http.get("/listRequests", headers)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "a b", 'x"y', "x/y", "x?y", "x,y", "a@b", "<x>", "x:y", "x:99999", "é", "x\\y"),
        *("[::1", "[1:2]:80", "[127.0.0.1]"),
    ],
)
@pytest.mark.parametrize("keys", [[], ["key-of-the-tests"]])
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
    server = {"cors_origins": [allowed], "api_keys": ["key-of-the-tests"]}
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
        headers = {
            **CSV,
            "Origin": SHOP,
            "Sec-Fetch-Site": "cross-site",
            "X-API-Key": "key-of-the-tests",
        }
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
        other = {"Origin": "https://other.example", "X-API-Key": "key-of-the-tests"}
        cross_origin = await http.get("/listRequests", other)
        assert "Access-Control-Allow-Origin" not in cross_origin.headers
        assert cross_origin.headers["Vary"] == "Origin"
        preflight_headers["Origin"] = "https://other.example"
        blocked = await http.call("OPTIONS", "/processImages", headers=preflight_headers)
        assert "Access-Control-Allow-Origin" not in blocked.headers
