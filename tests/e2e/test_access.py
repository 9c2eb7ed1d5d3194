"""Tests of keys, sessions and the access log with a real process."""

from __future__ import annotations

import hashlib
import json

from tests.conftest import StartService
from tests.origin import Origin
from tests.service_process import Service, table

SHOP_KEY, BOSS_KEY = "key-of-the-shop-tests", "key-of-the-boss-tests"
KEYS = [
    {"name": "shop", "role": "submit", "sha256": hashlib.sha256(SHOP_KEY.encode()).hexdigest()},
    {"name": "boss", "role": "admin", "key": BOSS_KEY},
]
SHOP, BOSS = {"X-API-Key": SHOP_KEY}, {"Authorization": f"Bearer {BOSS_KEY}"}


def sign_in(service: Service, key: str) -> dict[str, str]:
    """Return the header with the cookie of a new session."""
    body = json.dumps({"apiKey": key}).encode()
    response = service.post("/session", body, {"Content-Type": "application/json"})
    assert response.status == 204, response.body
    return {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}


def test_owner_session_and_idempotency_key_survive_a_crash(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service(environ={"IMGSVC_SERVER__KEYS": json.dumps(KEYS)})
    body = table([(1, "Lamp", origin.url("/1.jpg"))])
    headers = SHOP | {"Idempotency-Key": "weekly"}
    created = service.post("/processImages", body, headers)
    path = f"/checkStatus/{created.json()['requestId']}"
    shop, boss = sign_in(service, SHOP_KEY), sign_in(service, BOSS_KEY)
    assert service.call("DELETE", "/session", headers=boss).status == 204
    service.kill()
    service.restart()
    assert [service.get(path, each).status for each in (SHOP, BOSS, shop, boss, {})] == [
        *(200, 200, 200),
        *(401, 401),
    ]
    assert service.get("/session", shop).json() == {"name": "shop", "role": "submit"}
    assert service.post("/processImages", body, headers).headers["Idempotent-Replayed"] == "true"
    assert service.get("/metrics", shop).status == 403
    calls = [each for each in service.records() if each.get("logger") == "imgsvc.access"]
    uploads = [(each["key"], each["status"]) for each in calls if each["path"] == "/processImages"]
    assert uploads == [("shop", 201), ("shop", 201)]
    assert SHOP_KEY not in service.log()
    assert BOSS_KEY not in service.log()


def test_requests_of_a_service_without_keys_are_for_admins_once_it_has_keys(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    request_id = service.upload(table([(1, "Lamp", origin.url("/1.jpg"))]))
    path = f"/checkStatus/{request_id}"
    assert service.get(path, {"Host": "evil.example"}).status == 403
    service.stop()
    service.settings["server"]["keys"] = KEYS
    service.restart()
    assert [service.get(path, each).status for each in (SHOP, BOSS, {})] == [404, 200, 401]
    assert service.get(path, BOSS | {"Host": "any.example"}).status == 200
