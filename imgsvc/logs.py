"""Logging: one line for each event on stderr, as JSON, or as plain text on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from imgsvc.config import LogConfig
from imgsvc.errors import DependencyError

_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_VERBOSE_LIBRARIES = ("aiohttp.access", "aiosqlite", "asyncio", "PIL")
"""Libraries that log too much at `info` and `debug`, query strings included. Logged from `warning`."""


MAX_MESSAGE_CHARACTERS = 1_000
MAX_FIELD_CHARACTERS = 2_000
MAX_PATH_CHARACTERS = 200
"""Clients and hosts choose paths and URLs, and may choose very long ones."""
MAX_TRACEBACK_CHARACTERS = 20_000
_PATH_FIELDS = {"path", "url", "target", "referrer"}

MAX_EVENTS_PER_SECOND = 100
"""Lines a second with the same event, whose message is the same before its arguments are filled in."""
RARELY: dict[str, object] = {"log_rarely": True}
"""Pass this as `extra` of an event that may occur many times for one cause: it is logged at most once
in `RARE_SECONDS`."""
RARE_SECONDS = 10
_ACCEPT_FAILED = "socket.accept() out of system resource"
"""asyncio logs this many times a second (https://github.com/python/cpython/issues/151615)."""
_MAX_EVENTS = 1_000
"""Number of events that are counted. Above it, counting starts again."""


def setup(config: LogConfig, stream: TextIO | None = None) -> None:
    """Configure the root logger: write all events to `stream` (default: stderr)."""
    out = sys.stderr if stream is None else stream
    as_json = config.format == "json" or (config.format == "auto" and not out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if as_json else ConsoleFormatter())
    handler.addFilter(RateLimit())
    handler.addFilter(_remove_expected_traceback)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


class RateLimit(logging.Filter):
    """Drops lines of an event above its limit.

    The next line of the event has the field `suppressed`: how many were dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events: dict[tuple[str, str], _EventCount] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is within the limit of its event."""
        message = str(record.msg).partition("\n")[0]
        is_rare = vars(record).pop("log_rarely", message == _ACCEPT_FAILED)
        period, limit = (RARE_SECONDS, 1) if is_rare else (1, MAX_EVENTS_PER_SECOND)
        number = int(record.created // period)
        if len(self._events) > _MAX_EVENTS:
            self._events.clear()
        event = self._events.setdefault((record.name, message), _EventCount(number))
        if event.period != number:
            if event.suppressed:
                record.suppressed = event.suppressed
            event.period, event.count, event.suppressed = number, 0, 0
        event.count += 1
        if event.count <= limit:
            return True
        event.suppressed += 1
        return False


@dataclass(slots=True)
class _EventCount:
    """The lines of one event in one period."""

    period: int
    count: int = 0
    suppressed: int = 0


def _remove_expected_traceback(record: logging.LogRecord) -> bool:
    """Add a `DependencyError` to the message and drop its traceback: it is not a bug."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, DependencyError):
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        record.exc_info = None
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that the caller passed as `extra`, with long texts shortened."""
    return {
        key: _shorten_field(key, value)
        for key, value in vars(record).items()
        if key not in _RECORD_FIELDS
    }


def _shorten_field(key: str, value: object) -> object:
    limit = MAX_PATH_CHARACTERS if key in _PATH_FIELDS else MAX_FIELD_CHARACTERS
    if isinstance(value, bool | int | float | None):
        return value
    return _shorten(str(value), limit)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _shorten_traceback(text: str) -> str:
    """Return the end of a traceback, which says most."""
    limit = MAX_TRACEBACK_CHARACTERS
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


class JsonFormatter(logging.Formatter):
    """Formats events as JSON: `{"time", "level", "logger", "message", …}`, and the fields of `extra`.

    A field of `extra` never replaces one of the first four.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return an event as one line of JSON."""
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _shorten(record.getMessage(), MAX_MESSAGE_CHARACTERS),
        }
        event = event | _fields(record) | event
        if record.exc_info:
            event["exception"] = _shorten_traceback(self.formatException(record.exc_info))
        return json.dumps(event, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """Formats events as `21:34:22 warning message  key=value`, and the traceback, if any, below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return an event as plain text."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = "".join(
            f"  {key}={_format_value(value)}" for key, value in _fields(record).items()
        )
        message = _printable(_shorten(record.getMessage(), MAX_MESSAGE_CHARACTERS))
        line = f"{time} {record.levelname.lower():7} {message}{fields}"
        if record.exc_info:
            line += f"\n{_shorten_traceback(self.formatException(record.exc_info))}"
        return line


def _printable(text: str) -> str:
    """Escape characters that could move a terminal's cursor or start a new line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _format_value(value: object) -> str:
    text = _printable(str(value))
    return f'"{text}"' if not text or " " in text else text
