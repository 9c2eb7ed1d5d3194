"""Terminal output of the command line: progress, results and errors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from imgsvc.errors import ProblemError, file_error_lines
from imgsvc.models import StatusJson

ROLES = {
    "image": "Images",
    "name": "Product names",
    "serial": "Serial numbers",
    "group": "Products grouped by",
    "extra": "Kept unchanged",
    "dropped": "Replaced",
}
"""The titles of the roles of columns, in the order in which they are printed."""
MAX_WAITING_LINES = 10
"""Maximum number of lines about hosts that a progress bar prints, each host and error once."""
DELIMITER_WORDS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}


@contextmanager
def progress_display(console: Console) -> Iterator[Callable[[StatusJson], None]]:
    """Show a progress bar while the block runs, and yield a function that updates it with a status.

    If the console is not a terminal, show nothing.
    """
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress_bar:
        task = progress_bar.add_task("images", total=None, failed="")
        printed: set[tuple[str, str]] = set()

        def print_new_waiting(status: StatusJson) -> None:
            lines = waiting_lines(status, time.time())
            for each, line in zip(status.get("waiting", ()), lines, strict=True):
                error = each["host"], each["code"]
                if error not in printed and len(printed) < MAX_WAITING_LINES:
                    printed.add(error)
                    progress_bar.console.print(line, markup=False, highlight=False)

        def show(status: StatusJson) -> None:
            print_new_waiting(status)
            progress = status["progress"]
            done = progress["completed"] + progress["failed"] + progress["cancelled"]
            failed = f"[red]{progress['failed']} failed" if progress["failed"] else ""
            progress_bar.update(task, completed=done, total=progress["total"], failed=failed)

        yield show


def summary(status: StatusJson) -> str:
    """Return a summary of a request in one line: its status, counts of images, and bytes saved."""
    progress, size = status["progress"], status["bytes"]
    counts = [
        f"{progress[state]:,} {state}"
        for state in ("completed", "failed", "cancelled", "processing", "pending")
        if progress[state]
    ]
    noun = "image" if progress["total"] == 1 else "images"
    line = f"{status['status']}: {progress['total']:,} {noun}, {', '.join(counts)}"
    if status.get("skipped"):  # older services have no such field
        line += f"; {status['skipped']:,} row{'s' if status['skipped'] > 1 else ''} skipped"
    if size["input"]:
        saved = 100 * (1 - size["output"] / size["input"])
        before, after = format_bytes(size["input"]), format_bytes(size["output"])
        line += f"; {before} → {after} ({saved:.0f} % saved)"
    return line


def reading_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the lines that describe how a service reads a table. `result` is that of a dry run."""
    delimiter = result["delimiter"]
    kind = ".xlsx" if delimiter is None else f"CSV with {DELIMITER_WORDS.get(delimiter, delimiter)}"
    encoding = f", {result['encoding']}" if result["encoding"] else ""
    counts = [(result["products"], "product"), (result["images"], "image")]
    lines = [
        ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counts),
        f"Layout: {result['layout']} ({kind}{encoding})",
    ]
    for role, title in ROLES.items():
        names = [each["name"].strip() for each in result["columns"] if each["role"] == role]
        if names := [name for name in names if name]:
            lines.append(f"{title}: {', '.join(names)}")
    for product in result["preview"]:
        lines.append(f"Row {product['row']:,}: {product['productName']}")
        lines += [f"  {url}" for url in product["inputUrls"]]
    return lines


def failure_lines(status: StatusJson) -> list[str]:
    """Return a line for each kind of failure of a request, most frequent first."""
    by_count = sorted(status["failures"], key=lambda each: -each["count"])
    return [f"{each['count']:,} × {each['code']} ({each['host']})" for each in by_count]


def waiting_lines(status: StatusJson, now: float) -> list[str]:
    """Return a sentence for each host that images wait for. `now` is in Unix seconds.

    For example: `Cannot find www.gstatic.com (10 images). Next try in 25 s.`
    """
    lines = []
    for each in status.get("waiting", ()):  # older services have no such field
        count, host, message = each["count"], each["host"], each["message"].rstrip(".")
        if host.lower() not in message.lower():
            message = f"{host}: {message}"
        seconds = math.ceil(datetime.fromisoformat(each["nextTryAt"]).timestamp() - now)
        next_try = f"Next try in {seconds} s." if seconds > 0 else "Retrying now."
        lines.append(f"{message} ({count:,} image{'' if count == 1 else 's'}). {next_try}")
    return lines


def problem_lines(problem: ProblemError) -> list[str]:
    """Return the lines that describe a problem: its detail, then a line for each error in the file."""
    errors = [(error.row, error.column, error.message) for error in problem.errors]
    return [problem.detail, *file_error_lines(errors, problem.error_count)]


def format_bytes(size: int) -> str:
    """Return a number of bytes in decimal units, for example `12345678` as `12.3 MB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
