"""The route table: one row for each route. To add a route, write its handler and add a row here.

A property that only some routes have, such as the role that a key needs, is a new column of `Route`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imgsvc.errors import ProblemCode as Code
from imgsvc.table.xlsx_writer import XLSX_MEDIA_TYPE
from imgsvc.web.context import AppContext
from imgsvc.web.handlers.api_docs import ApiDocsHandler
from imgsvc.web.handlers.health import HealthHandler
from imgsvc.web.handlers.outputs import OutputsHandler
from imgsvc.web.handlers.requests import RequestsHandler
from imgsvc.web.handlers.sample import SampleHandler
from imgsvc.web.handlers.sessions import SessionHandler
from imgsvc.web.handlers.static_files import StaticFilesHandler
from imgsvc.web.handlers.status import StatusHandler
from imgsvc.web.handlers.uploads import UploadHandler
from imgsvc.web.http.api_keys import Authentication
from imgsvc.web.http.origin_policy import OriginPolicy
from imgsvc.web.schema import parameters as p
from imgsvc.web.schema import responses
from imgsvc.web.schema.image_responses import IMAGE_RESPONSES, THUMBNAIL_RESPONSES
from imgsvc.web.schema.options import (
    CancelQuery,
    ListQuery,
    RepeatFields,
    RetryQuery,
    StatusQuery,
    UploadFields,
)
from imgsvc.web.schema.route import Access, MediaType, ResponseSpec, Route, json_content


class Handlers:
    """The handlers of all routes, with the components that they use.

    `describe_api` returns the OpenAPI document.
    """

    def __init__(
        self,
        context: AppContext,
        origin_policy: OriginPolicy,
        authentication: Authentication,
        describe_api: Callable[[], dict[str, Any]],
    ) -> None:
        config, queries, scratch = context.config, context.queries, context.scratch
        self.uploads = UploadHandler(
            config, context.intake, origin_policy, context.connections.body
        )
        self.status = StatusHandler(config, queries, context.events, scratch, origin_policy)
        self.requests = RequestsHandler(
            queries, context.actions, context.events, self.status, context.event_stream
        )
        self.outputs = OutputsHandler(queries, context.store, context.thumbnails, scratch)
        self.sessions = SessionHandler(authentication, origin_policy)
        self.health = HealthHandler(context.health, context.metrics.registry)
        self.api_docs = ApiDocsHandler(origin_policy, context.sample, describe_api)
        self.sample = SampleHandler(context.sample, origin_policy)
        self.static_files = StaticFilesHandler()


ROUTES: tuple[Route[Handlers], ...] = (
    Route(
        "POST",
        "/processImages",
        lambda handlers: handlers.uploads.process_images,
        tag="Requests",
        operation_id="processImages",
        summary="Upload a CSV of products with image URLs",
        description="Send the file, CSV or .xlsx, as the body, and options in the query string. "
        "`text/csv` and the other media types of such files are accepted too. Or send a form: its one "
        "part with a file name is the file, and its other fields are options. The columns `Product "
        "Name` and `Input Image Urls` are required and `S. No.` is optional. All other columns are "
        "returned unchanged.",
        query=UploadFields,
        request_headers=(p.IDEMPOTENCY_KEY,),
        request_body={"application/octet-stream": None, "multipart/form-data": UploadFields},
        responses={
            200: ResponseSpec("Dry run: the file is valid.", json_content(responses.DryRunResult)),
            201: ResponseSpec(
                "Accepted and stored.",
                json_content(responses.AcceptedUpload),
                (p.LOCATION, p.IDEMPOTENT_REPLAYED),
            ),
        },
        errors=(
            Code.INVALID_CSV,
            Code.INVALID_BODY,
            Code.UPLOAD_STALLED,
            Code.IDEMPOTENCY_KEY_BUSY,
            Code.TOO_LARGE,
            Code.TOO_MANY_IMAGES,
            Code.UNSUPPORTED_MEDIA_TYPE,
            Code.IDEMPOTENCY_KEY_REUSED,
            Code.TOO_MUCH_WAITING,
            Code.STORAGE_FULL,
        ),
    ),
    Route(
        "GET",
        "/checkStatus/{requestId}",
        lambda handlers: handlers.status.check_status,
        tag="Requests",
        operation_id="checkStatus",
        summary="Get the status of a request, as CSV, JSON or .xlsx",
        path_parameters=(p.REQUEST_ID,),
        query=StatusQuery,
        request_headers=(p.IF_NONE_MATCH,),
        responses={
            200: ResponseSpec(
                "The status. `Accept` or `format` selects the format; the default is CSV.",
                (
                    MediaType("text/csv"),
                    *json_content(responses.StatusResponse),
                    MediaType(XLSX_MEDIA_TYPE),
                ),
                (*p.STATUS_HEADERS, p.CONTENT_DISPOSITION),
            ),
            304: ResponseSpec(
                "Not changed since the version in `If-None-Match`.", (), p.STATUS_HEADERS
            ),
        },
        errors=(Code.NOT_FOUND, Code.NOT_AVAILABLE),
    ),
    Route(
        "GET",
        "/watchStatus/{requestId}",
        lambda handlers: handlers.requests.watch_status,
        tag="Requests",
        operation_id="watchStatus",
        summary="Follow the progress of a request (server-sent events)",
        path_parameters=(p.REQUEST_ID,),
        request_headers=(p.LAST_EVENT_ID,),
        responses={
            200: ResponseSpec(
                "`progress` events, then one `finished` event. The data of each event is the status "
                "JSON without `products`.",
                (MediaType("text/event-stream"),),
            ),
            204: ResponseSpec("The request has finished and `Last-Event-ID` is its last event."),
        },
        errors=(Code.NOT_FOUND,),
    ),
    Route(
        "GET",
        "/listRequests",
        lambda handlers: handlers.requests.list_requests,
        tag="Requests",
        operation_id="listRequests",
        summary="List requests, newest first",
        query=ListQuery,
        responses={200: ResponseSpec("One page of requests.", json_content(responses.RequestList))},
    ),
    Route(
        "POST",
        "/cancelRequest/{requestId}",
        lambda handlers: handlers.requests.cancel_request,
        tag="Requests",
        operation_id="cancelRequest",
        summary="Cancel a request, or its images of one host",
        description="Cancels all images that are waiting or being downloaded. Images in a worker are "
        "completed, and finished images stay. Then the request is finished and its webhook is sent. "
        "With `host`, the images of other hosts continue.",
        path_parameters=(p.REQUEST_ID,),
        query=CancelQuery,
        responses={
            200: ResponseSpec(
                "The new status.", json_content(responses.StatusResponse), p.STATUS_HEADERS
            )
        },
        errors=(Code.NOT_FOUND, Code.ALREADY_FINISHED),
    ),
    Route(
        "POST",
        "/retryFailed/{requestId}",
        lambda handlers: handlers.requests.retry_failed,
        tag="Requests",
        operation_id="retryFailed",
        summary="Retry failed images, and cancelled ones",
        description="The request runs again. When it has finished, its webhook is sent again.",
        path_parameters=(p.REQUEST_ID,),
        query=RetryQuery,
        responses={
            202: ResponseSpec(
                "The new status.", json_content(responses.StatusResponse), p.STATUS_HEADERS
            )
        },
        errors=(Code.NOT_FOUND, Code.NOT_FINISHED, Code.NOTHING_FAILED),
    ),
    Route(
        "POST",
        "/repeatRequest/{requestId}",
        lambda handlers: handlers.uploads.repeat_request,
        tag="Requests",
        operation_id="repeatRequest",
        summary="Repeat a request",
        description="Creates a new request with the same rows and options. The given options replace "
        "those of the repeated request. Unchanged images keep their URLs and are not downloaded again.",
        path_parameters=(p.REQUEST_ID,),
        query=RepeatFields,
        request_headers=(p.IDEMPOTENCY_KEY,),
        responses={
            201: ResponseSpec(
                "Accepted and stored.",
                json_content(responses.AcceptedUpload),
                (p.LOCATION, p.IDEMPOTENT_REPLAYED),
            ),
        },
        errors=(
            Code.NOT_FOUND,
            Code.NOT_AVAILABLE,
            Code.IDEMPOTENCY_KEY_BUSY,
            Code.IDEMPOTENCY_KEY_REUSED,
            Code.TOO_MUCH_WAITING,
            Code.STORAGE_FULL,
        ),
    ),
    Route(
        "DELETE",
        "/deleteRequest/{requestId}",
        lambda handlers: handlers.requests.delete_request,
        tag="Requests",
        operation_id="deleteRequest",
        summary="Delete a finished request",
        description="Also deletes the stored images that no other request uses.",
        path_parameters=(p.REQUEST_ID,),
        responses={204: ResponseSpec("Deleted.")},
        errors=(Code.NOT_FOUND, Code.NOT_FINISHED),
    ),
    Route(
        "GET",
        "/downloadImages/{requestId}",
        lambda handlers: handlers.outputs.download_images,
        tag="Images",
        operation_id="downloadImages",
        summary="Download all outputs as a ZIP",
        path_parameters=(p.REQUEST_ID,),
        responses={
            200: ResponseSpec(
                "The outputs, named after their products, and `errors.csv` if any image failed.",
                (MediaType("application/zip"),),
                (p.CONTENT_DISPOSITION,),
            )
        },
        errors=(Code.NOT_FOUND, Code.STORAGE_FULL),
    ),
    Route(
        "GET",
        "/images/{token}/{slug}.{ext}",
        lambda handlers: handlers.outputs.image,
        Access.PUBLIC,
        tag="Images",
        operation_id="image",
        summary="Download one output, from its URL in the status",
        path_parameters=(p.TOKEN, p.SLUG, p.EXTENSION),
        request_headers=(p.IF_NONE_MATCH, p.RANGE),
        responses=IMAGE_RESPONSES,
        errors=(Code.NOT_FOUND, Code.RANGE_NOT_SATISFIABLE),
    ),
    Route(
        "GET",
        "/images/{token}/thumbnail",
        lambda handlers: handlers.outputs.thumbnail,
        Access.PUBLIC,
        tag="Images",
        operation_id="thumbnail",
        summary="Download a small version of one output",
        description="A WebP whose longer side is at most 320 pixels, made on demand. Of an animation "
        "it is the first frame. Small images are not enlarged.",
        path_parameters=(p.TOKEN,),
        request_headers=(p.IF_NONE_MATCH,),
        responses=THUMBNAIL_RESPONSES,
        errors=(Code.NOT_FOUND, Code.UNAVAILABLE),
    ),
    Route(
        "GET",
        "/images/{file}",
        lambda handlers: handlers.outputs.image,
        Access.PUBLIC,
        tag="Images",
        operation_id="imageByToken",
        summary="Download one output, from its URL without a product's name",
        path_parameters=(p.FILE,),
        request_headers=(p.IF_NONE_MATCH, p.RANGE),
        responses=IMAGE_RESPONSES,
        errors=(Code.NOT_FOUND, Code.RANGE_NOT_SATISFIABLE),
    ),
    Route(
        "POST",
        "/session",
        lambda handlers: handlers.sessions.sign_in,
        Access.PUBLIC,
        tag="Sessions",
        operation_id="signIn",
        summary="Sign in",
        request_body={"application/json": responses.ApiKeyLogin},
        responses={
            204: ResponseSpec(
                "Signed in. The session cookie is accepted wherever the key is.",
                (),
                (p.SET_COOKIE,),
            )
        },
        errors=(
            Code.INVALID_BODY,
            Code.UNAUTHORIZED,
            Code.TOO_MANY_ATTEMPTS,
            Code.UNAVAILABLE,
            Code.UPLOAD_STALLED,
            Code.TOO_LARGE,
            Code.UNSUPPORTED_MEDIA_TYPE,
        ),
    ),
    Route(
        "GET",
        "/session",
        lambda handlers: handlers.sessions.session,
        Access.PUBLIC,
        tag="Sessions",
        operation_id="session",
        summary="Get the name and the role of the caller",
        responses={200: ResponseSpec("The caller.", json_content(responses.SessionStatus))},
        errors=(Code.UNAUTHORIZED, Code.TOO_MANY_ATTEMPTS, Code.UNAVAILABLE),
    ),
    Route(
        "DELETE",
        "/session",
        lambda handlers: handlers.sessions.sign_out,
        Access.PUBLIC,
        tag="Sessions",
        operation_id="signOut",
        summary="Sign out",
        responses={204: ResponseSpec("Signed out. The session has ended.", (), (p.SET_COOKIE,))},
        errors=(Code.UNAVAILABLE,),
    ),
    Route(
        "GET",
        "/health/live",
        lambda handlers: handlers.health.live,
        Access.SUPERVISOR,
        tag="Operations",
        operation_id="live",
        summary="Check liveness",
        responses={
            200: ResponseSpec("The process is running.", json_content(responses.HealthStatus))
        },
    ),
    Route(
        "GET",
        "/health/ready",
        lambda handlers: handlers.health.ready,
        Access.SUPERVISOR,
        tag="Operations",
        operation_id="ready",
        summary="Check readiness",
        responses={
            200: ResponseSpec("Ready to process requests.", json_content(responses.HealthStatus))
        },
        errors=(Code.UNAVAILABLE,),
    ),
    Route(
        "GET",
        "/metrics",
        lambda handlers: handlers.health.metrics,
        Access.OPERATOR,
        tag="Operations",
        operation_id="metrics",
        summary="Get metrics for Prometheus",
        responses={
            200: ResponseSpec("Metrics in the Prometheus text format.", (MediaType("text/plain"),))
        },
    ),
    Route("GET", "/openapi.json", lambda handlers: handlers.api_docs.openapi, Access.PUBLIC),
    Route("GET", "/postman.json", lambda handlers: handlers.api_docs.postman, Access.PUBLIC),
    Route("GET", "/sample/products.csv", lambda handlers: handlers.sample.table, Access.PUBLIC),
    Route("GET", "/sample/{id}/{name}", lambda handlers: handlers.sample.image, Access.PUBLIC),
    Route("GET", "/docs", lambda handlers: handlers.static_files.docs, Access.PUBLIC),
    Route("GET", "/static/{path:.+}", lambda handlers: handlers.static_files.static, Access.PUBLIC),
    Route("GET", "/", lambda handlers: handlers.static_files.index, Access.PUBLIC),
)
"""All routes. The API documents and the web pages are not in the OpenAPI document."""
