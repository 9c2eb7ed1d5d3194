"""The lines that the command line prints about a status."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from imgsvc.models import StatusJson
from imgsvc.terminal import MAX_WAITING_LINES, progress_display, waiting_lines

NOW = 1_800_000_000.0
LATER = "2027-01-15T08:00:24.500Z"
"""24.5 seconds after `NOW`."""


def waiting(**fields: Any) -> dict[str, Any]:
    return {
        "host": "www.gstatic.com",
        "code": "dns_failure",
        "message": "Cannot find www.gstatic.com.",
        "count": 10,
        "nextTryAt": LATER,
        **fields,
    }


def status(*hosts: dict[str, Any]) -> StatusJson:
    progress = dict.fromkeys(("total", "completed", "failed", "cancelled"), 0)
    return {"progress": progress, "waiting": list(hosts)}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "Cannot find www.gstatic.com (10 images). Next try in 25 s."),
        (
            {"host": "a.example:81", "message": "The host refused the connection.", "count": 1},
            "a.example:81: The host refused the connection (1 image). Next try in 25 s.",
        ),
        ({"count": 1_000_000}, "Cannot find www.gstatic.com (1,000,000 images). Next try in 25 s."),
        (
            {"nextTryAt": "2027-01-15T07:59:59.000Z"},
            "Cannot find www.gstatic.com (10 images). Retrying now.",
        ),
    ],
)
def test_waiting_lines_name_host_count_and_next_try(fields: dict[str, Any], line: str) -> None:
    assert waiting_lines(status(waiting(**fields)), NOW) == [line]


def test_waiting_lines_are_empty_for_older_services() -> None:
    assert waiting_lines({"progress": {}}, NOW) == []


def test_progress_display_prints_each_host_and_error_once() -> None:
    output = io.StringIO()
    with progress_display(Console(file=output, force_terminal=True, width=200)) as show:
        for _ in range(3):
            show(status(waiting(), waiting(host="[b].example", message="x.", code="timeout")))
        show(status(*(waiting(host=f"{n}.example", message="y.") for n in range(50))))
    assert output.getvalue().count("Cannot find www.gstatic.com (10 images)") == 1
    assert output.getvalue().count("[b].example: x (10 images)") == 1
    assert output.getvalue().count(".example: y (10 images)") == MAX_WAITING_LINES - 2
