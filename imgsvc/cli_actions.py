"""The commands of `imgsvc` that list, change and download the requests of a running service."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from imgsvc.cli_options import (
    OUTPUT_FILE,
    STDOUT,
    Server,
    client_of,
    examples,
    prepare_output,
    server_options,
)
from imgsvc.cli_table_options import status_options, table_download
from imgsvc.client import AsyncClient
from imgsvc.client.types import ListedRequest, Status
from imgsvc.models import RequestStatus
from imgsvc.terminal import format_bytes, summary

ValueT = TypeVar("ValueT")

_DEFAULT_LIMIT = 30

request_argument = click.argument("request_id", metavar="ID")


@click.command(
    "list",
    epilog=examples(
        "imgsvc list",
        "imgsvc list --status failed",
        'imgsvc list --name "spring" --json',
    ),
)
@click.option(
    "--status",
    type=click.Choice([str(each) for each in RequestStatus]),
    help="Only requests with this status.",
)
@click.option("--name", help="Only requests whose name contains this text.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=_DEFAULT_LIMIT,
    show_default=True,
    help="Maximum number of requests.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the requests as JSON.")
@server_options
def list_requests(
    status: str | None, name: str | None, limit: int, as_json: bool, server: Server
) -> None:
    """List requests, newest first."""

    async def collect(client: AsyncClient) -> list[ListedRequest]:
        found: list[ListedRequest] = []
        async for request in client.requests(status=status, name=name):
            found.append(request)
            if len(found) == limit:
                break
        return found

    requests = _run(server, collect)
    console = Console()
    if as_json:
        click.echo(json.dumps(requests, indent=2))
    elif console.is_terminal:
        console.print(_table(requests) if requests else "No requests.")
    else:
        for request in requests:
            click.echo("\t".join([request["requestId"], *_cells(request), request["createdAt"]]))


def _table(requests: Sequence[ListedRequest]) -> Table:
    table = Table("ID", "Name", "Status", "Images", "Saved", "Created", box=None, pad_edge=False)
    for request in requests:
        created = request["createdAt"][:16].replace("T", " ")
        table.add_row(request["requestId"], *_cells(request), created)
    table.columns[0].no_wrap = True
    return table


def _cells(request: ListedRequest) -> list[str]:
    """Return the request's name, status, finished and total images, and bytes saved, as text."""
    progress, size = request["progress"], request["bytes"]
    done = progress["completed"] + progress["failed"] + progress["cancelled"]
    return [
        request["name"] or "",
        request["status"],
        f"{done:,}/{progress['total']:,}",
        format_bytes(max(0, size["input"] - size["output"])),
    ]


@click.command(
    epilog=examples("imgsvc cancel 6f0…", "imgsvc cancel 6f0… --host images.shop.example")
)
@request_argument
@click.option(
    "--host",
    help="Cancel only the images of this host, such as images.shop.example or 10.0.0.5:9000.",
)
@server_options
def cancel(request_id: str, host: str | None, server: Server) -> None:
    """Cancel what a request has not finished.

    Finished images stay, and images that are being compressed are finished.
    """
    _print_summary(_run(server, lambda client: client.cancel(request_id, host)))


@click.command(epilog=examples("imgsvc retry 6f0…", "imgsvc retry 6f0… --include cancelled"))
@request_argument
@click.option("--include", type=click.Choice(["cancelled"]), help="Also retry cancelled images.")
@server_options
def retry(request_id: str, include: str | None, server: Server) -> None:
    """Try the failed images of a request again."""
    cancelled = include is not None
    status = _run(server, lambda client: client.retry(request_id, include_cancelled=cancelled))
    _print_summary(status)


@click.command(epilog=examples("imgsvc delete 6f0…", "imgsvc delete 6f0… --yes"))
@request_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_options
def delete(request_id: str, yes: bool, server: Server) -> None:
    """Delete a request, and the images that no other request uses.

    Their URLs stop working. On a terminal, the command asks first.
    """

    async def confirm_and_delete(client: AsyncClient) -> None:
        if not yes and sys.stdin.isatty():
            status = await client.status(request_id)
            images = f"{status['progress']['total']:,} images"
            question = f"Delete {status['name'] or request_id} ({images})?"
            click.confirm(question, abort=True)
        await client.delete(request_id)

    _run(server, confirm_and_delete)
    click.echo(f"Deleted {request_id}.", err=True)


@click.command(
    epilog=examples(
        "imgsvc download 6f0…",
        "imgsvc download 6f0… --layout input -o for-my-shop.csv",
        "imgsvc download 6f0… --images",
    )
)
@request_argument
@click.option(
    "-o",
    "--out",
    type=OUTPUT_FILE,
    help="File to write; - is standard output. A name that ends in .xlsx is written as .xlsx. "
    "[default: the name of the request]",
)
@click.option("--images", is_flag=True, help="Download the images as a ZIP instead of the table.")
@status_options
@server_options
def download(
    request_id: str, out: Path | None, images: bool, server: Server, **options: Any
) -> None:
    """Download the table with the new URLs, or the images.

    An unfinished request has the URLs and the images that are ready.
    """

    async def save(client: AsyncClient, target: Path | None) -> Path:
        if images:
            return await client.download_images(request_id, target)
        return await client.download_table(request_id, target, **table_download(options))

    if out == STDOUT:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "download")
            with _run(server, partial(save, target=target)).open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
        return
    if out is not None:
        prepare_output(out)
    click.echo(f"Saved {_run(server, partial(save, target=out))}.", err=True)


def _print_summary(status: Status) -> None:
    click.echo(summary(status), err=True)


def _run(server: Server, use: Callable[[AsyncClient], Coroutine[Any, Any, ValueT]]) -> ValueT:
    """Return what `use` returns for a client of the server."""

    async def run() -> ValueT:
        async with client_of(server) as client:
            return await use(client)

    return asyncio.run(run())
