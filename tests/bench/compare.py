"""The whole service beside the limit of the machine, the leanest script, and its peers."""

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
from tests.bench.measure import Watch, busy_seconds
from tests.bench.script import QUALITY
from tests.origin import ROOT
from tests.service_process import Service, table

LATENCY = 0.1
SERVICE, SCRIPT, PILLOW = "imgsvc", "leanest script", "limit: Pillow alone"
FAR = f", {LATENCY * 1000:.0f} ms away"


@dataclass(frozen=True)
class Run:
    """One measured run. `bytes` are the outputs'; `own_seconds` are those without the start of a
    program that counts as part of it.
    """

    seconds: float
    cpu_seconds: float
    peak_pss: int
    bytes: int
    noise: float
    own_seconds: float | None = None


class Origin:
    """A process that serves the corpus, each answer `latency` seconds after its call."""

    def __init__(self, corpus: Path, latency: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.origin", str(corpus), str(latency)],
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
    """One mix of images, and all who work through it.

    What they write stays until the end: some file systems make the next run pay for what the one
    before has deleted.
    """

    mix: Mix
    per_host: int
    work: Path
    results: dict[str, list[Run]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corpus = folder(self.mix)
        self.near, self.far = Origin(self.corpus, 0), Origin(self.corpus, LATENCY)

    def close(self) -> None:
        self.near.close()
        self.far.close()

    def rows(self, available: set[str]) -> dict[str, Callable[[], Run]]:
        """Who takes part; `available` names the peers that are installed."""
        rows: dict[str, Callable[[], Run]] = {
            SERVICE: partial(self.service, self.near),
            PILLOW: self.limit,
            "limit, optimised": partial(self.limit, optimize=True),
            SCRIPT: partial(self.script, self.near),
            SERVICE + FAR: partial(self.service, self.far),
            SCRIPT + FAR: partial(self.script, self.far),
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

    # --- the runners -------------------------------------------------------------------------

    def command(self, arguments: list[str], cwd: Path = ROOT) -> Run:
        """Run a program that prints its seconds (warm-up excluded) and bytes as JSON."""
        noise = busy_seconds()
        process = subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.PIPE)
        watch = Watch(process.pid)
        output, _ = process.communicate(timeout=900)
        watch.stop()
        if process.returncode:
            raise RuntimeError(f"{arguments[0]} ended with {process.returncode}")
        said = json.loads(output.splitlines()[-1])
        noise = max(0.0, busy_seconds() - noise - watch.cpu_seconds)
        return Run(
            said["seconds"],
            watch.cpu_seconds,
            watch.peak_pss,
            said["bytes"],
            noise,
            said.get("own_seconds"),
        )

    def limit(self, optimize: bool = False) -> Run:
        module = ["-m", "tests.bench.limit", str(self.corpus), self.mix.name, str(int(optimize))]
        return self.command([sys.executable, *module])

    def script(self, origin: Origin) -> Run:
        module = ["-m", "tests.bench.script", origin.base, self.mix.name, str(self.per_host)]
        return self.command([sys.executable, *module, self._folder()])

    def sharp(self) -> Run:
        names = self.work / "names"
        names.write_text("\n".join(self.mix.names()))
        arguments = [self.near.base, str(names), str(self.per_host), self._folder()]
        return self.command(["node", str(peers.SCRIPTS / "sharp.mjs"), *arguments], peers.NODE)

    def img2dataset(self) -> Run:
        names = self.work / "urls.txt"
        names.write_text("\n".join(f"{self.near.base}/{name}" for name in self.mix.names()))
        script = str(peers.SCRIPTS / "img2dataset_run.py")
        return self.command([str(peers.PYTHON), script, str(names), self._folder()])

    def service(self, origin: Origin) -> Run:
        """The whole service over HTTP, from the upload to `finished`, warm."""
        fetch = {"per_host": self.per_host, "concurrency": max(64, self.per_host)}
        jpegs = SIZES.keys() >= self.mix.counts.keys()
        service = Service(
            Path(self._folder()),
            {
                "fetch": {"allowed_networks": ["127.0.0.0/8"], **fetch},
                # The others save every JPEG at the same quality; half of its own is now more, now less.
                "compress": {"workers": 0, "quality": QUALITY if jpegs else "50%"},
                "log": {"format": "json", "level": "info"},
            },
        )
        service.start()
        try:
            self._warm_up(service, origin)
            rows = [
                (n, f"Product {n}", f"{origin.base}/{name}")
                for n, name in enumerate(self.mix.names())
            ]
            return measured(service, table(rows))
        finally:
            service.stop()
            service.close()

    def _warm_up(self, service: Service, origin: Origin) -> None:
        urls = [f"{origin.base}/{name}" for kind in self.mix.counts for name in warm_names(kind)]
        service.finished(service.upload(table([(1, "warm", urls)])))

    # --- the table ---------------------------------------------------------------------------

    def print_table(self) -> None:
        seconds = {
            name: statistics.median(run.seconds for run in runs)
            for name, runs in self.results.items()
        }
        runs = self.results[SERVICE]
        print(
            f"\n{self.mix.name}: {self.mix.total} images, {self.mix.megapixels:.0f} MP, "
            f"{len(runs)} runs, medians\n\n"
            "| what | images/s | MP/s | CPU s | peak PSS MB | MB out | imgsvc is |\n"
            "|---|---|---|---|---|---|---|"
        )
        for name, own in self.results.items():
            ratio = seconds[name] / seconds[SERVICE + FAR * name.endswith(FAR)]
            self._print_row(name, own, seconds[name], f"{ratio:.2f} ×")
            warm = [run.own_seconds for run in own if run.own_seconds is not None]
            if warm:
                mid = statistics.median(warm)
                self._print_row(
                    f"{name} without its start", own, mid, f"{mid / seconds[SERVICE]:.2f} ×"
                )
        if {SERVICE + FAR, SCRIPT + FAR, SCRIPT} <= set(seconds):
            kept = {each: seconds[each] / seconds[each + FAR] for each in (SERVICE, SCRIPT)}
            print(
                f"\nWith {LATENCY * 1000:.0f} ms of latency imgsvc keeps {kept[SERVICE]:.2f} of its "
                f"rate, the script {kept[SCRIPT]:.2f}: {kept[SERVICE] / kept[SCRIPT]:.2f} of that."
            )
        noise = max(run.noise for runs in self.results.values() for run in runs)
        print(f"\nOther processes took at most {noise:.1f} CPU s in a run (the origin included).\n")

    def _print_row(self, name: str, runs: list[Run], seconds: float, ratio: str) -> None:
        cpu = statistics.median(run.cpu_seconds for run in runs)
        pss = statistics.median(run.peak_pss for run in runs) / 1e6
        out = statistics.median(run.bytes for run in runs) / 1e6
        print(
            f"| {name} | {self.mix.total / seconds:.0f} | {self.mix.megapixels / seconds:.0f} "
            f"| {cpu:.1f} | {pss:.0f} | {out:.1f} | {ratio} |"
        )


def warm_names(kind: str) -> list[str]:
    """Images of a kind that no run asks for."""
    extension = "jpg" if kind not in {"png", "webp"} else kind
    return [f"{kind}/900000{n}.{extension}" for n in range(4)]


def measured(service: Service, body: bytes) -> Run:
    """Upload a table and wait for its end."""
    assert service.process is not None
    noise = busy_seconds()
    watch = Watch(service.process.pid)
    begun = time.perf_counter()
    request_id = service.upload(body)
    path = f"/checkStatus/{request_id}?format=json&products=false&wait=60"
    while (status := service.get(path).json())["finishedAt"] is None:
        pass
    seconds = time.perf_counter() - begun
    watch.stop()
    if status["status"] != "completed":
        raise RuntimeError(f"the service's request ended {status['status']}")
    noise = max(0.0, busy_seconds() - noise - watch.cpu_seconds)
    return Run(seconds, watch.cpu_seconds, watch.peak_pss, status["bytes"]["output"], noise)
