"""Compare the service with the machine's limit, a minimal script, and other programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.bench import peers
from tests.bench.corpus import SIZES, Mix, folder
from tests.bench.measure import ProcessMonitor, busy_seconds
from tests.bench.report import (
    DOWNLOADS,
    LATENCY_SECONDS,
    PILLOW,
    SCRIPT,
    SERVICE,
    WITH_LATENCY,
    WITHOUT_NATIVE,
    Run,
)
from tests.bench.script import QUALITY
from tests.origin import ROOT
from tests.service_process import Service, table


class ImageHost:
    """A process that serves the corpus. Each response is sent `latency` seconds after its request."""

    def __init__(self, corpus: Path, latency: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.image_host", str(corpus), str(latency)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.base = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


@dataclass
class Comparison:
    """A comparison of all programs on one mix of images.

    `other_trees`: folders with other versions of imgsvc, which run as well.
    Outputs are deleted only at the end: on some file systems, deleting files slows the next run down.
    """

    mix: Mix
    per_host: int
    work: Path
    other_trees: Sequence[Path] = ()
    results: dict[str, list[Run]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corpus = folder(self.mix)
        self.fast_host = ImageHost(self.corpus, 0)
        self.distant_host = ImageHost(self.corpus, LATENCY_SECONDS)

    def close(self) -> None:
        self.fast_host.close()
        self.distant_host.close()

    def rows(self, available: set[str]) -> dict[str, Callable[[], Run]]:
        """Return the programs by row name. `available` names the other programs that are installed."""
        rows: dict[str, Callable[[], Run]] = {
            SERVICE: partial(self.service, self.fast_host),
            PILLOW: self.limit,
            "limit, with optimize": partial(self.limit, optimize=True),
            SCRIPT: partial(self.script, self.fast_host),
            SERVICE + WITH_LATENCY: partial(self.service, self.distant_host),
            SCRIPT + WITH_LATENCY: partial(self.script, self.distant_host),
            DOWNLOADS + WITH_LATENCY: partial(self.downloads, self.distant_host),
            WITHOUT_NATIVE: partial(self.service, self.fast_host, self.tree_without_native()),
        }
        for tree in self.other_trees:
            rows[f"{SERVICE} in {tree}"] = partial(self.service, self.fast_host, tree)
        if peers.SHARP in available:
            rows[peers.SHARP] = self.sharp
        if peers.IMG2DATASET in available:
            rows[peers.IMG2DATASET] = self.img2dataset
        return rows

    def measure(self, name: str, run: Callable[[], Run]) -> None:
        result = run()
        self.results.setdefault(name, []).append(result)
        rate = self.mix.total / result.seconds
        print(f"  {name:<28} {rate:8.1f} images/s", flush=True)

    def _folder(self) -> str:
        return tempfile.mkdtemp(dir=self.work)

    # --- programs ----------------------------------------------------------------------------

    def run_program(self, arguments: list[str], cwd: Path = ROOT) -> Run:
        """Run a program that prints its seconds (without warm-up) and bytes as JSON."""
        other_cpu_seconds = busy_seconds()
        process = subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.PIPE)
        monitor = ProcessMonitor(process.pid)
        output, _ = process.communicate(timeout=900)
        monitor.stop()
        if process.returncode:
            raise RuntimeError(f"{arguments[0]} failed with exit code {process.returncode}")
        figures = json.loads(output.splitlines()[-1])
        other_cpu_seconds = max(0.0, busy_seconds() - other_cpu_seconds - monitor.cpu_seconds)
        return Run(
            figures["seconds"],
            monitor.cpu_seconds,
            monitor.peak_pss,
            figures["bytes"],
            other_cpu_seconds,
            figures.get("warm_seconds"),
        )

    def limit(self, optimize: bool = False) -> Run:
        module = ["-m", "tests.bench.limit", str(self.corpus), self.mix.name, str(int(optimize))]
        return self.run_program([sys.executable, *module])

    def script(self, host: ImageHost) -> Run:
        module = ["-m", "tests.bench.script", host.base, self.mix.name, str(self.per_host)]
        return self.run_program([sys.executable, *module, self._folder()])

    def downloads(self, host: ImageHost) -> Run:
        module = ["-m", "tests.bench.downloads", host.base, self.mix.name, str(self.per_host)]
        return self.run_program([sys.executable, *module])

    def sharp(self) -> Run:
        names = self.work / "names"
        names.write_text("\n".join(self.mix.names()))
        arguments = [self.fast_host.base, str(names), str(self.per_host), self._folder()]
        return self.run_program(["node", str(peers.SCRIPTS / "sharp.mjs"), *arguments], peers.NODE)

    def img2dataset(self) -> Run:
        names = self.work / "urls.txt"
        names.write_text("\n".join(f"{self.fast_host.base}/{name}" for name in self.mix.names()))
        script = str(peers.SCRIPTS / "img2dataset_run.py")
        return self.run_program([str(peers.PYTHON), script, str(names), self._folder()])

    def tree_without_native(self) -> Path:
        """Return a folder with a copy of imgsvc that lacks the native module."""
        tree = self.work / "without-native"
        shutil.copytree(
            ROOT / "imgsvc",
            tree / "imgsvc",
            ignore=shutil.ignore_patterns("_requantise.*", "__pycache__"),
            dirs_exist_ok=True,
        )
        return tree

    def service(self, host: ImageHost, tree: Path = ROOT) -> Run:
        """Run the service over HTTP, after a warm-up, from the upload until the request is finished.

        `tree` is the folder with the version of imgsvc to run.
        """
        fetch = {"per_host": self.per_host, "concurrency": max(64, self.per_host)}
        jpegs = SIZES.keys() >= self.mix.counts.keys()
        service = Service(
            Path(self._folder()),
            {
                "fetch": {"allowed_networks": ["127.0.0.0/8"], **fetch},
                # The other programs use the same quality for all JPEGs, so the service does too.
                "compress": {"workers": 0, "quality": QUALITY if jpegs else "50%"},
                "log": {"format": "json", "level": "info"},
            },
            {"PYTHONPATH": str(tree)},
        )
        service.start()
        try:
            self._warm_up(service, host)
            rows = [
                (n, f"Product {n}", f"{host.base}/{name}")
                for n, name in enumerate(self.mix.names())
            ]
            return measure_request(service, table(rows))
        finally:
            service.stop()
            service.close()

    def _warm_up(self, service: Service, host: ImageHost) -> None:
        urls = [f"{host.base}/{name}" for kind in self.mix.counts for name in warm_names(kind)]
        service.finished(service.upload(table([(1, "warm", urls)])))


def warm_names(kind: str) -> list[str]:
    """Return images of a kind that no run uses."""
    extension = "jpg" if kind not in {"png", "webp"} else kind
    return [f"{kind}/900000{n}.{extension}" for n in range(4)]


def measure_request(service: Service, body: bytes) -> Run:
    """Upload a CSV, wait until its request is finished, and return the figures."""
    assert service.process is not None
    other_cpu_seconds = busy_seconds()
    monitor = ProcessMonitor(service.process.pid)
    started = time.perf_counter()
    request_id = service.upload(body)
    path = f"/checkStatus/{request_id}?format=json&products=false&wait=60"
    while (status := service.get(path).json())["finishedAt"] is None:
        pass
    seconds = time.perf_counter() - started
    monitor.stop()
    if status["status"] != "completed":
        raise RuntimeError(f"the request ended with the status {status['status']}")
    other_cpu_seconds = max(0.0, busy_seconds() - other_cpu_seconds - monitor.cpu_seconds)
    return Run(
        seconds, monitor.cpu_seconds, monitor.peak_pss, status["bytes"]["output"], other_cpu_seconds
    )
