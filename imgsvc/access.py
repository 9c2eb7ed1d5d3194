"""API keys, their roles, and the requests that a caller may see."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

UNNAMED_KEYS = "api_keys"
"""The owner of all requests that the keys in `server.api_keys` have made."""
MIN_KEY_CHARACTERS = 16
"""Minimum length of an API key. Shorter ones can be guessed."""


class Role(StrEnum):
    """What an API key allows."""

    READ = "read"
    """Reads everything, changes nothing."""
    SUBMIT = "submit"
    """Uploads, and does everything with its own requests. It sees no others."""
    ADMIN = "admin"
    """Everything."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An accepted API key. Its requests belong to `owner`. `digest` is the SHA-256 of the key."""

    name: str
    owner: str
    role: Role
    digest: bytes


def check_key(value: str) -> str:
    """Return an API key. Raise `ValueError` if it is too short or cannot be in a header."""
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("must be printable ASCII characters without spaces")
    if len(value) < MIN_KEY_CHARACTERS:
        raise ValueError(
            f"must have at least {MIN_KEY_CHARACTERS} characters; `openssl rand -hex 24` makes a key"
        )
    return value


def check_key_name(value: str) -> str:
    """Return the name of a key. Raise `ValueError` if it is invalid."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise ValueError("must be 1 to 64 letters, digits, full stops, underscores or hyphens")
    if value == UNNAMED_KEYS:
        raise ValueError(f"the name {UNNAMED_KEYS} belongs to the keys in server.api_keys")
    return value


def check_key_digest(value: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal digits. Raise `ValueError` if it is invalid."""
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise ValueError("must be a SHA-256: 64 hexadecimal digits")
    return value


def key_digest(key: str) -> bytes:
    """Return the SHA-256 of a key, as in `ApiKey.digest`."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes an API call: the name of its key, the owner of its requests, and its role.

    Name and owner are None if no keys are configured.
    """

    name: str | None = None
    owner: str | None = None
    role: Role = Role.ADMIN

    @property
    def visible_owner(self) -> str | None:
        """The owner whose requests the caller sees. None: it sees all requests."""
        return self.owner if self.role is Role.SUBMIT else None

    def may_see(self, owner: str | None) -> bool:
        """Return whether the caller sees the requests of an owner. None: requests without an owner."""
        return self.visible_owner in {None, owner}
