"""One line for each event on stderr: JSON for machines, plain text for a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from imgsvc.config import LogConfig
from imgsvc.errors import DependencyError

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NOISY = ("aiohttp.access", "aiosqlite", "asyncio", "PIL")
"""Libraries that tell at `info` or `debug` more than anyone asked for, query strings among it."""


def setup(config: LogConfig, stream: TextIO | None = None) -> None:
    """Send every logger's events to `stream` (stderr), as `config` says."""
    out = sys.stderr if stream is None else stream
    as_json = config.format == "json" or (config.format == "auto" and not out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if as_json else ConsoleFormatter())
    handler.addFilter(_in_one_line)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def _in_one_line(record: logging.LogRecord) -> bool:
    """Let a `DependencyError` stand in its event's own line: where in the code it was met helps nobody."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, DependencyError):
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        record.exc_info = None
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _OWN_FIELDS}


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", …}`, the fields of `extra` beside them."""

    def format(self, record: logging.LogRecord) -> str:
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
    """`21:34:22 warning  message  key=value`, with the traceback below where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = "".join(f"  {key}={_shown(value)}" for key, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():7} {_printable(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _printable(text: str) -> str:
    """Escape what could move a terminal's cursor or begin another line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _shown(value: object) -> str:
    text = _printable(str(value))
    return f'"{text}"' if not text or " " in text else text
