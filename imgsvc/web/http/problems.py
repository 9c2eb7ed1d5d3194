"""The Error Handler: turns every error into a problem report (RFC 9457) for people and programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from imgsvc.database.connection import (
    DatabaseDamagedError,
    DatabaseFullError,
    DatabaseUnavailableError,
)
from imgsvc.error_help import help_anchor
from imgsvc.errors import FileError, ProblemCode, ProblemError
from imgsvc.logs import RARELY
from imgsvc.machine_errors import MACHINE_ERROR_EVENT, is_machine_error
from imgsvc.serializers import file_error_json
from imgsvc.storage.base import StorageFullError, StorageUnavailableError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:imgsvc:problem:"
"""Prefix of a problem's `type`; the problem code follows. Stable, because programs compare it."""
DOCS_PATH: web.AppKey[str] = web.AppKey("docs_path", str)
"""Application key: path of the page that explains errors, after the path prefix of `public_url`."""
RESPONSE_STARTED: web.RequestKey[bool] = web.RequestKey("response_started", bool)
"""Request key: whether the headers of the response have been sent."""
MAX_ERRORS = 100
"""Maximum number of listed errors. The validator reports no more errors of a file than this."""
DEFAULT_RETRY_AFTER_SECONDS = 5
"""`Retry-After` of a 429 or 503 problem that does not set its own."""

PROBLEMS: Mapping[ProblemCode, tuple[int, str]] = {
    ProblemCode.INVALID_CSV: (400, "Invalid CSV"),
    ProblemCode.INVALID_OPTION: (400, "Invalid option"),
    ProblemCode.INVALID_BODY: (400, "Malformed request body"),
    ProblemCode.BAD_REQUEST: (400, "Malformed HTTP request"),
    ProblemCode.UNAUTHORIZED: (401, "Missing or invalid API key"),
    ProblemCode.FORBIDDEN: (403, "Not allowed for this API key"),
    ProblemCode.FOREIGN_HOST: (403, "Host not allowed"),
    ProblemCode.FOREIGN_ORIGIN: (403, "Cross-origin request blocked"),
    ProblemCode.NOT_FOUND: (404, "Not found"),
    ProblemCode.METHOD_NOT_ALLOWED: (405, "Method not allowed"),
    ProblemCode.UPLOAD_STALLED: (408, "Upload timed out"),
    ProblemCode.IDEMPOTENCY_KEY_BUSY: (409, "Upload already in progress"),
    ProblemCode.ALREADY_FINISHED: (409, "Already finished"),
    ProblemCode.NOT_FINISHED: (409, "Request not finished"),
    ProblemCode.NOTHING_FAILED: (409, "Nothing to retry"),
    ProblemCode.NOT_AVAILABLE: (409, "Not available"),
    ProblemCode.TOO_LARGE: (413, "Request body too large"),
    ProblemCode.TOO_MANY_IMAGES: (413, "Too many images"),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: (415, "Unsupported media type"),
    ProblemCode.RANGE_NOT_SATISFIABLE: (416, "Range not satisfiable"),
    ProblemCode.IDEMPOTENCY_KEY_REUSED: (422, "Idempotency key already used"),
    ProblemCode.TOO_MANY_ATTEMPTS: (429, "Too many wrong API keys"),
    ProblemCode.TOO_MUCH_WAITING: (429, "Too many pending images"),
    ProblemCode.INTERNAL: (500, "Internal error"),
    ProblemCode.UNAVAILABLE: (503, "Service unavailable"),
    ProblemCode.STORAGE_FULL: (503, "Storage full"),
}
"""HTTP status and title of each problem code."""


class HttpProblemError(ProblemError):
    """A problem with response headers of its own, or with a list of errors as JSON objects."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        error_items: Sequence[Mapping[str, object]] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(code, detail, retry_after=retry_after)
        self.headers = dict(headers or {})
        self.error_items = error_items


def problem_response(problem: ProblemError, docs_path: str) -> web.Response:
    """Return the problem report of an error as an HTTP response. `docs_path`: see `DOCS_PATH`."""
    status, title = PROBLEMS[problem.code]
    body: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{problem.code}",
        "title": title,
        "status": status,
        "detail": problem.detail,
        "help": f"{docs_path}#{help_anchor(problem.code)}",
    }
    headers = {"Content-Type": MEDIA_TYPE}
    if problem.errors:
        body["errors"] = [_error_json(error) for error in problem.errors]
        body["errorCount"] = problem.error_count
    if problem.columns:
        body["columns"] = list(problem.columns)
    if isinstance(problem, HttpProblemError):
        headers |= problem.headers
        if problem.error_items:
            body["errors"] = list(problem.error_items[:MAX_ERRORS])
            body["errorCount"] = len(problem.error_items)
    retry_after = problem.retry_after
    if retry_after is None and status in {429, 503}:
        retry_after = DEFAULT_RETRY_AFTER_SECONDS
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return web.Response(status=status, headers=headers, body=json.dumps(body).encode())


def _error_json(error: FileError) -> dict[str, Any]:
    """Return one error of a refused file."""
    body = file_error_json(error) | {"cells": error.cells}
    if error.suggestions:
        body["suggestions"] = [each._asdict() for each in error.suggestions]
    return body


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception of a handler into a problem report.

    If the response has started, close the connection instead.
    """
    try:
        return await handler(request)
    except Exception as error:
        if not request.get(RESPONSE_STARTED, False):
            return problem_response(_to_problem(request, error), request.app[DOCS_PATH])
        # Only an aborted connection shows the client that the response is incomplete.
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, ConnectionError):
            raise
        # For example: the request was deleted.
        if isinstance(error, OSError | ProblemError | StorageUnavailableError):
            log.warning("response aborted: %s %s: %s", request.method, request.path, error)
        else:
            log.exception("response aborted: %s %s", request.method, request.path)
        raise ConnectionResetError from error


def _to_problem(request: web.Request, error: Exception) -> ProblemError:
    """Return the problem for an exception of a handler. Log those that clients cannot avoid."""
    if isinstance(error, ConnectionError):
        raise error  # The client has disconnected and cannot read a response.
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, web.HTTPException):
        return _from_http_exception(error)
    if isinstance(error, DatabaseFullError | StorageFullError):
        log.warning("storage full: %s", error)
        detail = "The storage is full. Try again later."
        return ProblemError(ProblemCode.STORAGE_FULL, detail)
    if isinstance(error, DatabaseDamagedError):
        detail = "The database is damaged. Restore the backup: see OPERATIONS.md."
        return ProblemError(ProblemCode.UNAVAILABLE, detail)
    if isinstance(error, DatabaseUnavailableError | StorageUnavailableError):
        log.warning("unavailable: %s", error)
        part = "database" if isinstance(error, DatabaseUnavailableError) else "storage"
        detail = f"The {part} is unavailable. Try again later."
        return ProblemError(ProblemCode.UNAVAILABLE, detail)
    if is_machine_error(error):
        log.warning(MACHINE_ERROR_EVENT, extra={"reason": str(error), **RARELY})
        detail = "The service lacks file descriptors or memory, or its disk fails. Try again later."
        return ProblemError(ProblemCode.UNAVAILABLE, detail)
    log.error("internal error: %s %s", request.method, request.path, exc_info=error)
    detail = "An internal error occurred. See the service log."
    return ProblemError(ProblemCode.INTERNAL, detail)


def _from_http_exception(error: web.HTTPException) -> ProblemError:
    """Return the problem for an exception of aiohttp itself. Handlers raise `ProblemError`."""
    codes = {status: code for code, (status, _) in PROBLEMS.items()}
    code = codes.get(error.status, ProblemCode.INTERNAL)
    if error.status == HTTPStatus.BAD_REQUEST:
        code = ProblemCode.BAD_REQUEST
    return ProblemError(code, error.reason)
