"""Authentication by API key in a header, or by the session cookie of the web page. Never in a URL."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from aiohttp import web

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.http.problems import HttpProblemError

COOKIE = "imgsvc_session"
"""Name of the session cookie."""


class ApiKeys:
    """The configured API keys and the session cookies derived from them.

    Without any key, every API call is allowed.
    """

    def __init__(self, api_keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in api_keys]
        self._sessions = [_session_token(key) for key in self._keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def check(self, request: web.Request) -> None:
        """Raise `ProblemError` unless the API call has a valid key or session cookie."""
        if self._keys and not self._is_valid(request):
            raise _unauthorized(
                "Send a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
            )

    def session_for(self, key: str) -> str:
        """Return the session cookie's value for a key. Raise `ProblemError` if the key is invalid.

        The value is derived from the key by a one-way function. It is accepted wherever the key is,
        and stays valid as long as the key is configured.
        """
        encoded = _encode(key)
        if not _is_one_of(encoded, self._keys):
            raise _unauthorized("Invalid API key.")
        return _session_token(encoded).decode()

    def _is_valid(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        candidates = [request.headers.get("X-API-Key", "")]
        if scheme.lower() == "bearer":
            candidates.append(token.strip())
        valid = _is_one_of(_encode(request.cookies.get(COOKIE, "")), self._sessions)
        for key in candidates:
            valid |= _is_one_of(_encode(key), self._keys)
        return valid


def _session_token(key: bytes) -> bytes:
    return hmac.new(key, b"imgsvc session 1", hashlib.sha256).hexdigest().encode()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _is_one_of(candidate: bytes, known: Sequence[bytes]) -> bool:
    """Return whether `candidate` is in `known`.

    Compares with every value in constant time, so that the duration reveals nothing about the keys.
    """
    found = False
    for value in known:
        found |= hmac.compare_digest(candidate, value)
    return found


def _unauthorized(detail: str) -> ProblemError:
    return HttpProblemError(
        ProblemCode.UNAUTHORIZED,
        detail,
        headers={"WWW-Authenticate": 'Bearer realm="imgsvc"'},
    )
