"""Options that several commands of `imgsvc` share, and the client that they choose."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import click

from imgsvc.client import AsyncClient
from imgsvc.image_types import MAX_SIDE_SETTING, Effort, OutputFormat, Quality

Command = TypeVar("Command", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    r"""Return an epilog that lists examples. `\b` keeps click from wrapping the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class QualityType(click.ParamType[Quality]):
    """The type of `--quality`."""

    name = "quality"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Quality:
        """Return the quality, or fail with a usage error."""
        try:
            return Quality.parse(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}.", param, ctx)


FILE_OR_STDIN = click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT_FILE = click.Path(dir_okay=False, path_type=Path)
STDOUT = Path("-")
config_option = click.option(
    "--config",
    "file",
    type=EXISTING_FILE,
    help="Configuration file. [default: $IMGSVC_CONFIG, else ./config.toml]",
)


_SIDE = click.IntRange(0, MAX_SIDE_SETTING)
_COMPRESS_OPTIONS = (
    click.option(
        "--quality",
        type=QualityType(),
        help='Share of each image\'s own quality ("50%"), or a fixed quality (1 to 100).',
    ),
    click.option(
        "--format",
        type=click.Choice([str(each) for each in OutputFormat]),
        help="Output format. keep: the format of each source.",
    ),
    click.option("--max-width", type=_SIDE, help="Shrink wider images. In pixels; 0: no limit."),
    click.option("--max-height", type=_SIDE, help="Shrink taller images. In pixels; 0: no limit."),
    click.option(
        "--effort",
        type=click.Choice([str(each) for each in Effort]),
        help="small: fewer bytes at the same quality, for more processor time.",
    ),
)


def compress_options(command: Command) -> Command:
    """Add the options of compression. Their names are those of the section `[compress]`."""
    for option in reversed(_COMPRESS_OPTIONS):
        command = option(command)
    return command


def compress_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the options of compression that were given, by their names."""
    names = ("quality", "format", "max_width", "max_height", "effort")
    return {name: options[name] for name in names if options[name] is not None}


@dataclass(frozen=True, slots=True)
class Server:
    """The service that a command uses."""

    url: str
    api_key: str | None


def server_options(command: Command) -> Command:
    """Add `--server` and `--api-key-file`, and pass them to the command as the `Server` `server`."""

    @wraps(command)
    def run(*, server: str, api_key_file: Path | None, **options: Any) -> Any:
        return command(server=_find_server(server, api_key_file), **options)

    url = click.option(
        "--server",
        envvar="IMGSVC_SERVER",
        default="http://127.0.0.1:8080",
        show_default=True,
        help="URL of the service. [env: IMGSVC_SERVER]",
    )
    key = click.option(
        "--api-key-file",
        type=EXISTING_FILE,
        help="File that contains the API key. [default: the key in $IMGSVC_API_KEY]",
    )
    return cast("Command", url(key(run)))


def client_of(server: Server) -> AsyncClient:
    """Return a client of the service."""
    return AsyncClient(server.url, server.api_key)


def _find_server(url: str, api_key_file: Path | None) -> Server:
    """Return the service. Raise `click.BadParameter` if the URL or the key is invalid."""
    if not _is_base_url(url):
        raise click.BadParameter(
            f"{url!r} is not an http(s) URL such as http://127.0.0.1:8080.",
            param_hint="--server",
        )
    if api_key_file is None:
        key, source = os.environ.get("IMGSVC_API_KEY", "").strip(), "IMGSVC_API_KEY"
    else:
        key, source = api_key_file.read_text("utf-8", "replace").strip(), "--api-key-file"
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise click.BadParameter(
            "The API key must be one line of printable ASCII characters without spaces.",
            param_hint=source,
        )
    return Server(url, key or None)


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        is_base = not (url.query or url.fragment)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and is_base
    except ValueError:
        return False


def prepare_output(out: Path) -> None:
    """Create the folder of `out`, and check that it is writable.

    Raise `OSError` or `click.BadParameter` before the work starts instead of after it.
    """
    if out == STDOUT:
        raise click.BadParameter("- is not a file; only `download` writes to standard output")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass
