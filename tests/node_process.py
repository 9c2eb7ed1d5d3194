"""Nodes of a cluster in their own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.origin import ROOT
from tests.service_process import Service
from tests.waiting import block_until


class Node:
    """A node that joins a coordinator. Its log is `folder / NAME.log`."""

    def __init__(
        self,
        name: str,
        address: str,
        folder: Path,
        environ: Mapping[str, str],
        *arguments: str,
    ) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        certificates = ["--certificates", str(folder / "cluster" / "nodes" / name)]
        options = ["--name", name, "--workers", "1", *arguments]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "imgsvc", "node", address, *certificates, *options],
                cwd=folder,
                env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return self.log_file.read_text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_exit(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        """Kill the node and its workers if they run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


def metric(service: Service, name: str, node: str | None = None) -> float:
    """Return the value of a metric of a service, perhaps of one node. 0 if it has none."""
    label = "" if node is None else f'{{node="{node}"}}'
    for line in service.get("/metrics").body.decode().splitlines():
        if line.startswith(f"{name}{label} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def wait_for_nodes(service: Service, *names: str) -> None:
    """Wait until exactly these nodes have joined, and have workers."""

    def joined() -> bool:
        text = service.get("/metrics").body.decode()
        lines = [line for line in text.splitlines() if line.startswith("imgsvc_node_workers{")]
        found = {line.split('"')[1] for line in lines if float(line.rpartition(" ")[2]) > 0}
        return found == set(names)

    block_until(joined, f"the nodes {names} to join", 60)
