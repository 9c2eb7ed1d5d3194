"""The part of `/docs` that explains every error code."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from enum import StrEnum

from imgsvc.error_help import ERROR_HELP, help_anchor
from imgsvc.errors import FileErrorCode, ImageErrorCode, ProblemCode
from imgsvc.web.http.problems import PROBLEMS

ERROR_KINDS: tuple[tuple[str, str, type[StrEnum]], ...] = (
    (
        "Problems",
        "Reasons why an API call is rejected, in `type` of a problem report.",
        ProblemCode,
    ),
    (
        "File errors",
        "Errors in an uploaded file, in `errors` of its problem report.",
        FileErrorCode,
    ),
    ("Image errors", "Why an image failed, in the status of its request.", ImageErrorCode),
)


def error_docs() -> str:
    """Return the HTML of the entries of all error codes, by kind."""
    described: set[str] = set()
    return "\n".join(_section(*kind, described) for kind in ERROR_KINDS)


def _section(title: str, text: str, codes: type[StrEnum], described: set[str]) -> str:
    entries = "\n".join(_entries(codes, described))
    anchor = title.lower().replace(" ", "-")
    return (
        f'<section class="group stack" id="{anchor}" tabindex="-1" aria-label="{title}">\n'
        f"<h2>{title}</h2>\n"
        f'<p class="prose">{_coded(text)}</p>\n{entries}\n</section>'
    )


def _entries(codes: type[StrEnum], described: set[str]) -> Iterator[str]:
    """Yield an entry for each code. One of `described` has an entry already, and gets a link to it."""
    for code in codes:
        anchor, (cause, action) = help_anchor(code), ERROR_HELP[code]
        if code in described:
            yield f'<p><a href="docs#{anchor}"><code>{code}</code></a>: see above.</p>'
            continue
        described.add(code)
        yield (
            f'<article class="error panel stack" id="{anchor}" tabindex="-1">\n'
            f"<h3><code>{code}</code>{_status(code)}</h3>\n"
            f'<p class="prose">{_coded(cause)}</p>\n'
            f'<p class="prose"><strong>What to do:</strong> {_coded(action)}</p>\n</article>'
        )


def _status(code: StrEnum) -> str:
    """Return the HTTP status and the title of a problem code, or "" for the other codes."""
    if not isinstance(code, ProblemCode):
        return ""
    status, title = PROBLEMS[code]
    return f' <span class="muted">{status} {html.escape(title)}</span>'


def _coded(text: str) -> str:
    """Return a text as HTML. Backticks mark code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
