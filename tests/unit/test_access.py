"""Tests of the configured API keys, of roles, and of what a caller may see."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from imgsvc.access import ApiKey, Caller, Role
from imgsvc.config import ServerConfig
from imgsvc.config_loader import load_config
from imgsvc.errors import ConfigError

KEY = "0123456789abcdef"
OTHER_KEY = "fedcba9876543210"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()


def entry(name: str = "shop", role: str = "submit", **key: str) -> dict[str, str]:
    """Return an entry of `[[server.keys]]`, by default with the key `KEY`."""
    return {"name": name, "role": role, **(key or {"key": KEY})}


def server(**settings: Any) -> ServerConfig:
    return ServerConfig.model_validate(settings)


@pytest.mark.parametrize("key", [{"key": KEY}, {"sha256": DIGEST}, {"sha256": DIGEST.upper()}])
def test_entry_accepts_a_key_or_its_sha256(key: dict[str, str]) -> None:
    digest = bytes.fromhex(DIGEST)
    assert server(keys=[entry(**key)]).all_keys == (ApiKey("shop", "shop", Role.SUBMIT, digest),)


def test_keys_in_api_keys_are_admins_that_share_an_owner() -> None:
    keys = server(api_keys=[KEY, OTHER_KEY], keys=[entry(key="another-key-of-16")]).all_keys
    assert [(key.name, key.owner, key.role) for key in keys] == [
        ("api_keys[0]", "api_keys", "admin"),
        ("api_keys[1]", "api_keys", "admin"),
        ("shop", "shop", "submit"),
    ]


def test_one_name_may_have_several_keys_of_one_role() -> None:
    assert len(server(keys=[entry(), entry(key=OTHER_KEY)]).all_keys) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": [entry(), entry(role="read", key=OTHER_KEY)]}, "shop must have the same role"),
        ({"keys": [entry(), entry("other")]}, "key of other is already set"),
        ({"keys": [entry(), entry("other", sha256=DIGEST)]}, "key of other is already set"),
        ({"api_keys": [KEY], "keys": [entry()]}, "key of shop is already set"),
        ({"keys": [entry("api_keys")]}, "belongs to the keys in server.api_keys"),
        ({"keys": [entry(key="short")]}, "at least 16 characters"),
        ({"keys": [entry(key="long but with a space")]}, "printable ASCII"),
        ({"keys": [entry(key=KEY, sha256=DIGEST)]}, "either key or sha256"),
        ({"keys": [{"name": "shop", "role": "read"}]}, "either key or sha256"),
        ({"api_keys": ["short"]}, "at least 16 characters"),
        *(
            ({"allowed_hosts": [host]}, "without a port")
            for host in ("", "http://a.example", "a.example:80", "a/b", "*.example", "[::1]")
        ),
    ],
)
def test_invalid_key_or_host_is_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        server(**settings)


@pytest.mark.parametrize(
    ("variable", "parts"),
    [
        ('[{"name": "a b", "role": "read", "key": "k"}]', ["server.keys[0].name"]),
        ('[{"name": "a", "role": "boss", "key": "k"}]', ["server.keys[0].role", "'submit'"]),
        ('[{"name": "a", "key": "k"}]', ["server.keys[0].role: is missing"]),
        ('[{"name": "a", "role": "read", "kee": "k"}]', ["keys[0].kee: unknown key"]),
        ('[{"name": "a", "role": "read", "sha256": "k"}]', ["server.keys[0].sha256"]),
        ('["a"]', ["server.keys[0]: must be a table"]),
    ],
)
def test_message_names_the_entry_and_its_key_without_secrets(
    variable: str, parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(environ={"IMGSVC_SERVER__KEYS": variable})
    for part in ["IMGSVC_SERVER__KEYS", *parts]:
        assert part in str(error.value)
    assert '"k"' not in str(error.value)
    assert "?" not in str(error.value)


def test_allowed_hosts_are_written_as_browsers_send_them() -> None:
    hosts = server(allowed_hosts=["Images.Example", "bücher.example", "a.example."]).allowed_hosts
    assert hosts == ("images.example", "xn--bcher-kva.example", "a.example")


@pytest.mark.parametrize(
    ("caller", "visible"),
    [
        (Caller(), {None, "shop", "api_keys"}),
        (Caller("api_keys[0]", "api_keys", Role.ADMIN), {None, "shop", "api_keys"}),
        (Caller("auditor", "auditor", Role.READ), {None, "shop", "api_keys"}),
        (Caller("shop", "shop", Role.SUBMIT), {"shop"}),
        (Caller("other", "other", Role.SUBMIT), set()),
    ],
)
def test_only_submit_keys_are_limited_to_their_own_requests(
    caller: Caller, visible: set[str | None]
) -> None:
    owners: list[str | None] = [None, "shop", "api_keys"]
    assert {owner for owner in owners if caller.may_see(owner)} == visible
