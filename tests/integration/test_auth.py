"""Tests of API keys and session cookies."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from imgsvc.access import key_digest
from imgsvc.service import running
from tests.harness.http import HttpHarness, HttpResponse, open_http
from tests.harness.service import config_of

KEYS = ["first-key-of-tests", "second-key-of-tests"]
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


def session_cookie(response: HttpResponse) -> dict[str, str]:
    """Return the header of API calls with the session that a response has started."""
    ((name, cookie),) = SimpleCookie(response.headers["Set-Cookie"]).items()
    return {"Cookie": f"{name}={cookie.value}"}


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
        {"Authorization": "Bearer first-key-of-tests"},
        {"Authorization": "bearer  second-key-of-tests"},
        {"X-API-Key": "second-key-of-tests"},
        {"X-API-Key": "wrong", "Authorization": "Bearer first-key-of-tests"},
    ],
)
async def test_valid_key_in_header_is_accepted(http: HttpHarness, headers: dict[str, str]) -> None:
    assert (await http.get("/listRequests", headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic first-key-of-tests"},
        {"Authorization": "first-key-of-tests"},
        {"X-API-Key": ""},
        {"X-API-Key": "first-ke"},
        {"X-API-Key": "first-key-of-tests,second-key-of-tests"},
        {"X-API-Key": "é"},
        {"Cookie": "imgsvc_session=first-key-of-tests"},
        {"Cookie": "imgsvc_session="},
    ],
)
async def test_invalid_key_or_cookie_returns_401(
    http: HttpHarness, headers: dict[str, str]
) -> None:
    assert (await http.get("/listRequests", headers)).status == 401


@pytest.mark.parametrize("query", ["apiKey", "api_key", "key", "X-API-Key", "access_token"])
async def test_key_in_query_string_returns_401(http: HttpHarness, query: str) -> None:
    assert (await http.get(f"/listRequests?{query}=first-key-of-tests")).status == 401


async def test_sign_in_sets_cookie_that_is_accepted_like_key(http: HttpHarness) -> None:
    response = await sign_in(http)
    assert response.status == 204
    cookie = SimpleCookie(response.headers["Set-Cookie"])["imgsvc_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == "/"
    assert not cookie["secure"]
    assert "first-key-of-tests" not in response.headers["Set-Cookie"]
    headers = session_cookie(response)
    assert (await http.get("/listRequests", headers)).status == 200
    assert (await http.get(f"/watchStatus/{UNKNOWN}", headers)).status == 404


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"apiKey": "wrong"}', JSON, 401),
        (b'{"apiKey": ""}', JSON, 401),
        (b'{"apiKey": "\\ud800"}', JSON, 401),
        (b'{"apiKey": 1}', JSON, 400),
        (b'{"key": "first-key-of-tests"}', JSON, 400),
        (b'"first-key-of-tests"', JSON, 400),
        (b"[" * 4_000, JSON, 400),
        (b"\xff", JSON, 400),
        (b"", JSON, 400),
        (b'{"apiKey": "first-key-of-tests"}', {"Content-Type": "text/plain"}, 415),
        (b'{"apiKey": "first-key-of-tests"}', {"Content-Type": "text/plain; a*=idna''%ff"}, 415),
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


async def test_sign_out_deletes_cookie_and_ends_session(http: HttpHarness) -> None:
    signed_in = [session_cookie(await sign_in(http)) for _ in range(2)]
    response = await http.call("DELETE", "/session", headers=signed_in[0])
    assert response.status == 204
    statuses = [(await http.get("/listRequests", each)).status for each in signed_in]
    assert statuses == [401, 200]
    cookie = SimpleCookie(response.headers["Set-Cookie"])["imgsvc_session"]
    assert cookie.value == ""
    assert cookie["max-age"] == "0"


async def test_sign_in_ends_the_session_of_the_cookie(http: HttpHarness) -> None:
    old = session_cookie(await sign_in(http))
    body = f'{{"apiKey": "{KEYS[1]}"}}'.encode()
    new = session_cookie(await http.post("/session", body, JSON | old))
    assert (await http.get("/listRequests", old)).status == 401
    assert (await http.get("/session", new)).json()["name"] == "api_keys[1]"


async def test_session_survives_restart_and_ends_when_its_key_is_removed(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"api_keys": KEYS}) as http:
        cookies = [session_cookie(await sign_in(http, key)) for key in KEYS]

    async def statuses(keys: list[str]) -> list[int]:
        async with open_http(tmp_path, server={"api_keys": keys}) as http:
            digests = [key_digest(key) for key in keys]
            await http.service.stores.session_store.recover(digests)
            return [(await http.get("/listRequests", cookie)).status for cookie in cookies]

    assert await statuses(KEYS) == [200, 200]
    assert await statuses(KEYS[1:]) == [401, 200]
    assert await statuses(KEYS) == [401, 200], "the session does not return with its key"


async def test_service_ends_sessions_of_removed_keys_at_its_start(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"api_keys": KEYS}) as http:
        cookie = session_cookie(await sign_in(http))
    config = config_of(tmp_path / "data", server={"api_keys": KEYS[1:], "port": 0})
    async with running(config, listen=False):
        pass
    async with open_http(tmp_path, server={"api_keys": KEYS}) as http:
        assert (await http.get("/listRequests", cookie)).status == 401


@pytest.mark.parametrize("path", ["", "/img"])
async def test_cookie_is_bound_to_https_and_the_path_of_public_url(
    tmp_path: Path, path: str
) -> None:
    server = {"api_keys": KEYS, "public_url": f"https://x.example{path}"}
    async with open_http(tmp_path, server=server) as http:
        response = await sign_in(http)
        ((name, cookie),) = SimpleCookie(response.headers["Set-Cookie"]).items()
        assert name == ("__Secure-imgsvc_session" if path else "__Host-imgsvc_session")
        assert (cookie["path"], cookie["secure"], cookie["domain"]) == (path or "/", True, "")
        assert (await http.get("/listRequests", session_cookie(response))).status == 200


async def test_session_has_name_and_role_of_its_key(tmp_path: Path) -> None:
    key = {"name": "shop", "role": "submit", "key": KEYS[0]}
    async with open_http(tmp_path, server={"keys": [key]}) as http:
        assert (await http.get("/session")).status == 401
        for headers in (session_cookie(await sign_in(http)), {"X-API-Key": KEYS[0]}):
            response = await http.get("/session", headers)
            assert response.json() == {"name": "shop", "role": "submit"}
            assert (await http.get("/metrics", headers)).status == 403


async def test_all_routes_are_open_without_configured_keys(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        assert (await http.get("/listRequests")).status == 200
        assert (await http.get("/session")).json() == {"name": None, "role": "admin"}
        response = await sign_in(http)
        assert (response.status, "Set-Cookie" in response.headers) == (204, False)


async def test_check_compares_all_keys_for_constant_time(
    http: HttpHarness, monkeypatch: pytest.MonkeyPatch, comparisons: Callable[[], int]
) -> None:
    """The duration must not reveal which key matches, or how much of it."""
    for key in (KEYS[0], KEYS[1], "wrong"):
        before = comparisons()
        await http.get("/listRequests", {"X-API-Key": key})
        assert comparisons() - before == len(KEYS)


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


async def wrong_keys(http: HttpHarness) -> float:
    """Return how many wrong keys `/metrics` counts."""
    metrics = (await http.get("/metrics", {"X-API-Key": KEYS[0]})).body.decode()
    (count,) = re.findall(r"^imgsvc_wrong_keys_total (\S+)$", metrics, re.MULTILINE)
    return float(count)


async def test_wrong_keys_are_limited_per_address_and_counted(
    http: HttpHarness, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        assert (await http.get("/listRequests")).status == 401, "no key is not a wrong key"
        cookie = {"Cookie": "imgsvc_session=ended"}
        assert (await http.get("/listRequests", cookie)).status == 401
    for _ in range(5):
        assert (await http.get("/listRequests", {"X-API-Key": "wrong"})).status == 401
        assert (await sign_in(http, "wrong")).status == 401
    assert [r.getMessage() for r in caplog.records if "wrong" in r.msg] == ["many wrong API keys"]
    for response in (
        await http.get("/listRequests", {"Authorization": "Bearer wrong"}),
        await http.get("/session", {"X-API-Key": "wrong"}),
        await sign_in(http, "wrong"),
    ):
        assert response.status == 429
        assert response.problem()["type"] == "urn:imgsvc:problem:too-many-attempts"
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert (await http.get("/listRequests", {"X-API-Key": KEYS[0]})).status == 200
    assert (await http.get("/listRequests", session_cookie(await sign_in(http)))).status == 200
    assert await wrong_keys(http) == 13
    assert [r.getMessage() for r in caplog.records if "wrong" in r.msg] == ["many wrong API keys"]
