"""What the command line shows a person: progress, and what became of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from imgsvc.errors import ProblemError

Status = Mapping[str, Any]
"""A request's status, as the API gives it in JSON."""


@contextmanager
def shown_progress(console: Console) -> Iterator[Callable[[Status], None]]:
    """Show how a request gets on, from each status that is given; nothing but on a terminal."""
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
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("images", total=None, failed="")

        def show(status: Status) -> None:
            progress = status["progress"]
            done = progress["completed"] + progress["failed"] + progress["cancelled"]
            failed = f"[red]{progress['failed']} failed" if progress["failed"] else ""
            bars.update(task, completed=done, total=progress["total"], failed=failed)

        yield show


def summary(status: Status) -> str:
    """What became of a request, in one line or two."""
    progress, size = status["progress"], status["bytes"]
    counts = [
        f"{progress[state]:,} {state}"
        for state in ("completed", "failed", "cancelled", "processing", "pending")
        if progress[state]
    ]
    noun = "image" if progress["total"] == 1 else "images"
    line = f"{status['status']}: {progress['total']:,} {noun}, {', '.join(counts)}"
    if size["input"]:
        saved = 100 * (1 - size["output"] / size["input"])
        line += f"; {human(size['input'])} → {human(size['output'])} ({saved:.0f} % saved)"
    return line


def failures(status: Status) -> list[str]:
    """The kinds of failures of a request, the commonest first."""
    most_first = sorted(status["failures"], key=lambda each: -each["count"])
    return [f"{each['count']:,} × {each['code']} ({each['host']})" for each in most_first]


def problem_lines(refusal: ProblemError) -> list[str]:
    """What is wrong with a table, fault by fault, or with whatever was refused."""
    lines = [refusal.detail]
    for fault in refusal.errors:
        where = [f"row {fault.row}"] if fault.row is not None else []
        where += [f"column {fault.column}"] if fault.column is not None else []
        lines.append(f"  {', '.join(where) or 'the file'}: {fault.message}")
    if (more := refusal.error_count - len(refusal.errors)) > 0:
        lines.append(f"  and {more:,} more")
    return lines


def human(size: int) -> str:
    """`12345678` → `12.3 MB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
