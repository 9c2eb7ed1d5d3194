"""The Postman collection (v2.1) of the API. It runs from top to bottom without changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
MAX_POLLS = 60
"""Maximum number of polls for the request to finish. Each poll waits up to 10 s."""
_SAMPLE_CSV = "S. No.,Product Name,Input Image Urls\n1,Example,{{imageUrl}}\n"
_WAIT = "Wait until the request has finished"
_DELETE = "Delete the request"


def collection(base_url: str) -> Json:
    """Return the collection with `base_url` as its variable `baseUrl`."""
    return {
        "info": {
            "name": "imgsvc",
            "description": "Upload a CSV, wait until it is processed, and download the result. Run the "
            "collection from top to bottom. Set `imageUrl` to an image that the service can reach, "
            "and `apiKey` if the service requires one.",
            "schema": SCHEMA,
        },
        "auth": {
            "type": "apikey",
            "apikey": [
                {"key": "key", "value": "X-API-Key", "type": "string"},
                {"key": "value", "value": "{{apiKey}}", "type": "string"},
                {"key": "in", "value": "header", "type": "string"},
            ],
        },
        "variable": [
            {"key": "baseUrl", "value": base_url},
            {"key": "apiKey", "value": ""},
            {"key": "imageUrl", "value": "https://www.gstatic.com/webp/gallery/1.jpg"},
            {"key": "requestId", "value": ""},
            {"key": "outputUrl", "value": "{{baseUrl}}/health/live"},
            {"key": "polls", "value": "0"},
            {"key": "retried", "value": ""},
        ],
        "item": [
            _item("Check readiness", "GET", "/health/ready", [_status(200)]),
            _item(
                "Validate the CSV (dry run)",
                "POST",
                "/processImages?dryRun=true",
                [
                    _status(200),
                    *_test("the CSV has one image", "pm.expect(body.images).to.eql(1);"),
                ],
                has_csv=True,
            ),
            _item(
                "Upload the CSV",
                "POST",
                "/processImages",
                [
                    _status(201),
                    *_test("the upload is accepted", 'pm.expect(body.status).to.eql("pending");'),
                    'pm.collectionVariables.set("requestId", body.requestId);',
                    'pm.collectionVariables.set("polls", "0");',
                    'pm.collectionVariables.set("retried", "");',
                ],
                has_csv=True,
            ),
            _item(
                _WAIT,
                "GET",
                "/checkStatus/{{requestId}}?format=json&products=false&wait=10",
                [
                    _status(200),
                    'const polls = Number(pm.collectionVariables.get("polls")) + 1;',
                    'pm.collectionVariables.set("polls", String(polls));',
                    f"if (body.finishedAt === null && polls < {MAX_POLLS}) {{",
                    f'  pm.execution.setNextRequest("{_WAIT}");',
                    "} else {",
                    *_test(
                        "the request has finished", "pm.expect(body.finishedAt).to.be.a('string');"
                    ),
                    "}",
                ],
            ),
            _item(
                "Get the status of every image (JSON)",
                "GET",
                "/checkStatus/{{requestId}}?format=json",
                [
                    _status(200),
                    *_test(
                        "each image has an output or an error",
                        "body.products.forEach((p) => p.images.forEach((i) => "
                        "pm.expect(Boolean(i.outputUrl) || Boolean(i.error)).to.be.true));",
                    ),
                    "const done = body.products.flatMap((p) => p.images).find((i) => i.outputUrl);",
                    'if (done) pm.collectionVariables.set("outputUrl", done.outputUrl);',
                ],
            ),
            _item(
                "Download the CSV",
                "GET",
                "/checkStatus/{{requestId}}?format=csv",
                [
                    _status(200),
                    *_test(
                        "the CSV has output URLs and the request ID",
                        'pm.expect(pm.response.text()).to.include("Output Image Urls")'
                        '.and.to.include(pm.collectionVariables.get("requestId"));',
                    ),
                ],
                is_json=False,
            ),
            _item("Download an image", "GET", "{{outputUrl}}", [_status(200)], is_json=False),
            _item(
                "Download all images (ZIP)",
                "GET",
                "/downloadImages/{{requestId}}",
                [
                    _status(200),
                    *_test(
                        "the response is a ZIP",
                        'pm.expect(pm.response.headers.get("Content-Type"))'
                        '.to.include("application/zip");',
                    ),
                ],
                is_json=False,
            ),
            _item(
                "Download the failed rows",
                "GET",
                "/checkStatus/{{requestId}}?only=failed",
                [_status(200)],
                is_json=False,
            ),
            _item(
                "Watch the progress (server-sent events)",
                "GET",
                "/watchStatus/{{requestId}}",
                [
                    _status(200),
                    *_test(
                        "the stream ends with a finished event",
                        'pm.expect(pm.response.text()).to.include("event: finished");',
                    ),
                ],
                is_json=False,
            ),
            _item(
                "List requests",
                "GET",
                "/listRequests?limit=10",
                [
                    _status(200),
                    *_test("the list is not empty", "pm.expect(body.requests).to.not.be.empty;"),
                ],
            ),
            _item(
                "Cancel the request (409: already finished)",
                "POST",
                "/cancelRequest/{{requestId}}",
                [
                    _status(409),
                    'if (pm.collectionVariables.get("retried")) {',
                    f'  pm.execution.setNextRequest("{_DELETE}");',
                    "}",
                ],
            ),
            _item(
                "Retry failed images",
                "POST",
                "/retryFailed/{{requestId}}",
                [
                    *_test(
                        "images are retried, or none has failed",
                        "pm.expect(pm.response.code).to.be.oneOf([202, 409]);",
                    ),
                    'pm.collectionVariables.set("retried", "yes");',
                    'pm.collectionVariables.set("polls", "0");',
                    f'if (pm.response.code === 202) pm.execution.setNextRequest("{_WAIT}");',
                ],
            ),
            _item(_DELETE, "DELETE", "/deleteRequest/{{requestId}}", [_status(204)], is_json=False),
            _item(
                "Check that the request is deleted (404)",
                "GET",
                "/checkStatus/{{requestId}}",
                [_status(404)],
            ),
        ],
    }


def _item(
    name: str,
    method: str,
    path: str,
    tests: Sequence[str],
    *,
    has_csv: bool = False,
    is_json: bool = True,
) -> Json:
    request: Json = {
        "method": method,
        "header": [],
        "url": path if path.startswith("{{") else f"{{{{baseUrl}}}}{path}",
    }
    if has_csv:
        request["header"] = [{"key": "Content-Type", "value": "text/csv"}]
        request["body"] = {"mode": "raw", "raw": _SAMPLE_CSV}
    script = ["const body = pm.response.json();", *tests] if is_json else list(tests)
    event = {"listen": "test", "script": {"type": "text/javascript", "exec": script}}
    return {"name": name, "request": request, "event": [event]}


def _status(code: int) -> str:
    return f'pm.test("status {code}", () => pm.response.to.have.status({code}));'


def _test(name: str, code: str) -> list[str]:
    return [f'pm.test("{name}", () => {{', f"  {code}", "});"]
