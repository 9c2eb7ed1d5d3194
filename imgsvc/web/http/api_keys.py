"""Authentication by API key in a header, or by the session cookie of the web page. Never in a URL."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Sequence

from aiohttp import web
from prometheus_client import Counter

from imgsvc.access import ApiKey, Caller, key_digest
from imgsvc.database.session_store import SessionStore
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.web.http.attempts import WrongKeys, attempt_address
from imgsvc.web.http.problems import HttpProblemError

log = logging.getLogger(__name__)

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
"""Request key: who makes the API call. Set for all routes that need a key, and at a sign-in."""


class Authentication:
    """Finds out who makes an API call, by the configured keys and the stored sessions.

    Without any key, every caller may do everything. `cookie` is the name of the session cookie.
    """

    def __init__(
        self, keys: Sequence[ApiKey], sessions: SessionStore, wrong_keys: Counter, cookie: str
    ) -> None:
        self._keys = {key.digest: key for key in reversed(keys)}
        self._sessions = sessions
        self._wrong_keys = WrongKeys()
        self._wrong_keys_counter = wrong_keys
        self.cookie = cookie

    def __bool__(self) -> bool:
        return bool(self._keys)

    async def caller(self, request: web.Request) -> Caller:
        """Return who makes an API call.

        Raise `ProblemError` UNAUTHORIZED without a valid key or session, or TOO_MANY_ATTEMPTS if its
        address has sent too many wrong keys.
        """
        if not self._keys:
            return Caller()
        sent = _sent_keys(request)
        digest = self._valid_digest(sent)
        if digest is None and (token := request.cookies.get(self.cookie)):
            digest = await self._sessions.find(token, self._keys, time.time())
        if digest is None:
            hint = "Send a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
            raise self._wrong_key(request, hint) if sent else _unauthorized(hint)
        return self._caller_with(digest)

    async def sign_in(self, request: web.Request, key: str) -> str:
        """Start a session, and end that of the API call's cookie. Return the token of the new one.

        Raise `ProblemError` if the key is wrong.
        """
        digest = self._valid_digest([key])
        if digest is None:
            raise self._wrong_key(request, "Invalid API key.")
        request[CALLER] = self._caller_with(digest)
        await self.sign_out(request)
        return await self._sessions.create(digest, time.time())

    async def sign_out(self, request: web.Request) -> None:
        """End the session of an API call, if it has one."""
        if token := request.cookies.get(self.cookie):
            await self._sessions.end(token)

    def _caller_with(self, digest: bytes) -> Caller:
        key = self._keys[digest]
        return Caller(key.name, key.owner, key.role)

    def _valid_digest(self, sent: Sequence[str]) -> bytes | None:
        """Return the digest of the first valid key, or None.

        Compares with every key in constant time, so that the duration reveals nothing about the keys.
        """
        found = None
        for digest in map(key_digest, sent):
            for known in self._keys:
                if hmac.compare_digest(digest, known):
                    found = found or known
        return found

    def _wrong_key(self, request: web.Request, detail: str) -> ProblemError:
        """Count a wrong key. Return the problem to report."""
        self._wrong_keys_counter.inc()
        address = attempt_address(request.remote)
        wait = self._wrong_keys.record(address, time.monotonic())
        if wait:
            return ProblemError(
                ProblemCode.TOO_MANY_ATTEMPTS,
                f"Too many wrong API keys came from your address. Try again in {wait} s, or send a "
                "valid key.",
                retry_after=wait,
            )
        if self._wrong_keys.is_at_limit(address):
            log.warning("many wrong API keys", extra={"client": address})
        return _unauthorized(detail)


def _sent_keys(request: web.Request) -> list[str]:
    """Return the keys in the headers of an API call."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    keys = [request.headers.get("X-API-Key", "")]
    if scheme.lower() == "bearer":
        keys.append(token.strip())
    return [key for key in keys if key]


def _unauthorized(detail: str) -> ProblemError:
    return HttpProblemError(
        ProblemCode.UNAUTHORIZED,
        detail,
        headers={"WWW-Authenticate": 'Bearer realm="imgsvc"'},
    )
