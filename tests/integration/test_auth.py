"""Tests of API keys and session cookies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from tests.harness.http import HttpHarness, HttpResponse, open_http

KEYS = ["first-key", "second-key"]
JSON = {"Content-Type": "application/json"}
UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"
PROTECTED = [
    ("POST", "/processImages"),
    ("GET", f"/checkStatus/{UNKNOWN}"),
    ("HEAD", f"/checkStatus/{UNKNOWN}"),
    ("GET", f"/watchStatus/{UNKNOWN}"),
    ("GET", "/listRequests"),
    ("POST", f"/cancelRequest/{UNKNOWN}"),
    ("POST", f"/retryFailed/{UNKNOWN}"),
    ("DELETE", f"/deleteRequest/{UNKNOWN}"),
    ("GET", f"/downloadImages/{UNKNOWN}"),
    ("GET", "/metrics"),
]
PUBLIC = [
    "/health/live",
    "/health/ready",
    "/",
    "/static/app.js",
    "/docs",
    "/openapi.json",
    "/postman.json",
]


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path, server={"api_keys": KEYS}) as http:
        yield http


def session_cookie(response: HttpResponse) -> str:
    cookie = SimpleCookie(response.headers["Set-Cookie"])
    return f"imgsvc_session={cookie['imgsvc_session'].value}"


async def sign_in(http: HttpHarness, key: str = KEYS[0]) -> HttpResponse:
    return await http.post("/session", f'{{"apiKey": "{key}"}}'.encode(), JSON)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_protected_routes_return_401_without_key(
    http: HttpHarness, method: str, path: str
) -> None:
    response = await http.call(method, path)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    if method != "HEAD":
        assert response.problem()["type"] == "urn:imgsvc:problem:unauthorized"


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_routes_need_no_key(http: HttpHarness, path: str) -> None:
    assert (await http.get(path)).status == 200


async def test_images_need_no_key(http: HttpHarness) -> None:
    assert (await http.get(f"/images/{'0' * 32}.jpg")).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer  second-key"},
        {"X-API-Key": "second-key"},
        {"X-API-Key": "wrong", "Authorization": "Bearer first-key"},
    ],
)
async def test_valid_key_in_header_is_accepted(http: HttpHarness, headers: dict[str, str]) -> None:
    assert (await http.get("/listRequests", headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic first-key"},
        {"Authorization": "first-key"},
        {"X-API-Key": ""},
        {"X-API-Key": "first-ke"},
        {"X-API-Key": "first-key,second-key"},
        {"X-API-Key": "é"},
        {"Cookie": "imgsvc_session=first-key"},
        {"Cookie": "imgsvc_session="},
    ],
)
async def test_invalid_key_or_cookie_returns_401(
    http: HttpHarness, headers: dict[str, str]
) -> None:
    assert (await http.get("/listRequests", headers)).status == 401


@pytest.mark.parametrize("query", ["apiKey", "api_key", "key", "X-API-Key", "access_token"])
async def test_key_in_query_string_returns_401(http: HttpHarness, query: str) -> None:
    assert (await http.get(f"/listRequests?{query}=first-key")).status == 401


async def test_sign_in_sets_cookie_that_is_accepted_like_key(http: HttpHarness) -> None:
    response = await sign_in(http)
    assert response.status == 204
    cookie = SimpleCookie(response.headers["Set-Cookie"])["imgsvc_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == "/"
    assert not cookie["secure"]
    assert "first-key" not in response.headers["Set-Cookie"]
    headers = {"Cookie": session_cookie(response)}
    assert (await http.get("/listRequests", headers)).status == 200
    assert (await http.get(f"/watchStatus/{UNKNOWN}", headers)).status == 404


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"apiKey": "wrong"}', JSON, 401),
        (b'{"apiKey": ""}', JSON, 401),
        (b'{"apiKey": "\\ud800"}', JSON, 401),
        (b'{"apiKey": 1}', JSON, 400),
        (b'{"key": "first-key"}', JSON, 400),
        (b'"first-key"', JSON, 400),
        (b"[" * 4_000, JSON, 400),
        (b"\xff", JSON, 400),
        (b"", JSON, 400),
        (b'{"apiKey": "first-key"}', {"Content-Type": "text/plain"}, 415),
        (b'{"apiKey": "first-key"}', {"Content-Type": "text/plain; a*=idna''%ff"}, 415),
        (b" " * 5_000, JSON, 413),
    ],
)
async def test_sign_in_with_invalid_body_or_key_sets_no_cookie(
    http: HttpHarness, body: bytes, headers: dict[str, str], status: int
) -> None:
    response = await http.post("/session", body, headers)
    assert response.status == status
    response.problem()
    assert "Set-Cookie" not in response.headers


async def test_sign_out_deletes_cookie(http: HttpHarness) -> None:
    response = await http.call("DELETE", "/session")
    assert response.status == 204
    cookie = SimpleCookie(response.headers["Set-Cookie"])["imgsvc_session"]
    assert cookie.value == ""
    assert cookie["max-age"] == "0"


async def test_cookie_is_invalid_when_its_key_is_removed(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    async with open_http(tmp_path / "a", server={"api_keys": KEYS}) as http:
        cookies = {key: {"Cookie": session_cookie(await sign_in(http, key))} for key in KEYS}
        assert cookies[KEYS[0]] != cookies[KEYS[1]]
    async with open_http(tmp_path / "b", server={"api_keys": KEYS[1:]}) as http:
        assert (await http.get("/listRequests", cookies[KEYS[0]])).status == 401
        assert (await http.get("/listRequests", cookies[KEYS[1]])).status == 200


async def test_cookie_has_path_and_secure_flag_of_public_url(tmp_path: Path) -> None:
    server = {"api_keys": KEYS, "public_url": "https://x.example/img"}
    async with open_http(tmp_path, server=server) as http:
        cookie = SimpleCookie((await sign_in(http)).headers["Set-Cookie"])["imgsvc_session"]
        assert cookie["path"] == "/img"
        assert cookie["secure"]


async def test_all_routes_are_open_without_configured_keys(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        assert (await http.get("/listRequests")).status == 200
        response = await sign_in(http)
        assert (response.status, "Set-Cookie" in response.headers) == (204, False)


async def test_check_compares_all_keys_for_constant_time(
    http: HttpHarness, monkeypatch: pytest.MonkeyPatch, comparisons: Callable[[], int]
) -> None:
    """The duration must not reveal which key matches, or how much of it."""
    for key in (KEYS[0], KEYS[1], "wrong"):
        before = comparisons()
        await http.get("/listRequests", {"X-API-Key": key})
        assert comparisons() - before == 2 * len(KEYS)


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that returns the number of calls of `hmac.compare_digest`."""
    import hmac  # noqa: PLC0415

    calls = 0
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        nonlocal calls
        calls += 1
        return compare(a, b)

    monkeypatch.setattr("imgsvc.web.http.api_keys.hmac.compare_digest", counted)
    return lambda: calls
