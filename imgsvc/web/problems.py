"""The Error Handler: every refusal, and every bug, as one form that people and programs can read."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from imgsvc.database.connection import DatabaseFullError, DatabaseUnavailableError
from imgsvc.errors import FileError, ProblemCode, ProblemError
from imgsvc.storage.filesystem import StorageFullError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:imgsvc:problem:"
"""What a problem's `type` begins with; the refusal's code follows. Stable: programs compare it."""
ANSWERED: web.RequestKey[bool] = web.RequestKey("answered", bool)
"""Whether a call's answer has begun to go out."""
MOST_CAUSES = 100
"""Of several causes, so many are listed; faults of a table come in no greater number."""
UNAVAILABLE_SECONDS = 5
"""When to try again where a refusal does not say."""

PROBLEMS: Mapping[ProblemCode, tuple[int, str]] = {
    ProblemCode.INVALID_CSV: (400, "The CSV is invalid"),
    ProblemCode.INVALID_OPTION: (400, "An option is invalid"),
    ProblemCode.INVALID_BODY: (400, "The body is not what it says it is"),
    ProblemCode.BAD_REQUEST: (400, "This is not a valid HTTP request"),
    ProblemCode.UNAUTHORIZED: (401, "An API key is needed"),
    ProblemCode.FOREIGN_ORIGIN: (403, "Refused to another web page"),
    ProblemCode.NOT_FOUND: (404, "Not found"),
    ProblemCode.METHOD_NOT_ALLOWED: (405, "Method not allowed"),
    ProblemCode.UPLOAD_STALLED: (408, "The upload stood still"),
    ProblemCode.IDEMPOTENCY_KEY_BUSY: (409, "The upload is still in progress"),
    ProblemCode.ALREADY_FINISHED: (409, "The request has already finished"),
    ProblemCode.NOT_FINISHED: (409, "The request has not finished"),
    ProblemCode.NOTHING_FAILED: (409, "Nothing has failed"),
    ProblemCode.TOO_LARGE: (413, "The upload is too large"),
    ProblemCode.TOO_MANY_IMAGES: (413, "Too many images"),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: (415, "Unsupported media type"),
    ProblemCode.RANGE_NOT_SATISFIABLE: (416, "No such range"),
    ProblemCode.IDEMPOTENCY_KEY_REUSED: (422, "The Idempotency-Key belongs to another upload"),
    ProblemCode.TOO_MUCH_WAITING: (429, "Too much is waiting"),
    ProblemCode.INTERNAL: (500, "Internal error"),
    ProblemCode.UNAVAILABLE: (503, "Not available now"),
    ProblemCode.STORAGE_FULL: (503, "The storage is full"),
}
"""The HTTP status and the title of each refusal."""


class HttpProblemError(ProblemError):
    """A refusal that only HTTP knows: with headers of its own, or with several causes."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        causes: Sequence[Mapping[str, object]] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(code, detail, retry_after=retry_after)
        self.headers = dict(headers or {})
        self.causes = causes


def problem_response(refusal: ProblemError) -> web.Response:
    """Render a refusal."""
    status, title = PROBLEMS[refusal.code]
    body: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{refusal.code}",
        "title": title,
        "status": status,
        "detail": refusal.detail,
    }
    headers = {"Content-Type": MEDIA_TYPE}
    if refusal.errors:
        body["errors"] = [file_error_json(fault) for fault in refusal.errors]
        body["errorCount"] = refusal.error_count
    if isinstance(refusal, HttpProblemError):
        headers |= refusal.headers
        if refusal.causes:
            body["errors"] = list(refusal.causes[:MOST_CAUSES])
            body["errorCount"] = len(refusal.causes)
    retry_after = refusal.retry_after
    if retry_after is None and status in {429, 503}:
        retry_after = UNAVAILABLE_SECONDS
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return web.Response(status=status, headers=headers, body=json.dumps(body).encode())


def file_error_json(fault: FileError) -> dict[str, object]:
    """Render one fault of a table."""
    return {
        "row": fault.row,
        "column": fault.column,
        "code": fault.code,
        "message": fault.message,
        "value": fault.value,
    }


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem report."""
    try:
        return await handler(request)
    except Exception as error:
        if not request.get(ANSWERED, False):
            return _answer(request, error)
        # Half an answer is out: only a cut connection tells the client that the rest is missing.
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, ConnectionError):
            raise
        if isinstance(error, OSError | ProblemError):  # what it tells of was deleted meanwhile, say
            log.warning("an answer was cut short: %s %s: %s", request.method, request.path, error)
        else:
            log.exception("an answer was cut short: %s %s", request.method, request.path)
        raise ConnectionResetError from error


def _answer(request: web.Request, error: Exception) -> web.Response:
    if isinstance(error, ConnectionError):
        raise error  # The client has gone; nobody reads an answer.
    if isinstance(error, ProblemError):
        return problem_response(error)
    if isinstance(error, web.HTTPException):
        return problem_response(_of_aiohttp(error))
    if isinstance(error, DatabaseFullError | StorageFullError):
        log.warning("no room: %s", error)
        detail = "The storage has no room left. Try again later."
        return problem_response(ProblemError(ProblemCode.STORAGE_FULL, detail))
    if isinstance(error, DatabaseUnavailableError):
        log.warning("the database is not available: %s", error)
        detail = "The database is not available. Try again later."
        return problem_response(ProblemError(ProblemCode.UNAVAILABLE, detail))
    log.error("a bug in %s %s", request.method, request.path, exc_info=error)
    detail = "Something went wrong here, and it is not your doing. The log says what."
    return problem_response(ProblemError(ProblemCode.INTERNAL, detail))


def _of_aiohttp(answer: web.HTTPException) -> ProblemError:
    """What aiohttp itself refuses; our own handlers raise `ProblemError`."""
    codes = {status: code for code, (status, _) in PROBLEMS.items()}
    code = codes.get(answer.status, ProblemCode.INTERNAL)
    if answer.status == HTTPStatus.BAD_REQUEST:
        code = ProblemCode.BAD_REQUEST
    return ProblemError(code, answer.reason)
