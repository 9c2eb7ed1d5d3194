"""The commands of `imgsvc` that use a running service, and what they report."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
from rich.console import Console

from imgsvc.cli_options import (
    FILE_OR_STDIN,
    OUTPUT_FILE,
    Server,
    client_of,
    compress_options,
    compress_values,
    examples,
    prepare_output,
    server_options,
)
from imgsvc.cli_table_options import (
    STDIN,
    name_option,
    output_options,
    request_name,
    status_options,
    table_download,
    table_options,
    upload_options,
)
from imgsvc.client import AsyncClient
from imgsvc.client.types import DownloadArguments, RepeatArguments, Upload, UploadArguments
from imgsvc.errors import file_error_lines
from imgsvc.terminal import (
    failure_lines,
    progress_display,
    reading_lines,
    summary,
    waiting_lines,
)


def report(console: Console, status: Mapping[str, Any], saved: str | None = None) -> int:
    """Print the summary of a finished request, on a terminal or if images failed.

    `saved` is a line about the files that were written. Return the exit code: 0 if every image was
    compressed, else 1.
    """
    completed = status["status"] == "completed"
    if console.is_terminal or not completed:
        for line in (summary(status), *failure_lines(status), *([saved] if saved else [])):
            click.echo(line, err=True)
    return 0 if completed else 1


def repeat_options(options: Mapping[str, Any], **others: object) -> RepeatArguments:
    """Return the client's options of compression, and the others that are set."""
    values = {**compress_values(options), **others}
    given = {name: value for name, value in values.items() if value is not None}
    if "quality" in given:
        given["quality"] = str(given["quality"])
    return cast("RepeatArguments", given)


@click.command(
    epilog=examples(
        "imgsvc submit products.csv",
        "export-products | imgsvc submit - --name products.csv",
        "imgsvc submit products.csv --server https://images.example --wait -o out.csv",
    )
)
@click.argument("table", metavar="FILE", type=FILE_OR_STDIN)
@click.option("--wait", is_flag=True, help="Wait until the request has finished. Implied by --out.")
@click.option(
    "-o", "--out", type=OUTPUT_FILE, help="CSV file to write when the request has finished."
)
@click.option("--dry-run", is_flag=True, help="Print how FILE is read, and upload nothing.")
@click.option("--webhook-url", help="URL that the service calls when the request has finished.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Download every image, even if its host would say that it is unchanged.",
)
@compress_options
@table_options
@output_options
@server_options
def submit(
    table: Path,
    wait: bool,
    out: Path | None,
    dry_run: bool,
    webhook_url: str | None,
    fresh: bool,
    server: Server,
    **options: Any,
) -> int:
    """Upload FILE to a running service and print the request ID.

    FILE can be a CSV or an .xlsx file; - is standard input. With --wait, the exit code is 0 only if
    every image was compressed.
    """
    if out is not None and not dry_run:
        prepare_output(out)
    upload = cast(
        "UploadArguments",
        {
            **repeat_options(
                options,
                webhook_url=webhook_url,
                name=request_name(options, table),
                fresh=fresh or None,
            ),
            **upload_options(options),
        },
    )

    async def run() -> int:
        async with client_of(server) as client:
            with _open_table(table) as file:
                if dry_run:
                    checked = await client.check(file, **upload)
                    click.echo("\n".join(reading_lines(checked)))
                    _print_skipped(checked)
                    return 0
                accepted = await client.upload(file, **upload)
            click.echo(accepted["requestId"])
            _print_skipped(accepted)
            if not (wait or out):
                return 0
            return await _follow(client, accepted["requestId"], out, table_download(options))

    return asyncio.run(run())


@contextmanager
def _open_table(table: Path) -> Iterator[BinaryIO]:
    """Open the file, or a copy of standard input, which cannot be sent with a length."""
    if table != STDIN:
        with table.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.seek(0)
        yield cast("BinaryIO", copy)


def _print_skipped(accepted: Upload) -> None:
    """Print the errors of skipped rows."""
    if accepted["skipped"]:
        errors = [(each["row"], each["column"], each["message"]) for each in accepted["errors"]]
        lines = file_error_lines(errors, accepted["errorCount"])
        click.echo("\n".join([f"Skipped rows: {accepted['skipped']:,}", *lines]), err=True)


async def _follow(
    client: AsyncClient, request_id: str, out: Path | None, csv_options: DownloadArguments
) -> int:
    """Show progress until the request has finished, save its CSV to `out`, and return the exit code."""
    console = Console(stderr=True)
    try:
        with progress_display(console) as show:
            async for status in client.watch(request_id):
                show(status)
    except asyncio.CancelledError:
        message = f"The request continues. To wait again: imgsvc status {request_id} --wait"
        click.echo(message, err=True)
        raise
    if out is not None:
        await client.download_table(request_id, out, **csv_options)
    return report(console, status, f"Saved {out}." if out else None)


@click.command(epilog=examples("imgsvc repeat 6f0…", "imgsvc repeat 6f0… --wait -o out.csv"))
@click.argument("request_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until the new request has finished.")
@click.option(
    "-o", "--out", type=OUTPUT_FILE, help="CSV file to write when the new request has finished."
)
@click.option("--webhook-url", help="URL that the service calls when the new request has finished.")
@click.option(
    "--fresh/--no-fresh", default=None, help="Download every image, even if it is unchanged."
)
@name_option
@compress_options
@status_options
@server_options
def repeat(
    request_id: str,
    wait: bool,
    out: Path | None,
    webhook_url: str | None,
    fresh: bool | None,
    server: Server,
    **options: Any,
) -> int:
    """Process the images of a request again, as a new request, and print its ID.

    Unchanged images keep their URLs. Options that are not set are those of the request.
    """
    if out is not None:
        prepare_output(out)
    new_options = repeat_options(
        options, webhook_url=webhook_url, name=options["name"], fresh=fresh
    )

    async def run() -> int:
        async with client_of(server) as client:
            accepted = await client.repeat(request_id, **new_options)
            click.echo(accepted["requestId"])
            if not (wait or out):
                return 0
            return await _follow(client, accepted["requestId"], out, table_download(options))

    return asyncio.run(run())


@click.command(epilog=examples("imgsvc status 6f0…", "imgsvc status 6f0… --wait -o out.csv"))
@click.argument("request_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until the request has finished.")
@click.option("-o", "--out", type=OUTPUT_FILE, help="CSV file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
@click.option("--products", is_flag=True, help="With --json, print a page of the products too.")
@click.option("--offset", type=click.IntRange(0), default=0, help="First product of the page.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), help="Number of products of the page. [default: 100]"
)
@status_options
@server_options
def status(
    request_id: str,
    wait: bool,
    out: Path | None,
    as_json: bool,
    products: bool,
    offset: int,
    limit: int | None,
    server: Server,
    **options: Any,
) -> int:
    """Show the status of a request."""
    csv_options = table_download(options)
    if out is not None:
        prepare_output(out)

    async def run() -> int:
        async with client_of(server) as client:
            code = await _follow(client, request_id, out, csv_options) if wait else 0
            found = await client.status(request_id, products=products, offset=offset, limit=limit)
            if out is not None and not wait:
                await client.download_table(request_id, out, **csv_options)
        lines = [summary(found), *failure_lines(found), *waiting_lines(found, time.time())]
        click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines))
        return code

    return asyncio.run(run())
