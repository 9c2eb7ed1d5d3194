"""Compare the service with the machine's limit, a minimal script, and other programs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.bench import peers
from tests.bench.corpus import SIZES, Mix, folder
from tests.bench.measure import ProcessMonitor, busy_seconds
from tests.bench.script import QUALITY
from tests.origin import ROOT
from tests.service_process import Service, table

LATENCY_SECONDS = 0.1
"""Seconds before the distant image host responds."""

SERVICE, SCRIPT, PILLOW = "imgsvc", "minimal script", "limit: Pillow only"
WITH_LATENCY = f", {LATENCY_SECONDS * 1000:.0f} ms latency"


@dataclass(frozen=True)
class Run:
    """The figures of one run.

    `bytes` is the total size of the outputs. `peak_pss` is in bytes. `other_cpu_seconds` is the CPU
    time of all other processes. `warm_seconds` is the time without the program's start, for programs
    whose `seconds` include it.
    """

    seconds: float
    cpu_seconds: float
    peak_pss: int
    bytes: int
    other_cpu_seconds: float
    warm_seconds: float | None = None


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

    Outputs are deleted only at the end: on some file systems, deleting files slows the next run down.
    """

    mix: Mix
    per_host: int
    work: Path
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
        }
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

    def service(self, host: ImageHost) -> Run:
        """Run the service over HTTP, after a warm-up, from the upload until the request is finished."""
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

    # --- table -------------------------------------------------------------------------------

    def print_table(self) -> None:
        seconds = {
            name: statistics.median(run.seconds for run in runs)
            for name, runs in self.results.items()
        }
        runs = self.results[SERVICE]
        print(
            f"\n{self.mix.name}: {self.mix.total} images, {self.mix.megapixels:.0f} MP, "
            f"{len(runs)} runs, medians\n\n"
            "| program | images/s | MP/s | CPU s | peak PSS MB | output MB | speed of imgsvc |\n"
            "|---|---|---|---|---|---|---|"
        )
        for name, own_runs in self.results.items():
            ratio = seconds[name] / seconds[SERVICE + WITH_LATENCY * name.endswith(WITH_LATENCY)]
            self._print_row(name, own_runs, seconds[name], f"{ratio:.2f} ×")
            warm = [run.warm_seconds for run in own_runs if run.warm_seconds is not None]
            if warm:
                median = statistics.median(warm)
                self._print_row(
                    f"{name}, without its start",
                    own_runs,
                    median,
                    f"{median / seconds[SERVICE]:.2f} ×",
                )
        if {SERVICE + WITH_LATENCY, SCRIPT + WITH_LATENCY, SCRIPT} <= set(seconds):
            remaining = {
                program: seconds[program] / seconds[program + WITH_LATENCY]
                for program in (SERVICE, SCRIPT)
            }
            print(
                f"\nWith {LATENCY_SECONDS * 1000:.0f} ms of latency, imgsvc reaches "
                f"{remaining[SERVICE]:.2f} of its speed and the script {remaining[SCRIPT]:.2f}. "
                f"The ratio is {remaining[SERVICE] / remaining[SCRIPT]:.2f}."
            )
        most_other_cpu = max(
            run.other_cpu_seconds for runs in self.results.values() for run in runs
        )
        print(
            f"\nOther processes, including the image host, used at most {most_other_cpu:.1f} CPU s "
            "in a run.\n"
        )

    def _print_row(self, name: str, runs: list[Run], seconds: float, ratio: str) -> None:
        cpu = statistics.median(run.cpu_seconds for run in runs)
        pss = statistics.median(run.peak_pss for run in runs) / 1e6
        out = statistics.median(run.bytes for run in runs) / 1e6
        print(
            f"| {name} | {self.mix.total / seconds:.0f} | {self.mix.megapixels / seconds:.0f} "
            f"| {cpu:.1f} | {pss:.0f} | {out:.1f} | {ratio} |"
        )


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
