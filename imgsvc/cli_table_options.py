"""Options that several commands share: how a table is read, and how the CSV is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from imgsvc.client.types import DownloadArguments, UploadArguments
from imgsvc.models import MAX_REQUEST_NAME
from imgsvc.status_table import FailedImages, StatusLayout, StatusTable
from imgsvc.table.decoding import check_encoding
from imgsvc.table_types import TableOptions

OptionValues = Mapping[str, Any]
"""The values of a command's options, by parameter name."""
STDIN = Path("-")
"""The FILE that means standard input."""
Command = TypeVar("Command", bound=Callable[..., Any])


class _EncodingType(click.ParamType[str]):
    name = "encoding"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_encoding(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _NameType(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not 1 <= len(value.strip()) <= MAX_REQUEST_NAME:
            self.fail(f"must have 1 to {MAX_REQUEST_NAME} characters.", param, ctx)
        return str(value).strip()


name_option = click.option("--name", type=_NameType(), help="Display name of the request.")
_TABLE_OPTIONS = (
    click.option(
        "--name",
        type=_NameType(),
        help="Display name of the request. [default: the name of FILE]",
    ),
    click.option("--name-column", help="Header of the column with the product names."),
    click.option(
        "--image-column",
        "image_columns",
        multiple=True,
        help="Header of a column with image URLs. Repeat it for several columns.",
    ),
    click.option(
        "--encoding",
        type=_EncodingType(),
        help="Encoding of FILE, such as cp1251. [default: UTF-8, UTF-16 and Windows-1252 are detected]",
    ),
    click.option("--allow-empty", is_flag=True, help="Accept rows without images."),
    click.option(
        "--on-invalid",
        type=click.Choice(["refuse", "skip"]),
        default="refuse",
        show_default=True,
        help="Refuse a file with an invalid row, or skip the row.",
    ),
)
_OUTPUT_OPTIONS = (
    click.option(
        "--layout",
        type=click.Choice([str(each) for each in StatusLayout]),
        default="standard",
        show_default=True,
        help="Columns of the CSV. input: those of the uploaded file, with the new URLs in place.",
    ),
    click.option(
        "--failed",
        type=click.Choice([str(each) for each in FailedImages]),
        default="keep",
        show_default=True,
        help="With --layout input, keep the URLs of failed images, or leave them empty.",
    ),
    click.option(
        "--excel/--no-excel",
        default=None,
        help="Write a byte-order mark and the delimiter of the uploaded file, for Excel.",
    ),
)
_ENCODING_HELP = "With --layout input, write the encoding of the uploaded file instead of UTF-8."


def table_options(command: Command) -> Command:
    """Add the options of how a table is read."""
    return _add(command, *_TABLE_OPTIONS)


def output_options(command: Command) -> Command:
    """Add the options of how the CSV is written, to a command that also reads a table."""
    encoding = click.option("--output-encoding", type=click.Choice(["input"]), help=_ENCODING_HELP)
    return _add(command, *_OUTPUT_OPTIONS, encoding)


def status_options(command: Command) -> Command:
    """Add the options of how the CSV of a status is written."""
    encoding = click.option(
        "--encoding", "output_encoding", type=click.Choice(["input"]), help=_ENCODING_HELP
    )
    only = click.option(
        "--only",
        type=click.Choice(["failed"]),
        help="Write only the rows with failed images and the skipped rows, to upload again.",
    )
    return _add(command, *_OUTPUT_OPTIONS, encoding, only)


def _add(command: Command, *options: Callable[[Command], Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def read_options(options: OptionValues) -> TableOptions:
    """Return the options of how a table is read."""
    return TableOptions(
        options["name_column"],
        options["image_columns"],
        options["encoding"],
        options["allow_empty"],
        options["on_invalid"] == "skip",
    )


def write_options(options: OptionValues) -> StatusTable:
    """Return the options of how the CSV is written."""
    return StatusTable(
        StatusLayout(options["layout"]),
        FailedImages(options["failed"]),
        excel=options["excel"],
        input_encoding=options["output_encoding"] is not None,
    )


def request_name(options: OptionValues, file: Path) -> str | None:
    """Return the display name of a request: the option, or else the name of its file.

    Standard input has no name.
    """
    name = "" if file == STDIN else file.name
    printable = "".join(character for character in name if character.isprintable())
    return options["name"] or printable.strip()[:MAX_REQUEST_NAME].strip() or None


def upload_options(options: OptionValues) -> UploadArguments:
    """Return the client's options of how a table is read."""
    found: UploadArguments = {}
    if options["name_column"] is not None:
        found["name_column"] = options["name_column"]
    if options["image_columns"]:
        found["image_column"] = options["image_columns"]
    if options["encoding"] is not None:
        found["encoding"] = options["encoding"]
    if options["allow_empty"]:
        found["allow_empty"] = True
    if options["on_invalid"] == "skip":
        found["on_invalid"] = "skip"
    return found


def table_download(options: OptionValues) -> DownloadArguments:
    """Return the client's options of a downloaded table. Defaults are left out, for older services."""
    found: DownloadArguments = {}
    if options["layout"] != "standard":
        found["layout"] = options["layout"]
    if options["failed"] != "keep":
        found["failed"] = options["failed"]
    if options["excel"] is not None:
        found["excel"] = options["excel"]
    if options["output_encoding"] is not None:
        found["encoding"] = options["output_encoding"]
    if options.get("only") is not None:
        found["only"] = options["only"]
    return found
