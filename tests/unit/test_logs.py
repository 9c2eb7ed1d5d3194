"""Tests of the log formats."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from imgsvc import logs
from imgsvc.config import LogConfig
from imgsvc.errors import DependencyError
from imgsvc.storage.base import StorageUnavailableError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def lines(out: io.StringIO) -> list[Any]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_event_is_one_line_with_extra_fields() -> None:
    out = io.StringIO()
    logs.setup(LogConfig(), out)
    logging.getLogger("imgsvc.x").info("stored %s", "é\n", extra={"images": 3, "path": io})
    (event,) = lines(out)
    assert event.pop("time").endswith("+00:00")
    assert event == {
        "level": "info",
        "logger": "imgsvc.x",
        "message": "stored é\n",
        "images": 3,
        "path": str(io),
    }


def test_json_event_contains_traceback_in_same_line() -> None:
    out = io.StringIO()
    logs.setup(LogConfig(format="json"), out)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("x").exception("failed")
    (event,) = lines(out)
    assert event["level"] == "error"
    assert event["exception"].splitlines()[-1] == "RuntimeError: boom"


@pytest.mark.parametrize("kind", [DependencyError, StorageUnavailableError])
def test_dependency_error_is_logged_without_traceback(kind: type[DependencyError]) -> None:
    out = io.StringIO()
    logs.setup(LogConfig(format="json"), out)
    try:
        raise kind("100% full")
    except DependencyError:
        logging.getLogger("x").exception("claim %s failed", 3)
    (event,) = lines(out)
    assert event["message"] == "claim 3 failed: 100% full"
    assert "exception" not in event


def test_extra_fields_do_not_replace_standard_fields() -> None:
    out = io.StringIO()
    logs.setup(LogConfig(format="json"), out)
    logging.getLogger("x").warning("text", extra={"level": "none", "time": 0})
    (event,) = lines(out)
    assert event["level"] == "warning"
    assert event["time"]


@pytest.mark.parametrize(
    ("level", "count"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_level_filters_events(level: Any, count: int) -> None:
    out = io.StringIO()
    logs.setup(LogConfig(level=level), out)
    log = logging.getLogger("imgsvc.y")
    log.debug("1")
    log.info("2")
    log.warning("3")
    log.error("4")
    assert len(lines(out)) == count


def test_library_info_messages_are_not_logged() -> None:
    out = io.StringIO()
    logs.setup(LogConfig(level="debug"), out)
    for name in ("aiohttp.access", "aiosqlite", "asyncio"):
        logging.getLogger(name).info("GET /?key=secret")
    logging.getLogger("asyncio").error("task was destroyed")
    assert [event["message"] for event in lines(out)] == ["task was destroyed"]


def test_terminal_gets_plain_text_with_escaped_control_characters() -> None:
    out = Terminal()
    logs.setup(LogConfig(), out)
    logging.getLogger("x").warning(
        "odd\x1b[2J name\nsecond", extra={"url": "http://a/ b\x07", "n": 1, "empty": ""}
    )
    (line,) = out.getvalue().splitlines()
    assert line[9:] == 'warning odd\\x1b[2J name\\nsecond  url="http://a/ b\\x07"  n=1  empty=""'


def test_configured_format_overrides_terminal_detection() -> None:
    out = Terminal()
    logs.setup(LogConfig(format="json"), out)
    logging.getLogger("x").warning("a")
    assert lines(out)
    out = Terminal()
    logs.setup(LogConfig(format="console"), io.StringIO())
    logging.getLogger("x").warning("a")
    assert not out.getvalue()


def test_second_setup_does_not_duplicate_events() -> None:
    out = io.StringIO()
    logs.setup(LogConfig(), out)
    logs.setup(LogConfig(), out)
    logging.getLogger("x").warning("a")
    assert len(lines(out)) == 1


def test_long_texts_are_shortened() -> None:
    out = io.StringIO()
    logs.setup(LogConfig(format="json"), out)
    logging.getLogger("x").info("called %s", "m" * 9_000, extra={"path": "/" + "p" * 9_000})
    try:
        raise RuntimeError("e" * 90_000)
    except RuntimeError:
        logging.getLogger("x").exception("failed", extra={"reason": "r" * 9_000})
    called, failed = lines(out)
    assert called["message"] == f"called {'m' * 992}…"
    assert called["path"] == f"/{'p' * 198}…"
    assert len(failed["reason"]) == 2_000
    assert len(failed["exception"]) == 20_000
    assert failed["exception"].startswith("…e")


@pytest.mark.parametrize(
    ("message", "logged"),
    [
        ("stored", 100),
        ("socket.accept() out of system resource\nsocket: <socket 7>", 1),
        ("one cause", 1),
    ],
)
def test_lines_of_one_event_are_limited_and_counted(message: str, logged: int) -> None:
    limit = logs.RateLimit()

    def passed(second: float) -> logging.LogRecord | None:
        fields = {"name": "x", "msg": message, "created": second}
        record = logging.makeLogRecord(fields | (logs.RARELY if message == "one cause" else {}))
        return record if limit.filter(record) else None

    assert sum(passed(7.5) is not None for _ in range(250)) == logged
    assert limit.filter(logging.makeLogRecord({"name": "x", "msg": "another", "created": 7.5}))
    first, second = passed(18.0), passed(28.0)
    assert first is not None
    assert second is not None
    assert vars(first)["suppressed"] == 250 - logged
    assert not {"suppressed", "log_rarely"} & vars(second).keys()


def test_counting_events_needs_bounded_memory() -> None:
    limit = logs.RateLimit()
    for number in range(5_000):
        assert limit.filter(logging.makeLogRecord({"name": "x", "msg": f"event {number}"}))
    assert len(limit._events) < 1_100
