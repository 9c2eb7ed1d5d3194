"""The commands of `imgsvc` for who runs a service: backup, check, secret."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from imgsvc.backup import back_up
from imgsvc.check import check_outputs, repair_outputs
from imgsvc.cli_options import config_option, examples
from imgsvc.config import Config
from imgsvc.config_loader import load_config
from imgsvc.instance_secret import read_secret, write_secret


def load_quietly(file: Path | None, flags: Mapping[str, Any]) -> Config:
    """Load the configuration, and print its warnings. For commands that do not log."""
    config = load_config(file, flags=flags)
    for warning in config.warnings:
        click.echo(f"imgsvc: warning: {warning}", err=True)
    return config


@click.command(epilog=examples("imgsvc backup /mnt/backup/imgsvc-$(date +%F)"))
@click.argument("dest", type=click.Path(path_type=Path))
@config_option
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder of the service.")
def backup(dest: Path, file: Path | None, data_dir: Path | None) -> None:
    """Back up the data folder to DEST.

    The copy is consistent, even while the service runs. On the same file system the images are hard
    links and use no extra disk space. Images in a bucket are listed, not copied.
    """
    flags = {"storage.data_dir": data_dir.absolute()} if data_dir else {}
    copied = back_up(load_quietly(file, flags).storage, dest)
    images = _count_images(copied.files)
    if copied.in_bucket:
        images = f"the list of {images}, which are in the bucket,"
    click.echo(f"Copied the database and {images} to {dest}.", err=True)
    if copied.missing:
        click.echo(f"Missing: {_count_images(copied.missing)} that the database lists.", err=True)


@click.command("check", epilog=examples("imgsvc check", "imgsvc check --repair"))
@click.option(
    "--repair",
    is_flag=True,
    help="Remove outputs without an image, and make images without a whole output failed, so that "
    "they can be retried. Stop the service first.",
)
@config_option
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder of the service.")
def check_data(repair: bool, file: Path | None, data_dir: Path | None) -> int:
    """Compare the stored images with the database.

    Without --repair, the service may run meanwhile. Every stored image is read. The exit code is 0 only
    if there are no differences, or if they have been repaired.
    """
    flags = {"storage.data_dir": data_dir.absolute()} if data_dir else {}
    config = load_quietly(file, flags)
    report = asyncio.run(repair_outputs(config) if repair else check_outputs(config))
    for title, names in (
        ("without an image", report.unused),
        ("missing", [output.name for output in report.missing]),
        ("damaged", [output.name for output in report.damaged]),
    ):
        for name in names:
            click.echo(f"{title}: {name}")
    click.echo(f"Checked {_count_images(report.outputs)}.", err=True)
    if report.consistent:
        return 0
    if not repair:
        click.echo("Stop the service and run `imgsvc check --repair`.", err=True)
        return 1
    click.echo(
        f"Repaired. {_count_images(report.images)} failed: retry them with `POST /retryFailed`.",
        err=True,
    )
    return 0


@click.command(epilog=examples("imgsvc secret", "imgsvc secret --set < secret.txt"))
@click.option(
    "--set", "replace", is_flag=True, help="Read a secret from standard input and use it."
)
@config_option
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder of the service.")
def secret(replace: bool, file: Path | None, data_dir: Path | None) -> None:
    """Print the secret that output URLs are derived from.

    Two instances with the same secret give equal images the same paths. With --set, stop the service
    first. Existing URLs stay; images that are compressed later get new ones.
    """
    flags = {"storage.data_dir": data_dir.absolute()} if data_dir else {}
    folder = load_quietly(file, flags).storage.data_dir
    if replace:
        write_secret(folder, sys.stdin.readline().strip())
        click.echo("The secret is set.", err=True)
    else:
        click.echo(read_secret(folder))


def _count_images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
