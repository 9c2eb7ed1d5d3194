"""Path parameters and headers that routes share."""

from __future__ import annotations

from imgsvc.image_types import MEDIA_TYPES
from imgsvc.web.schema.route import Parameter

REQUEST_ID = Parameter(
    "requestId",
    "ID of the request, from the response to the upload.",
    {"type": "string", "format": "uuid"},
)
_TOKEN_PATTERN = "([0-9a-f]{2}){16,17}"  # noqa: S105
FILE = Parameter(
    "file",
    "Token and format of the output: the last part of its URL.",
    {"type": "string", "pattern": rf"^{_TOKEN_PATTERN}\.({'|'.join(MEDIA_TYPES)})$"},
)
TOKEN = Parameter(
    "token",
    "Token of the output, from its URL.",
    {"type": "string", "pattern": f"^{_TOKEN_PATTERN}$"},
)
SLUG = Parameter(
    "slug",
    "Name of the product and position of the image. Any text is accepted.",
    {"type": "string", "pattern": "^[a-z0-9-]+$"},
)
EXTENSION = Parameter("ext", "Format of the output.", {"type": "string", "enum": list(MEDIA_TYPES)})

IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "Makes an upload safe to repeat: the same key with the same CSV and options returns the first "
    "response again. 1 to 255 printable ASCII characters.",
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
)
IF_NONE_MATCH = Parameter("If-None-Match", "`ETag` of an earlier response.", {"type": "string"})
LAST_EVENT_ID = Parameter(
    "Last-Event-ID",
    "ID of the last event received. Browsers send it when they reconnect.",
    {"type": "string"},
)
RANGE = Parameter("Range", "Byte range, such as `bytes=0-1023`.", {"type": "string"})

LOCATION = Parameter(
    "Location", "URL of the request's status.", {"type": "string", "format": "uri-reference"}
)
OUTPUT_LOCATION = Parameter(
    "Location",
    "URL of the output in the bucket. It is valid for a few minutes.",
    {"type": "string", "format": "uri"},
)
IDEMPOTENT_REPLAYED = Parameter(
    "Idempotent-Replayed",
    "`true` if this is the response to an earlier upload with the same key.",
    {"type": "string", "enum": ["true"]},
)
ETAG = Parameter("ETag", "Identifies this version of the response.", {"type": "string"})
X_REQUEST_STATUS = Parameter("X-Request-Status", "Status of the request.", {"type": "string"})
X_PROGRESS = Parameter(
    "X-Progress",
    "`done/total`, in images. Failed and cancelled images count as done.",
    {"type": "string", "pattern": "^[0-9]+/[0-9]+$"},
)
X_REUSED = Parameter(
    "X-Reused",
    "`progress.reused` of the JSON: `downloaded=3, notModified=12, sameBytes=1, sameUrl=0`.",
    {"type": "string"},
)
RETRY_AFTER = Parameter(
    "Retry-After",
    "Seconds to wait before the next API call.",
    {"type": "integer", "minimum": 0},
)
CONTENT_DISPOSITION = Parameter("Content-Disposition", "Suggested file name.", {"type": "string"})
CONTENT_RANGE = Parameter(
    "Content-Range", "Position of the range in the output.", {"type": "string"}
)
SET_COOKIE = Parameter("Set-Cookie", "The session cookie.", {"type": "string"})
WWW_AUTHENTICATE = Parameter(
    "WWW-Authenticate", "Accepted way to send an API key.", {"type": "string"}
)

WEBHOOK_ID = Parameter(
    "webhook-id", "ID of the event, the same for all attempts.", {"type": "string"}
)
WEBHOOK_TIMESTAMP = Parameter(
    "webhook-timestamp", "Time of this attempt, in Unix seconds.", {"type": "integer"}
)
WEBHOOK_SIGNATURE = Parameter(
    "webhook-signature",
    "`v1,` and the signature in base64. Present only if `webhook.secret` is set.",
    {"type": "string"},
)

STATUS_HEADERS = (ETAG, X_REQUEST_STATUS, X_PROGRESS, X_REUSED, RETRY_AFTER)
"""Headers of every response that is a request's status."""
