"""The file `llms.txt`: the project and its pages for language models (llmstxt.org)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.origin import ROOT

SECTIONS = ("tutorial", "how-to", "reference", "explanation")

INTRODUCTION = """\
# imgsvc

> imgsvc is a self-hosted service. It takes a product spreadsheet (CSV or .xlsx) with image URLs,
> compresses every image to half of its quality, hosts the result, and returns the spreadsheet with
> the new URLs.

- Start it with `python3 run.py`, or `docker compose up`. It listens on http://127.0.0.1:8080, without
  a key.
- Upload: `POST /processImages` with the file as the body. The response 201 has `requestId`.
- Wait: `GET /checkStatus/{requestId}?wait=60`. The result is a CSV; with `format=json` it is JSON, with
  `layout=input` it has the columns of the upload. `finishedAt` in the JSON is null until the request
  has finished.
- A status that you do not know is unfinished, an error code that you do not know is a failure. Errors
  are `application/problem+json`; `errors` in them has the row and column of every problem.
- Repeat an upload safely with the header `Idempotency-Key`.
- A running service has `/openapi.json` with every route and schema, and the sample
  `/sample/products.csv` to try it.
"""


def llms_text() -> str:
    """Return the text of llms.txt. A page is described by its title."""
    return "\n".join([INTRODUCTION, *(line for name in SECTIONS for line in _section(name))])


def _section(name: str) -> Iterator[str]:
    """Yield the heading of a folder of `docs/`, and a link to each of its pages."""
    yield from (f"## {name.capitalize()}", "")
    for file in sorted((ROOT / "docs" / name).glob("*.md")):
        (title, *_) = re.findall(r"^# (.*)$", file.read_text("utf-8"), re.MULTILINE)
        yield f"- [{title}]({file.relative_to(ROOT)})"
    yield ""
