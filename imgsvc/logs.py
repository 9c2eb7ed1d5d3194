"""Logging: one line for each event on stderr, as JSON, or as plain text on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from imgsvc.config import LogConfig
from imgsvc.errors import DependencyError

_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_VERBOSE_LIBRARIES = ("aiohttp.access", "aiosqlite", "asyncio", "PIL")
"""Libraries that log too much at `info` and `debug`, query strings included. Logged from `warning`."""


def setup(config: LogConfig, stream: TextIO | None = None) -> None:
    """Configure the root logger: write all events to `stream` (default: stderr)."""
    out = sys.stderr if stream is None else stream
    as_json = config.format == "json" or (config.format == "auto" and not out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if as_json else ConsoleFormatter())
    handler.addFilter(_remove_expected_traceback)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def _remove_expected_traceback(record: logging.LogRecord) -> bool:
    """Add a `DependencyError` to the message and drop its traceback: it is not a bug."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, DependencyError):
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        record.exc_info = None
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that the caller passed as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _RECORD_FIELDS}


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
            "message": record.getMessage(),
        }
        event = event | _fields(record) | event
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """Formats events as `21:34:22 warning message  key=value`, and the traceback, if any, below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return an event as plain text."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = "".join(
            f"  {key}={_format_value(value)}" for key, value in _fields(record).items()
        )
        line = f"{time} {record.levelname.lower():7} {_printable(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _printable(text: str) -> str:
    """Escape characters that could move a terminal's cursor or start a new line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _format_value(value: object) -> str:
    text = _printable(str(value))
    return f'"{text}"' if not text or " " in text else text
