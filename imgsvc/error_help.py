"""Help for every error code: its cause and what to do. `/docs` has one entry for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from imgsvc.errors import FileErrorCode, ImageErrorCode, ProblemCode


class ErrorHelp(NamedTuple):
    """Why an error occurs, and what to do about it. Backticks mark code."""

    cause: str
    action: str


def help_anchor(code: str) -> str:
    """Return the anchor of an error code's entry in `/docs`."""
    return f"errors-{code}"


_FILE_HELP: Mapping[str, ErrorHelp] = {
    FileErrorCode.EMPTY_FILE: ErrorHelp(
        "The file has no bytes, or only blank lines.",
        "Export the table again and upload that file.",
    ),
    FileErrorCode.NOT_CSV: ErrorHelp(
        "The file is binary, or a format that is not read, such as .xls, .ods, or a protected or "
        "damaged .xlsx.",
        "Save the table as CSV or as .xlsx without a password.",
    ),
    FileErrorCode.BAD_ENCODING: ErrorHelp(
        "The bytes of the file are not valid in the expected encoding.",
        "Save the file as UTF-8, or set the option `encoding`. `suggestions` lists likely encodings.",
    ),
    FileErrorCode.MISSING_COLUMN: ErrorHelp(
        "The header lacks a required column, or one that an option names.",
        "Rename the column, or name it in `imageColumn` and `nameColumn`. `columns` lists the headers.",
    ),
    FileErrorCode.DUPLICATE_COLUMN: ErrorHelp(
        "Two columns have the same required header.", "Rename or delete one of the two columns."
    ),
    FileErrorCode.NO_ROWS: ErrorHelp(
        "No row has an image URL.",
        "Add rows with full image URLs. A file name alone is not a URL.",
    ),
    FileErrorCode.WRONG_CELL_COUNT: ErrorHelp(
        "A row has fewer or more cells than the header.",
        "Check the row for a missing or surplus delimiter. Quote cells that contain the delimiter.",
    ),
    FileErrorCode.EMPTY_VALUE: ErrorHelp(
        "A required cell is empty.",
        "Fill the cell. If products without images are intended, set `allowEmpty=true`.",
    ),
    FileErrorCode.TOO_LONG: ErrorHelp(
        "A cell or a record is longer than allowed: 512 characters for a name, 16 MiB for a record.",
        "Shorten it. A very long record often has a quotation mark that is not closed.",
    ),
    FileErrorCode.INVALID_URL: ErrorHelp(
        "The URL is incomplete, has a user name or a password, or is longer than 8,192 characters. For "
        "an image: its host redirects to such a URL.",
        "Correct the URL. Open it in a browser to check it.",
    ),
    FileErrorCode.UNSUPPORTED_SCHEME: ErrorHelp(
        "The URL starts with another scheme than `http` or `https`.",
        "Host the image on a web server and use its http or https URL.",
    ),
    FileErrorCode.TOO_MANY_URLS: ErrorHelp(
        "A row has more than 1,000 image URLs.", "Divide the URLs between several rows."
    ),
    FileErrorCode.UNCLOSED_QUOTE: ErrorHelp(
        "A quoted cell has no closing quotation mark, so the rest of the file belongs to it.",
        "Close the quotation mark, or double quotation marks within a quoted cell.",
    ),
    FileErrorCode.CONTROL_CHARACTER: ErrorHelp(
        "A cell contains an invisible control character.",
        "Delete the character, or type the cell again.",
    ),
}

_IMAGE_HELP: Mapping[str, ErrorHelp] = {
    ImageErrorCode.BLOCKED_ADDRESS: ErrorHelp(
        "The host's address is private or reserved, belongs to this machine, or its port is blocked.",
        "To allow it, add the entry that the message names to `fetch.allowed_networks`.",
    ),
    ImageErrorCode.DNS_FAILURE: ErrorHelp(
        "The host name cannot be resolved.", "Check the host name, and the DNS of the server."
    ),
    ImageErrorCode.CONNECT_FAILED: ErrorHelp(
        "The host accepts no connection, or closes it without a response.",
        "Check that the host is running and reachable from the server. Then retry.",
    ),
    ImageErrorCode.TLS_ERROR: ErrorHelp(
        "The host's certificate is invalid or expired, or its TLS version is not supported.",
        "Renew the certificate of the host.",
    ),
    ImageErrorCode.TIMEOUT: ErrorHelp(
        "The host did not respond in time, or sent data too slowly.",
        "Retry later. For slow hosts raise `fetch.timeout_seconds` or lower `fetch.per_host`.",
    ),
    ImageErrorCode.HTTP_STATUS: ErrorHelp(
        "The host responded with an HTTP error, which the message names.",
        "404: correct the URL. 401 or 403: allow the server at the host, or set `fetch.user_agent` or "
        "`fetch.headers`. 429 or 5xx: retry later.",
    ),
    ImageErrorCode.TOO_MANY_REDIRECTS: ErrorHelp(
        "The host redirects more than ten times.", "Use the URL that the redirects lead to."
    ),
    ImageErrorCode.TOO_LARGE: ErrorHelp(
        "The source has more bytes than `fetch.max_image_bytes`.",
        "Use a smaller image, or raise the setting.",
    ),
    ImageErrorCode.EMPTY_BODY: ErrorHelp(
        "The host sent a response without content.", "Check the URL in a browser."
    ),
    ImageErrorCode.INCOMPLETE_BODY: ErrorHelp(
        "The connection ended before the whole image was received.",
        "Retry. If it occurs again, check the host's server.",
    ),
    ImageErrorCode.INVALID_RESPONSE: ErrorHelp(
        "The host's response is not valid HTTP, or has far more overhead than content.",
        "Check the host's server, and that the port serves HTTP.",
    ),
    ImageErrorCode.NOT_AN_IMAGE: ErrorHelp(
        "The URL leads to something else than an image, often a web page.",
        "Use the URL of the image itself.",
    ),
    ImageErrorCode.UNSUPPORTED_FORMAT: ErrorHelp(
        "The image's format cannot be read, or the image is too large for the selected format.",
        "Convert the source to JPEG, PNG, WebP, GIF or AVIF, or select another `format`.",
    ),
    ImageErrorCode.TOO_MANY_PIXELS: ErrorHelp(
        "The image has more pixels, frames included, than `compress.max_pixels`.",
        "Use a smaller image, or raise the setting.",
    ),
    ImageErrorCode.CORRUPT_IMAGE: ErrorHelp(
        "The image's data is damaged or incomplete.", "Upload the image to its host again."
    ),
    ImageErrorCode.COMPRESS_TIMEOUT: ErrorHelp(
        "Compressing took longer than `compress.timeout_seconds`.",
        "Use a smaller image, or raise the setting.",
    ),
    ImageErrorCode.COMPRESS_CRASHED: ErrorHelp(
        "The worker process crashed three times on this image.",
        "Convert the source to another format. Please report the image as a bug.",
    ),
    ImageErrorCode.OUT_OF_MEMORY: ErrorHelp(
        "The image needs more memory than a worker may use.",
        "Use a smaller image, or raise `compress.worker_memory_bytes`.",
    ),
    ImageErrorCode.STORAGE_FAILED: ErrorHelp(
        "The output could not be stored.", "See the service log for the cause, then retry."
    ),
}

_PROBLEM_HELP: Mapping[str, ErrorHelp] = {
    ProblemCode.INVALID_CSV: ErrorHelp(
        "The uploaded file has errors. Nothing was stored.",
        "Fix the errors that `errors` lists and upload the file again, or set `onInvalid=skip`.",
    ),
    ProblemCode.INVALID_OPTION: ErrorHelp(
        "An option is unknown, repeated or has an invalid value.",
        "Correct the options that `errors` names.",
    ),
    ProblemCode.INVALID_BODY: ErrorHelp(
        "The body of the call is malformed, such as a form without a file, or invalid JSON.",
        "Send the body as the description of the operation says.",
    ),
    ProblemCode.BAD_REQUEST: ErrorHelp(
        "The call is not valid HTTP, or its `Host` header is missing or malformed.",
        "Check the client and the proxies on the way.",
    ),
    ProblemCode.UNAUTHORIZED: ErrorHelp(
        "The server requires an API key, and the call has none or an invalid one.",
        "Send `Authorization: Bearer KEY`, or sign in on the page.",
    ),
    ProblemCode.FORBIDDEN: ErrorHelp(
        "The role of the API key does not allow the call.",
        "Use a key with another role. `GET /session` returns the role of a key.",
    ),
    ProblemCode.FOREIGN_HOST: ErrorHelp(
        "The service has no API keys, and the `Host` header names a public host. Otherwise a web page "
        "could reach a service on your network through a DNS name.",
        "Add the host to `server.allowed_hosts`, set `server.public_url`, or set API keys.",
    ),
    ProblemCode.TOO_MANY_ATTEMPTS: ErrorHelp(
        "More than 10 wrong API keys came from this address within a minute.",
        "Wait for the time in `Retry-After`, and check the key. Valid keys still work.",
    ),
    ProblemCode.FOREIGN_ORIGIN: ErrorHelp(
        "A web page of another origin sent the call.",
        "Set `server.public_url` to the URL that users open, or add the page's origin to "
        "`server.cors_origins`.",
    ),
    ProblemCode.NOT_FOUND: ErrorHelp(
        "No such page, request or image exists. It may have been deleted.",
        "Check the URL and the ID.",
    ),
    ProblemCode.METHOD_NOT_ALLOWED: ErrorHelp(
        "The path exists, but not for this HTTP method.",
        "Use a method that the header `Allow` lists.",
    ),
    ProblemCode.UPLOAD_STALLED: ErrorHelp(
        "The upload sent no data for `server.upload_idle_seconds`.", "Upload the file again."
    ),
    ProblemCode.IDEMPOTENCY_KEY_BUSY: ErrorHelp(
        "An upload with the same `Idempotency-Key` is still in progress.",
        "Wait, then repeat the call with the same key.",
    ),
    ProblemCode.IDEMPOTENCY_KEY_REUSED: ErrorHelp(
        "The `Idempotency-Key` was used for another file or other options.",
        "Use a new key for each upload.",
    ),
    ProblemCode.ALREADY_FINISHED: ErrorHelp(
        "There is nothing to cancel: the images are finished.", "Nothing to do."
    ),
    ProblemCode.NOT_FINISHED: ErrorHelp(
        "The call needs a finished request, and this one is unfinished.",
        "Wait until it has finished, or cancel it.",
    ),
    ProblemCode.NOTHING_FAILED: ErrorHelp("The request has no images to retry.", "Nothing to do."),
    ProblemCode.NOT_AVAILABLE: ErrorHelp(
        "The call needs data that this request does not have, such as one that version 1.0 stored.",
        "Upload the file again.",
    ),
    ProblemCode.TOO_LARGE: ErrorHelp(
        "The body is larger than allowed: for a file `server.max_upload_bytes`.",
        "Divide the file, or raise the setting.",
    ),
    ProblemCode.TOO_MANY_IMAGES: ErrorHelp(
        "The file has more images than `server.max_images_per_request`.",
        "Divide the file, or raise the setting.",
    ),
    ProblemCode.RANGE_NOT_SATISFIABLE: ErrorHelp(
        "The `Range` header asks for bytes beyond the end.", "Ask for a range within the size."
    ),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: ErrorHelp(
        "The call's `Content-Type` is not accepted, or the body has a `Content-Encoding`.",
        "Send the file unencoded, with a media type that the operation lists.",
    ),
    ProblemCode.TOO_MUCH_WAITING: ErrorHelp(
        "More than `server.max_waiting_images` images would be pending.",
        "Repeat the call after the seconds in `Retry-After`.",
    ),
    ProblemCode.UNAVAILABLE: ErrorHelp(
        "The service starts or stops, is busy, or cannot use its database.",
        "Repeat the call after the seconds in `Retry-After`. If it lasts, see the service log.",
    ),
    ProblemCode.STORAGE_FULL: ErrorHelp(
        "The disk has less free space than `storage.min_free_bytes`.",
        "Free or add disk space. Work continues by itself.",
    ),
    ProblemCode.INTERNAL: ErrorHelp(
        "The service has a bug.",
        "See the service log, and please report the bug with its traceback.",
    ),
}

ERROR_HELP: Mapping[str, ErrorHelp] = {**_FILE_HELP, **_IMAGE_HELP, **_PROBLEM_HELP}
"""Help by code. A code that errors of two kinds have, such as `internal`, has one entry."""
