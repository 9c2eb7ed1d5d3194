"""The OpenAPI 3.1 document: the route table combined with the schemas of the models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from imgsvc import __version__
from imgsvc.access import Role
from imgsvc.errors import ProblemCode
from imgsvc.web.http.origin_policy import UNSAFE_METHODS
from imgsvc.web.http.problems import MEDIA_TYPE, PROBLEMS
from imgsvc.web.schema import parameters as p
from imgsvc.web.schema.open_schema import open_schema
from imgsvc.web.schema.options import Options
from imgsvc.web.schema.problem_responses import ProblemReport
from imgsvc.web.schema.responses import WebhookEvent
from imgsvc.web.schema.route import MediaType, Parameter, ResponseSpec, Route

Json = dict[str, Any]

TAGS = {
    "Requests": "Upload a CSV, follow its progress, and download the result.",
    "Images": "Download the outputs: the compressed images.",
    "Sessions": "Sign in with a session cookie instead of sending an API key. Used by the web page.",
    "Operations": "Health checks and metrics for running the service.",
}
"""Groups of routes in the OpenAPI document, and their descriptions."""

_FORM = "multipart/form-data"
_REF = "#/components/schemas/{model}"
_BINARY = {"type": "string", "format": "binary"}
_BYTES = "application/octet-stream"
_BINARY_PREFIXES = ("image/", "application/zip")
_SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "description": "Session cookie, set by `POST /session`.",
    },
}
_DESCRIPTION = (
    "Upload a CSV of products with image URLs. imgsvc downloads, compresses and hosts every image, "
    "and returns the CSV with the new URLs. Every error is a problem report (RFC 9457) with a stable "
    "`type`."
)
_EXAMPLE_CSV = (
    "S. No.,Product Name,Input Image Urls\r\n1,Lamp,https://www.gstatic.com/webp/gallery/1.jpg\r\n"
)


def openapi_document(routes: Iterable[Route[Any]], *, cookie: str | None) -> Json:
    """Return the OpenAPI document of the routes that have a tag, without `servers`.

    `cookie` is the name of the session cookie, or None if the
    service has no keys: then there are no security schemes, and no responses about keys.
    """
    with_keys = cookie is not None
    documented = [route for route in routes if route.tag]
    paths: dict[str, Json] = {}
    for route in documented:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, with_keys=with_keys
        )
    components: Json = {"schemas": _schemas(documented)}
    if with_keys:
        components["securitySchemes"] = _SECURITY | {
            "cookie": _SECURITY["cookie"] | {"name": cookie}
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "imgsvc", "version": __version__, "description": _DESCRIPTION},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "webhooks": {"request.finished": {"post": _finished_webhook()}},
        "components": components,
    }


def _schemas(routes: Sequence[Route[Any]]) -> Json:
    """Return the JSON schemas of all models in the document, by name."""
    received = {
        model
        for route in routes
        for media_type, model in route.request_body.items()
        if model is not None and media_type != _FORM
    }
    sent = {
        media_type.model
        for route in routes
        for response in route.responses.values()
        for media_type in response.content
        if media_type.model is not None
    }
    sent |= {ProblemReport, WebhookEvent}
    models = sorted(received | sent, key=lambda m: m.__name__)
    schemas: Json = models_json_schema(
        [(m, "validation" if m in received else "serialization") for m in models],
        ref_template=_REF,
    )[1]["$defs"]
    return {name: open_schema(schema) for name, schema in schemas.items()}


def _finished_webhook() -> Json:
    parameters = [
        _parameter(p.WEBHOOK_ID, "header", required=True),
        _parameter(p.WEBHOOK_TIMESTAMP, "header", required=True),
        _parameter(p.WEBHOOK_SIGNATURE, "header", required=False),
    ]
    return {
        "operationId": "requestFinished",
        "summary": "A request has finished",
        "description": "Sent to the `webhookUrl` of the upload each time that the request finishes, "
        "also after a retry. Headers and signature follow the Standard Webhooks specification. Any "
        "response but 2xx, or none, is a failed attempt. Failed attempts are repeated, except after a "
        "410.",
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": _content(WebhookEvent)}},
        "responses": {"2XX": {"description": "The event is delivered."}},
    }


def _operation(route: Route[Any], *, with_keys: bool) -> Json:
    result: Json = {
        "operationId": route.operation_id,
        "tags": [route.tag],
        "summary": route.summary,
        "parameters": list(_parameters(route)),
        "responses": _responses(route, with_keys=with_keys),
    }
    if route.description:
        result["description"] = route.description
    if route.request_body:
        result["requestBody"] = {
            "required": True,
            "content": {
                media_type: _request_content(media_type, model)
                for media_type, model in route.request_body.items()
            },
        }
    if with_keys:
        result["security"] = [{name: []} for name in _SECURITY] if route.access.needs_key else []
    return result


def _parameters(route: Route[Any]) -> Iterable[Json]:
    yield from (_parameter(each, "path", required=True) for each in route.path_parameters)
    yield from _query_parameters(route.query)
    yield from (_parameter(each, "header", required=False) for each in route.request_headers)


def _parameter(parameter: Parameter, location: str, *, required: bool) -> Json:
    return {"name": parameter.name, "in": location, "required": required, **_described(parameter)}


def _described(parameter: Parameter) -> Json:
    return {"description": parameter.description, "schema": parameter.schema}


def _query_parameters(model: type[Options]) -> Iterable[Json]:
    """Yield the fields of a model as query parameters."""
    schema = model.model_json_schema(by_alias=True, ref_template=_REF)
    definitions = schema.get("$defs", {})
    for name, field in schema.get("properties", {}).items():
        flat = _query_schema(field, definitions)
        text = flat.pop("description", "")
        yield {"name": name, "in": "query", "required": False, "description": text, "schema": flat}


def _query_schema(field: Json, definitions: Mapping[str, Json]) -> Json:
    """Return a field's schema for a query parameter, which can be absent but not null."""
    flat = {key: value for key, value in field.items() if key not in {"anyOf", "title"}}
    for choice in field.get("anyOf", []):
        if choice != {"type": "null"}:
            flat |= choice
    if flat.get("default", 0) is None:
        del flat["default"]
    reference = flat.pop("$ref", None)
    if reference is not None:
        definition = definitions[reference.rpartition("/")[2]]
        flat |= {key: definition[key] for key in ("type", "enum")}
    return flat


def _request_content(media_type: str, model: type[BaseModel] | None) -> Json:
    if model is None:
        return {"schema": _BINARY, "example": _EXAMPLE_CSV}
    if media_type != _FORM:
        return _content(model)
    # Each option can be a field, too. Many tools would send a field's default, and `True` for `true`.
    return {
        "schema": {
            "type": "object",
            "properties": {"file": {**_BINARY, "contentMediaType": "application/octet-stream"}},
            "required": ["file"],
            "additionalProperties": {"type": "string", "description": "An option of the query."},
        }
    }


def _responses(route: Route[Any], *, with_keys: bool) -> Json:
    responses = {str(status): _response(spec) for status, spec in route.responses.items()}
    problems: dict[int, list[str]] = {}
    for code in _problem_codes(route, with_keys=with_keys):
        status, title = PROBLEMS[code]
        problems.setdefault(status, []).append(f"{title} (`{code}`)")
    for status in sorted(problems):
        headers = (p.RETRY_AFTER,) if status in {408, 409, 429, 503} else ()
        if status == 401:
            headers = (p.WWW_AUTHENTICATE,)
        spec = ResponseSpec(
            ". ".join(problems[status]) + ".", (MediaType(MEDIA_TYPE, ProblemReport),), headers
        )
        responses[str(status)] = _response(spec)
    return responses


def _problem_codes(route: Route[Any], *, with_keys: bool) -> Iterable[ProblemCode]:
    """Return the problem codes of a route: its own, and those that follow from the other columns."""
    codes = [ProblemCode.BAD_REQUEST, ProblemCode.INTERNAL, *route.errors]
    if route.method in UNSAFE_METHODS:
        codes.append(ProblemCode.FOREIGN_ORIGIN)
    if not with_keys:
        if not route.access.any_host:
            codes.append(ProblemCode.FOREIGN_HOST)
    elif route.access.needs_key:
        codes += [ProblemCode.UNAUTHORIZED, ProblemCode.TOO_MANY_ATTEMPTS]
        if route.roles != frozenset(Role):
            codes.append(ProblemCode.FORBIDDEN)
    if route.access.needs_running_service:
        codes += [ProblemCode.INVALID_OPTION, ProblemCode.UNAVAILABLE]
    return dict.fromkeys(codes)


def _response(spec: ResponseSpec) -> Json:
    response: Json = {"description": spec.description}
    if spec.content:
        response["content"] = _response_content(spec.content)
    if spec.headers:
        response["headers"] = {header.name: _described(header) for header in spec.headers}
    return response


def _response_content(content: Sequence[MediaType]) -> Json:
    """Return the media types of a response.

    Many tools do not know the types of images and archives. The general type of bytes is for them.
    """
    described: Json = {}
    for media_type in content:
        if media_type.model is not None:
            described[media_type.name] = _content(media_type.model)
        elif media_type.name.startswith("text/"):
            described[media_type.name] = {"schema": {"type": "string"}}
        else:
            described[media_type.name] = {"schema": _BINARY}
    if all(name.startswith(_BINARY_PREFIXES) for name in described):
        described[_BYTES] = {"schema": _BINARY}
    return described


def _content(model: type[BaseModel]) -> Json:
    return {"schema": {"$ref": _REF.format(model=model.__name__)}}
