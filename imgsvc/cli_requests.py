"""The commands of `imgsvc` that use a running service, and what they report."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic.alias_generators import to_camel
from rich.console import Console

from imgsvc.cli_options import (
    EXISTING_FILE,
    OUTPUT_FILE,
    compress_options,
    compress_values,
    examples,
    make_client,
    server_options,
)
from imgsvc.cli_table_options import (
    name_option,
    output_options,
    request_name,
    status_options,
    status_query,
    table_options,
    upload_query,
)
from imgsvc.client import Client
from imgsvc.errors import file_error_lines
from imgsvc.terminal import (
    failure_lines,
    progress_display,
    reading_lines,
    summary,
    waiting_lines,
)


def prepare_output(out: Path) -> None:
    """Create the folder of `out`, and check that it is writable.

    Raise `OSError` before the work starts instead of after it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass


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


def request_query(**values: object) -> list[tuple[str, str]]:
    """Return the options of the API that are set, from their names in Python."""
    return [(to_camel(name), str(value)) for name, value in values.items() if value is not None]


@click.command(
    epilog=examples(
        "imgsvc submit products.csv",
        "imgsvc submit products.csv --server https://images.example --wait -o out.csv",
    )
)
@click.argument("table", metavar="FILE", type=EXISTING_FILE)
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
    server: str,
    api_key_file: Path | None,
    **options: Any,
) -> int:
    """Upload FILE to a running service and print the request ID.

    With --wait, the exit code is 0 only if every image was compressed.
    """
    if out is not None and not dry_run:
        prepare_output(out)
    query = request_query(
        **compress_values(options),
        webhook_url=webhook_url,
        fresh="true" if fresh else None,
        dry_run="true" if dry_run else None,
    )
    query += upload_query({**options, "name": request_name(options, table)})

    async def run() -> int:
        async with make_client(server, api_key_file) as client:
            with table.open("rb") as data:
                accepted = await client.submit(data, query)
            click.echo("\n".join(reading_lines(accepted)) if dry_run else accepted["requestId"])
            _print_skipped(accepted)
            if dry_run or not (wait or out):
                return 0
            return await _follow(client, accepted["requestId"], out, status_query(options))

    return asyncio.run(run())


def _print_skipped(accepted: Mapping[str, Any]) -> None:
    """Print the errors of skipped rows."""
    if accepted.get("skipped"):
        errors = [(each["row"], each["column"], each["message"]) for each in accepted["errors"]]
        lines = file_error_lines(errors, accepted["errorCount"])
        click.echo("\n".join([f"Skipped rows: {accepted['skipped']:,}", *lines]), err=True)


async def _follow(
    client: Client, request_id: str, out: Path | None, csv_query: Sequence[tuple[str, str]]
) -> int:
    """Show progress until the request has finished, save its CSV to `out`, and return the exit code."""
    console = Console(stderr=True)
    with progress_display(console) as show:
        async for status in client.watch(request_id):
            show(status)
    if out is not None:
        await client.save_csv(request_id, out, csv_query)
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
    server: str,
    api_key_file: Path | None,
    **options: Any,
) -> int:
    """Process the images of a request again, as a new request, and print its ID.

    Unchanged images keep their URLs. Options that are not set are those of the request.
    """
    if out is not None:
        prepare_output(out)
    new_options = request_query(
        **compress_values(options),
        webhook_url=webhook_url,
        name=options["name"],
        fresh=None if fresh is None else str(fresh).lower(),
    )

    async def run() -> int:
        async with make_client(server, api_key_file) as client:
            accepted = await client.repeat(request_id, new_options)
            click.echo(accepted["requestId"])
            if not (wait or out):
                return 0
            return await _follow(client, accepted["requestId"], out, status_query(options))

    return asyncio.run(run())


@click.command(epilog=examples("imgsvc status 6f0…", "imgsvc status 6f0… --wait -o out.csv"))
@click.argument("request_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until the request has finished.")
@click.option("-o", "--out", type=OUTPUT_FILE, help="CSV file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
@status_options
@server_options
def status(
    request_id: str,
    wait: bool,
    out: Path | None,
    as_json: bool,
    server: str,
    api_key_file: Path | None,
    **options: Any,
) -> int:
    """Show the status of a request."""
    csv_query = status_query(options)
    if out is not None:
        prepare_output(out)

    async def run() -> int:
        async with make_client(server, api_key_file) as client:
            code = await _follow(client, request_id, out, csv_query) if wait else 0
            found = await client.status(request_id)
            if out is not None and not wait:
                await client.save_csv(request_id, out, csv_query)
        lines = [summary(found), *failure_lines(found), *waiting_lines(found, time.time())]
        click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines))
        return code

    return asyncio.run(run())
