"""The commands of a cluster: `imgsvc node` and `imgsvc cluster certs`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from imgsvc import logs
from imgsvc.cli_options import config_option, examples
from imgsvc.config import LogConfig
from imgsvc.config_loader import load_config
from imgsvc.config_types import check_cluster_address
from imgsvc.errors import StartupError
from imgsvc.serve import protect_secrets, raise_file_limit

_FOLDER_TYPE = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=examples("imgsvc node tls://coordinator:8786 --certificates cluster/"),
)
@click.argument("address")
@click.option(
    "--certificates",
    type=_FOLDER_TYPE,
    default=Path("cluster"),
    show_default=True,
    help="Folder with ca.pem and node.pem, made on the coordinator.",
)
@click.option("--name", default="", help="Name of the node. [default: host name and process id]")
@click.option(
    "--workers", type=int, default=0, help="Number of worker processes. [default: as coordinator]"
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="Lowest level to log.",
)
def node(address: str, certificates: Path, name: str, workers: int, log_level: str) -> int:
    """Process images on this machine for the coordinator at ADDRESS.

    The coordinator sends the settings. The credentials of the bucket come from the environment or the
    role of this machine. It runs until SIGTERM or Ctrl-C: then it finishes its images and leaves.
    """
    try:
        check_cluster_address(address)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="ADDRESS") from None
    logs.setup(LogConfig.model_validate({"level": log_level}))
    try:
        # Not at the top: only a cluster needs the packages of its extra.
        from imgsvc.node import NodeOptions, run_node  # noqa: PLC0415
    except ImportError as error:
        raise _missing_packages(error) from None
    protect_secrets()
    raise_file_limit()
    return asyncio.run(run_node(NodeOptions(address, certificates.absolute(), name, workers)))


@click.group()
def cluster() -> None:
    """Manage a cluster."""


@cluster.command(
    epilog=examples("imgsvc cluster certs node-1 node-2", "imgsvc cluster certs --renew")
)
@click.argument("names", nargs=-1)
@click.option("--renew", is_flag=True, help="Replace the certificates. The authority stays.")
@config_option
@click.option("--certificates", type=_FOLDER_TYPE, help="Folder of the certificates.")
def certs(
    names: tuple[str, ...], renew: bool, file: Path | None, certificates: Path | None
) -> None:
    """Make the certificates of the coordinator and of the nodes NAMES.

    Run this on the coordinator. Copy the folder `nodes/NAME` to the node of that name. A process with a
    certificate can run code on all machines of the cluster.
    """
    try:
        # Not at the top: only a cluster needs the packages of its extra.
        from imgsvc.execution.cluster.certificates import write_certificates  # noqa: PLC0415
    except ImportError as error:
        raise _missing_packages(error) from None
    folder = certificates or load_config(file).cluster.certificates
    for written in write_certificates(folder, list(names), renew=renew):
        click.echo(f"Wrote the certificate in {written}.", err=True)


def _missing_packages(error: ImportError) -> StartupError:
    return StartupError(
        f'A cluster needs more packages ({error}). Install them: `pip install "imgsvc[cluster]"`.'
    )
