"""The `imgsvc` command."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from imgsvc import __version__, logs
from imgsvc.backup import BackupError
from imgsvc.cli_actions import cancel, delete, download, list_requests, retry
from imgsvc.cli_cluster import cluster, node
from imgsvc.cli_operations import backup, check_data, load_quietly, secret
from imgsvc.cli_options import (
    EXISTING_FILE,
    OUTPUT_FILE,
    compress_options,
    compress_values,
    config_option,
    examples,
    prepare_output,
)
from imgsvc.cli_requests import repeat, report, status, submit
from imgsvc.cli_table_options import (
    output_options,
    read_options,
    request_name,
    table_options,
    write_options,
)
from imgsvc.client import ServiceError
from imgsvc.config import BUCKET_SETTINGS, Config, LogConfig, StorageConfig
from imgsvc.config_loader import load_config
from imgsvc.errors import ConfigError, ProblemError, StartupError
from imgsvc.images import native
from imgsvc.offline import FileOptions, process_file, working_folder
from imgsvc.serve import protect_secrets
from imgsvc.serve import serve as run_service
from imgsvc.terminal import problem_lines, progress_display
from imgsvc.workers.confinement import confinement_warnings

log = logging.getLogger(__name__)

USAGE_ERROR = 2
"""Exit code if an argument or the configuration is invalid. Click uses the same."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells use it."""
SECTIONS = {
    "Without a service": ("demo", "process"),
    "Use a service": (
        "submit",
        "status",
        "list",
        "download",
        "retry",
        "repeat",
        "cancel",
        "delete",
    ),
    "Run a service": ("serve", "config", "backup", "check", "secret"),
    "Use several machines": ("cluster", "node"),
}
"""The commands, by heading of the help."""
HINTS = {
    0: "Is the service running there? Choose another one with --server or IMGSVC_SERVER.",
    401: "Set IMGSVC_API_KEY, or use --api-key-file.",
}
"""Advice for an error response, by HTTP status. 0: no response."""


def main() -> None:
    """Run the command in `sys.argv` and exit. Errors are printed as messages, without a traceback."""
    code = _main()
    if "obstore" in sys.modules:
        _end_at_once(code)
    sys.exit(code)


def _end_at_once(code: int) -> None:
    """End the process without Python's own cleanup, during which threads of obstore may abort it."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader has closed its end
            stream.flush()
    os._exit(code)


def _main() -> int:
    try:
        return int(cli(prog_name="imgsvc", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigError as error:
        return _fail(str(error), USAGE_ERROR)
    except ProblemError as problem:
        return _fail("\n".join(problem_lines(problem)))
    except ServiceError as error:
        return _fail("\n".join(filter(None, [str(error), HINTS.get(error.status)])))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (StartupError, BackupError) as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        return _fail("Interrupted.", INTERRUPTED)


def _fail(message: str, code: int = 1) -> int:
    """Print the error message, and return the exit code."""
    click.echo(f"imgsvc: {message}", err=True)
    return code


class SectionedGroup(click.Group):
    """A group of commands that lists them under headings in its help."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, with the whole first sentence of each."""
        for title, names in SECTIONS.items():
            rows = []
            for name in names:
                command = self.commands[name]
                rows.append((name, (command.help or "").partition("\n")[0].rstrip(".")))
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=SectionedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "imgsvc demo                    run an example with generated images",
        "imgsvc process products.csv    compress on this machine, without a service",
        "imgsvc serve                   start the service",
        "imgsvc submit products.csv --wait -o out.csv",
    ),
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Compress every image of a product spreadsheet, and return it with the new image URLs."""


REQUEST_COMMANDS = (submit, status, list_requests, download, retry, repeat, cancel, delete)
for command in (*REQUEST_COMMANDS, backup, check_data, secret, node, cluster):
    cli.add_command(command)


@cli.command(epilog=examples("imgsvc serve --port 9000 --data-dir /srv/imgsvc"))
@config_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on. 0: any free port.")
@click.option("--public-url", help="URL under which others reach the service.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder for the database and the images."
)
@click.option("--workers", type=int, help="Number of worker processes. 0: one per CPU core.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Lowest level to log.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    help="Log format. auto: console on a terminal, else json.",
)
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
    """Start the service.

    It runs until SIGTERM or Ctrl-C. The options override the settings in config.toml.
    """
    flags = {
        "server.host": host,
        "server.port": port,
        "server.public_url": public_url,
        # Relative to the working directory, like any path on a command line.
        "storage.data_dir": data_dir and data_dir.absolute(),
        "compress.workers": workers,
        "log.level": log_level,
        "log.format": log_format,
    }
    config = load_config(file, flags={k: v for k, v in flags.items() if v is not None})
    logs.setup(config.log)
    for warning in config.warnings:
        log.warning(warning)
    if config.webhooks_use_fetch_networks:
        log.warning(
            "Webhooks may use the networks in fetch.allowed_networks. "
            "Set webhook.allowed_networks to choose their own."
        )
    protect_secrets()
    return asyncio.run(run_service(config))


@cli.command(
    epilog=examples(
        "imgsvc process products.csv",
        'imgsvc process products.csv -o out.csv --quality "30%" --format webp',
    )
)
@click.argument("table", metavar="FILE", type=EXISTING_FILE)
@click.option(
    "-o",
    "--out",
    type=OUTPUT_FILE,
    help="CSV file to write. [default: NAME-compressed.csv beside FILE]",
)
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the images. [default: OUT.images]",
)
@compress_options
@table_options
@output_options
@config_option
def process(
    table: Path,
    out: Path | None,
    images: Path | None,
    file: Path | None,
    **options: Any,
) -> int:
    """Compress the images of FILE on this machine, without a service.

    The images are stored in a folder beside OUT, named after the products. The output URLs in OUT are
    relative to it. To continue after Ctrl-C, or to retry failed images, run the same command again. The
    exit code is 0 only if every image was compressed.
    """
    out = out or table.with_name(f"{table.stem}-compressed.csv")
    replace = images is None
    images = (images or out.with_name(f"{out.name.removesuffix('.csv')}.images")).absolute()
    flags: dict[str, Any] = {
        "storage.data_dir": working_folder(out),
        "storage.retention_days": 0,
        **{f"storage.{name}": StorageConfig.model_fields[name].default for name in BUCKET_SETTINGS},
    }
    flags |= {f"compress.{name}": value for name, value in compress_values(options).items()}
    config = load_quietly(file, flags)
    protect_secrets()
    prepare_output(out)
    logs.setup(LogConfig(level="error"))
    console = Console(stderr=True)
    name = request_name(options, table)
    file_options = FileOptions(images, replace, name, read_options(options), write_options(options))
    try:
        with progress_display(console) as show:
            finished = asyncio.run(process_file(config, table, out, show, file_options))
    except KeyboardInterrupt:
        return _fail("Stopped. Run the same command to continue.", INTERRUPTED)
    return report(console, finished, f"Saved {out}, and the images in {images}.")


@cli.command()
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the images and the CSV, before and after compression.",
)
@click.option("--bucket", help="Bucket for the outputs: s3://BUCKET/PREFIX, gs://… or az://…")
@click.option("--endpoint", help="URL of a server with the S3 API, for --bucket.")
def demo(keep: Path | None, bucket: str | None, endpoint: str | None) -> int:
    """Run a complete example with generated images.

    The images are served on loopback and the data folder is temporary: no internet access is needed.
    With --bucket, the outputs are stored below a new prefix of it, and deleted at the end.
    """
    # Not at the top: the demo imports Pillow, which the service's main process must not load.
    from imgsvc.demo import run_demo  # noqa: PLC0415

    logs.setup(LogConfig(level="error"))
    flags = {"storage.bucket": bucket or "", "storage.endpoint": endpoint or ""}
    storage = load_config(Path(os.devnull), flags=flags, environ={}).storage
    protect_secrets()
    return 0 if asyncio.run(run_demo(Console(), keep, storage)) else 1


@cli.group()
def config() -> None:
    """Check the configuration."""


@config.command()
@config_option
def check(file: Path | None) -> None:
    """Validate the configuration.

    Print the settings that differ from their defaults, or what is invalid, and what compresses JPEGs.
    """
    settings = load_quietly(file, {}).model_dump(mode="json")
    defaults = Config().model_dump(mode="json")
    for section, keys in settings.items():
        for key, value in keys.items():
            if value != defaults[section][key]:
                click.echo(f"{section}.{key} = {_shown(key, value)}")
    for warning in confinement_warnings():
        click.echo(f"imgsvc: warning: {warning}", err=True)
    click.echo("The configuration is valid.", err=True)
    click.echo(f"JPEGs are compressed by {native.describe()}.", err=True)


def _shown(key: str, value: Any) -> str:
    """Return the value of a setting for `config check`, without its secrets."""
    if key == "keys":
        return ", ".join(f"{entry['name']} ({entry['role']})" for entry in value)
    return "(set)" if key in {"api_keys", "secret", "proxy"} else json.dumps(value)
