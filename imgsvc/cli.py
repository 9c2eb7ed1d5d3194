"""The `imgsvc` command: everything a person does from a shell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
from rich.console import Console

from imgsvc import __version__, logs
from imgsvc.backup import BackupError, back_up
from imgsvc.client import Client, ServiceError
from imgsvc.config import Config, LogConfig, load_config
from imgsvc.errors import ConfigError, ProblemError, StartupError
from imgsvc.image_types import OutputFormat, Quality
from imgsvc.offline import process_file
from imgsvc.service import serve as run_service
from imgsvc.terminal import failures, problem_lines, shown_progress, summary

WRONG_USE = 2
INTERRUPTED = 130
HINTS = {
    0: "Is the service running there? --server or IMGSVC_SERVER names another.",
    401: "Set IMGSVC_API_KEY, or name a file that holds the key by --api-key-file.",
}
"""What a person can do about a service's refusal, by its HTTP status; 0: there was no answer."""
Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> None:
    """Run the command that the arguments name; what goes wrong ends in words, not in a traceback."""
    sys.exit(_main())


def _main() -> int:
    try:
        return int(cli(prog_name="imgsvc", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigError as error:
        return _fail(str(error), WRONG_USE)
    except ProblemError as refusal:
        return _fail("\n".join(problem_lines(refusal)))
    except ServiceError as error:
        return _fail("\n".join(filter(None, [str(error), HINTS.get(error.status)])))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (StartupError, BackupError) as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)


def _fail(message: str, code: int = 1) -> int:
    click.echo(f"imgsvc: {message}", err=True)
    return code


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class _QualityType(click.ParamType[Quality]):
    name = "quality"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Quality:
        try:
            return Quality.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)
_config_option = click.option(
    "--config", "file", type=_FILE, help="The configuration; else $IMGSVC_CONFIG, ./config.toml."
)


def _compress_options(command: Command) -> Command:
    quality = click.option(
        "--quality", type=_QualityType(), help='"50%" of the source\'s own, or 1 to 100 for all.'
    )
    choice = click.Choice([str(each) for each in OutputFormat])
    return quality(
        click.option("--format", "format_", type=choice, help="Convert to this.")(command)
    )


def _server_options(command: Command) -> Command:
    server = click.option(
        "--server",
        envvar="IMGSVC_SERVER",
        default="http://127.0.0.1:8080",
        show_default=True,
        help="The service's URL; else $IMGSVC_SERVER.",
    )
    key = click.option(
        "--api-key-file", type=_FILE, help="A file with the API key; else $IMGSVC_API_KEY."
    )
    return server(key(command))


def _client(server: str, api_key_file: Path | None) -> Client:
    if not _is_base_url(server):
        raise click.BadParameter(
            f"{server!r} is not an http(s) URL such as http://127.0.0.1:8080", param_hint="--server"
        )
    if api_key_file is None:
        key, source = os.environ.get("IMGSVC_API_KEY", "").strip(), "IMGSVC_API_KEY"
    else:
        key, source = api_key_file.read_text("utf-8", "replace").strip(), "--api-key-file"
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise click.BadParameter(
            "an API key is one line of printable ASCII without blanks", param_hint=source
        )
    return Client(server, key or None)


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        plain = not (url.query or url.fragment)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and plain
    except ValueError:
        return False


def _make_room(out: Path) -> None:
    """Make `out`'s folder, and raise `OSError` now rather than after all the work."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_examples(
        "imgsvc demo                                  see it work, with pictures of its own",
        "imgsvc serve                                 start the service",
        "imgsvc process products.csv -o out.csv       do a file without a service",
        "imgsvc submit products.csv --wait -o out.csv have a running service do it",
    ),
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Take a CSV of products with image URLs, and give it back with every image compressed."""


@cli.command(epilog=_examples("imgsvc serve --port 9000 --data-dir /srv/imgsvc"))
@_config_option
@click.option("--host", help="Where to listen.")
@click.option("--port", type=int, help="0: any free one.")
@click.option("--public-url", help="The service's own URL for others.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The folder with its data.")
@click.option("--workers", type=int, help="Processes that compress.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]))
def serve(
    file: Path | None,
    data_dir: Path | None,
    host: str | None,
    port: int | None,
    public_url: str | None,
    workers: int | None,
    log_level: str | None,
    log_format: str | None,
) -> int:
    """Start the service, until SIGTERM or Ctrl-C. Every option is a setting of config.toml."""
    flags = {
        "server.host": host,
        "server.port": port,
        "server.public_url": public_url,
        # Relative to where the user stands, as any path on a command line.
        "storage.data_dir": data_dir and data_dir.absolute(),
        "compress.workers": workers,
        "log.level": log_level,
        "log.format": log_format,
    }
    config = load_config(file, flags={k: v for k, v in flags.items() if v is not None})
    logs.setup(config.log)
    return asyncio.run(run_service(config))


@cli.command(
    epilog=_examples(
        "imgsvc process products.csv -o out.csv",
        'imgsvc process products.csv -o out.csv --quality "30%" --format webp',
    )
)
@click.argument("table", metavar="FILE", type=_FILE)
@click.option("-o", "--out", type=_OUT, required=True, help="The CSV to write.")
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="The images' folder; else OUT.images.",
)
@_compress_options
@_config_option
def process(
    table: Path,
    out: Path,
    images: Path | None,
    quality: Quality | None,
    format_: str | None,
    file: Path | None,
) -> int:
    """Do the whole FILE without a service.

    The images go into a folder beside OUT, where the CSV's output URLs, relative to it, find them.
    After Ctrl-C the same command goes on where it stopped; after failures it tries those again. The
    exit code is 0 only if every image came out.
    """
    folder = images or out.with_name(f"{out.name.removesuffix('.csv')}.images")
    flags = {
        "storage.data_dir": folder.absolute(),
        "storage.retention_days": 0,
        "compress.quality": quality,
        "compress.format": format_,
    }
    config = load_config(file, flags={k: v for k, v in flags.items() if v is not None})
    _make_room(out)
    logs.setup(LogConfig(level="error"))
    console = Console(stderr=True)
    try:
        with shown_progress(console) as show:
            status = asyncio.run(process_file(config, table, out, show))
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on from here", INTERRUPTED)
    return _tell(console, status, f"written: {out}, images: {folder}")


def _tell(console: Console, status: Mapping[str, Any], written: str | None = None) -> int:
    """Sum up a finished request; return the exit code that tells whether all came out."""
    whole = status["status"] == "completed"
    if console.is_terminal or not whole:
        for line in (summary(status), *failures(status), *([written] if written else [])):
            click.echo(line, err=True)
    return 0 if whole else 1


@cli.command(
    epilog=_examples(
        "imgsvc submit products.csv",
        "imgsvc submit products.csv --server https://images.example --wait -o out.csv",
    )
)
@click.argument("table", metavar="FILE", type=_FILE)
@click.option("--wait", is_flag=True, help="Wait for the end; -o does, too.")
@click.option("-o", "--out", type=_OUT, help="Write the finished CSV there.")
@click.option("--webhook-url", help="Have the service call this URL at the end.")
@_compress_options
@_server_options
def submit(
    table: Path,
    wait: bool,
    out: Path | None,
    webhook_url: str | None,
    quality: Quality | None,
    format_: str | None,
    server: str,
    api_key_file: Path | None,
) -> int:
    """Upload FILE to a running service, and print the request's id.

    With --wait the exit code is 0 only if every image came out.
    """
    if out is not None:
        _make_room(out)
    given = {"quality": quality, "format": format_, "webhookUrl": webhook_url}
    options = {key: str(value) for key, value in given.items() if value is not None}

    async def work() -> int:
        async with _client(server, api_key_file) as client:
            with table.open("rb") as data:
                accepted = await client.submit(data, options)
            click.echo(accepted["requestId"])
            if not (wait or out):
                return 0
            return await _follow(client, accepted["requestId"], out)

    return asyncio.run(work())


async def _follow(client: Client, request_id: str, out: Path | None) -> int:
    console = Console(stderr=True)
    with shown_progress(console) as show:
        async for status in client.watch(request_id):
            show(status)
    if out is not None:
        await client.save_csv(request_id, out)
    return _tell(console, status, f"written: {out}" if out else None)


@cli.command(epilog=_examples("imgsvc status 6f0…", "imgsvc status 6f0… --wait -o out.csv"))
@click.argument("request_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait for the end.")
@click.option("-o", "--out", type=_OUT, help="Write the CSV as it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
@_server_options
def status(
    request_id: str,
    wait: bool,
    out: Path | None,
    as_json: bool,
    server: str,
    api_key_file: Path | None,
) -> int:
    """Tell how a request gets on."""
    if out is not None:
        _make_room(out)

    async def work() -> int:
        async with _client(server, api_key_file) as client:
            code = await _follow(client, request_id, out) if wait else 0
            found = await client.status(request_id)
            if out is not None and not wait:
                await client.save_csv(request_id, out)
        lines = [json.dumps(found, indent=2)] if as_json else [summary(found), *failures(found)]
        click.echo("\n".join(lines))
        return code

    return asyncio.run(work())


@cli.command()
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Put the pictures and the CSV into this folder, before and after.",
)
def demo(keep: Path | None) -> int:
    """See the whole way once: pictures of its own, served on loopback, in a throwaway folder."""
    # Not at the top: it draws, and the service's main process is to stay free of Pillow.
    from imgsvc.demo import run_demo  # noqa: PLC0415

    logs.setup(LogConfig(level="error"))
    return 0 if asyncio.run(run_demo(Console(), keep)) else 1


@cli.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@_config_option
def check(file: Path | None) -> None:
    """Say what is wrong with the configuration, or which settings differ from their defaults."""
    found = load_config(file).model_dump(mode="json")
    default = Config().model_dump(mode="json")
    for section, keys in found.items():
        for key, value in keys.items():
            if value != default[section][key]:
                shown = "(set)" if key in {"api_keys", "secret", "proxy"} else json.dumps(value)
                click.echo(f"{section}.{key} = {shown}")
    click.echo("the configuration is valid", err=True)


@cli.command(epilog=_examples("imgsvc backup /mnt/backup/imgsvc-$(date +%F)"))
@click.argument("dest", type=click.Path(path_type=Path))
@_config_option
@click.option("--data-dir", type=click.Path(path_type=Path), help="The folder with the data.")
def backup(dest: Path, file: Path | None, data_dir: Path | None) -> None:
    """Copy the data folder to DEST, consistently, while the service runs or not.

    On the same file system the images are hard links, and take no space of their own.
    """
    flags = {"storage.data_dir": data_dir.absolute()} if data_dir else {}
    made = back_up(load_config(file, flags=flags).storage.data_dir, dest)
    click.echo(f"backed up to {dest}: the database and {made.files:,} images", err=True)
    if made.missing:
        click.echo(f"{made.missing:,} images that the database names are not there", err=True)
