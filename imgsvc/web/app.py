"""The HTTP layer: routes, and who may take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry

from imgsvc.config import Config
from imgsvc.database.queries import Queries
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.intake import Intake
from imgsvc.processing.events import Events
from imgsvc.processing.health import Health
from imgsvc.processing.request_actions import RequestActions
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.web.auth import ApiKeys, SessionHandler
from imgsvc.web.health import HealthHandler
from imgsvc.web.openapi import ApiDocs
from imgsvc.web.origin_policy import OriginPolicy
from imgsvc.web.outputs import OutputsHandler
from imgsvc.web.problems import Handler, HttpProblemError, answer_problems
from imgsvc.web.request_body import expect
from imgsvc.web.requests import RequestsHandler
from imgsvc.web.response_headers import finish_headers
from imgsvc.web.static_files import StaticFilesHandler
from imgsvc.web.status import StatusHandler
from imgsvc.web.uploads import UploadHandler

LINGER_SECONDS = 30.0
"""How long a client that was refused may go on sending before the connection is cut."""
REQUEST_LINE_BYTES = 32 * 1024
"""The longest request line: a `webhookUrl` of 8,192 characters fits in, percent-encoded."""
KEEP_ALIVE_SECONDS = 75.0
"""A connection without a call is closed after this; longer than proxies usually keep theirs."""


@dataclass(frozen=True, slots=True)
class AppContext:
    """What the HTTP layer works with."""

    config: Config
    intake: Intake
    snapshots: Queries
    control: RequestActions
    files: FilesystemStore
    events: Events
    health: Callable[[], Health]
    metrics: CollectorRegistry


class Access(Enum):
    """Who may take a route, and when."""

    API = "with a key, while the service runs"
    OPERATOR = "with a key, always"
    PUBLIC = "anyone, always"
    SUPERVISOR = "anyone, always, under any Host"


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path, and who answers."""

    method: str
    path: str
    handler: Handler
    access: Access = Access.API


def create_app(parts: AppContext) -> web.Application:
    """Build the application. It starts nothing and owns nothing."""
    origins = OriginPolicy(parts.config.server)
    keys = ApiKeys(parts.config.server.api_keys)
    operations = HealthHandler(parts.health, parts.metrics)
    app = web.Application(
        middlewares=[answer_problems, _preflights(origins)],
        handler_args={
            "auto_decompress": False,
            "handler_cancellation": True,  # A client that has gone is not worked for.
            "keepalive_timeout": KEEP_ALIVE_SECONDS,
            "lingering_time": LINGER_SECONDS,
            "max_line_size": REQUEST_LINE_BYTES,
        },
    )
    app.on_response_prepare.append(finish_headers(origins))
    gate = _Gate(origins, keys, operations)
    table = routes(parts, origins, keys, operations)
    for prefix in dict.fromkeys([origins.path, ""]):  # A proxy may or may not cut it off.
        _add(app, prefix, table, gate)
    if origins.path:
        app.router.add_get(origins.path, _to_folder, expect_handler=expect)
    app.router.add_route(
        "*", "/{path:(?s:.*)}", gate.guard(_not_found, Access.PUBLIC), expect_handler=expect
    )
    return app


def routes(
    parts: AppContext, origins: OriginPolicy, keys: ApiKeys, operations: HealthHandler
) -> list[Route]:
    """All routes there are. GET ones answer HEAD as well."""
    status = StatusHandler(parts.config, parts.snapshots, parts.events, parts.files, origins)
    requests = RequestsHandler(parts.snapshots, parts.control, parts.events, status)
    outputs = OutputsHandler(parts.snapshots, parts.files)
    uploads = UploadHandler(parts.config, parts.intake, origins)
    sessions = SessionHandler(keys, origins)
    described = ApiDocs(origins, with_keys=bool(keys))
    pages = StaticFilesHandler()
    public = Access.PUBLIC
    return [
        Route("POST", "/processImages", uploads.process_images),
        Route("GET", "/checkStatus/{request_id}", status.check_status),
        Route("GET", "/watchStatus/{request_id}", requests.watch_status),
        Route("GET", "/listRequests", requests.list_requests),
        Route("POST", "/cancelRequest/{request_id}", requests.cancel_request),
        Route("POST", "/retryFailed/{request_id}", requests.retry_failed),
        Route("DELETE", "/deleteRequest/{request_id}", requests.delete_request),
        Route("GET", "/downloadImages/{request_id}", outputs.download_images),
        Route("GET", "/images/{file}", outputs.image, public),
        Route("POST", "/session", sessions.sign_in, public),
        Route("DELETE", "/session", sessions.sign_out, public),
        Route("GET", "/health/live", operations.live, Access.SUPERVISOR),
        Route("GET", "/health/ready", operations.ready, Access.SUPERVISOR),
        Route("GET", "/metrics", operations.metrics, Access.OPERATOR),
        Route("GET", "/openapi.json", described.openapi, public),
        Route("GET", "/postman.json", described.postman, public),
        Route("GET", "/docs", pages.docs, public),
        Route("GET", "/static/{path:.+}", pages.static, public),
        Route("GET", "/", pages.index, public),
    ]


class _Gate:
    """Lets calls through to their handlers, or refuses them before a byte of their body is read."""

    def __init__(self, origins: OriginPolicy, keys: ApiKeys, operations: HealthHandler) -> None:
        self._origins = origins
        self._keys = keys
        self._operations = operations

    def guard(self, handler: Handler, access: Access) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._origins.check(request, any_host=access is Access.SUPERVISOR)
            if access in {Access.API, Access.OPERATOR}:
                self._keys.check(request)
            if access is Access.API:
                self._operations.refuse_unless_running()
            return await handler(request)

        return guarded


def _add(app: web.Application, prefix: str, table: list[Route], gate: _Gate) -> None:
    allowed: dict[str, list[str]] = {}
    for route in table:
        methods = [route.method, "HEAD"] if route.method == "GET" else [route.method]
        allowed.setdefault(route.path, []).extend(methods)
        for method in methods:
            guarded = gate.guard(route.handler, route.access)
            app.router.add_route(method, prefix + route.path, guarded, expect_handler=expect)
    for path, methods in allowed.items():
        refuse = gate.guard(_not_allowed(methods), Access.PUBLIC)
        app.router.add_route("*", prefix + path, refuse, expect_handler=expect)


def _not_allowed(methods: list[str]) -> Handler:
    allow = ", ".join(methods)

    async def refuse(request: web.Request) -> web.StreamResponse:
        raise HttpProblemError(
            ProblemCode.METHOD_NOT_ALLOWED,
            f"{request.path} takes {allow}, not {request.method}.",
            headers={"Allow": allow},
        )

    return refuse


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise ProblemError(ProblemCode.NOT_FOUND, f"There is nothing at {request.path}. See /docs.")


async def _to_folder(request: web.Request) -> web.StreamResponse:
    """The page's links are relative to a folder."""
    return web.Response(status=308, headers={"Location": f"{request.path}/"})


def _preflights(origins: OriginPolicy) -> Middleware:
    @web.middleware
    async def answer_preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
        if origins.is_preflight(request):
            return web.Response(status=204)
        return await handler(request)

    return answer_preflights
