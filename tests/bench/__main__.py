"""`python3 run.py bench`: the whole service beside the limit, the floor and its peers, interleaved.

Ratios of medians are what counts: these figures drift from run to run and from machine to machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.bench.corpus import MIXES, Mix, folder
from tests.bench.measure import Watch, busy_seconds
from tests.launcher import Service, table
from tests.origin import ROOT

PEERS = Path(__file__).parent / "peers"
INSTALLED = Path(tempfile.gettempdir()) / "imgsvc-bench-peers"
"""Where the peers are installed, once a machine."""


@dataclass(frozen=True)
class Run:
    """One measured run. `bytes` are the outputs'."""

    seconds: float
    cpu_seconds: float
    peak_pss: int
    bytes: int
    noise: float


@dataclass
class Bench:
    """What is compared: one mix of images, one latency of the origin."""

    mix: Mix
    latency: float
    per_host: int
    work: Path
    results: dict[str, list[Run]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corpus = folder(self.mix)
        self.origin = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.origin", str(self.corpus), str(self.latency)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.origin.stdout is not None
        self.base = f"http://127.0.0.1:{int(self.origin.stdout.readline())}"

    def close(self) -> None:
        self.origin.terminate()
        self.origin.communicate()

    def measure(self, name: str, run: Callable[[], Run]) -> None:
        result = run()
        self.results.setdefault(name, []).append(result)
        rate = self.mix.total / result.seconds
        print(f"  {name:<24} {rate:8.1f} images/s", flush=True)

    # --- the runners -------------------------------------------------------------------------

    def command(self, arguments: list[str], cwd: Path = ROOT) -> Run:
        """Run a program that prints its own seconds (warm-up excluded) and bytes as JSON."""
        noise = busy_seconds()
        process = subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.PIPE)
        watch = Watch(process.pid)
        output, _ = process.communicate(timeout=900)
        watch.stop()
        if process.returncode:
            raise RuntimeError(f"{arguments[0]} ended with {process.returncode}")
        said = json.loads(output.splitlines()[-1])
        noise = max(0.0, busy_seconds() - noise - watch.cpu_seconds)
        return Run(said["seconds"], watch.cpu_seconds, watch.peak_pss, said["bytes"], noise)

    def limit(self, optimize: bool = False) -> Run:
        module = ["-m", "tests.bench.limit", str(self.corpus), self.mix.name, str(int(optimize))]
        return self.command([sys.executable, *module])

    def script(self) -> Run:
        with tempfile.TemporaryDirectory(dir=self.work) as out:
            module = ["-m", "tests.bench.script", self.base, self.mix.name, str(self.per_host), out]
            return self.command([sys.executable, *module])

    def sharp(self) -> Run:
        with tempfile.TemporaryDirectory(dir=self.work) as out:
            names = self.work / "names"
            names.write_text("\n".join(self.mix.names()))
            script = [str(PEERS / "sharp.mjs"), self.base, str(names), str(self.per_host), out]
            return self.command(["node", *script], cwd=INSTALLED / "node")

    def img2dataset(self) -> Run:
        """Whole process with its start, and without (what its own log says of its shards)."""
        with tempfile.TemporaryDirectory(dir=self.work) as out:
            names = self.work / "urls.txt"
            names.write_text("\n".join(f"{self.base}/{name}" for name in self.mix.names()))
            python = str(INSTALLED / "venv" / "bin" / "python")
            return self.command([python, str(PEERS / "img2dataset_run.py"), str(names), out])

    def service(self) -> Run:
        """The whole service over HTTP, from the upload to `finished`, warm."""
        with tempfile.TemporaryDirectory(dir=self.work) as where:
            fetch = {"per_host": self.per_host, "concurrency": max(64, self.per_host)}
            settings: dict[str, dict[str, object]] = {
                "fetch": {"allowed_networks": ["127.0.0.0/8"], **fetch},
                "compress": {"workers": 0},
                "log": {"format": "json", "level": "info"},
            }
            service = Service(Path(where), settings)
            service.start()
            try:
                return self._drive(service)
            finally:
                service.stop()
                service.close()

    def _drive(self, service: Service) -> Run:
        kinds = sorted({name.partition("/")[0] for name in self.mix.names()})
        warm = [
            f"{self.base}/{k}/9000{n}.{'jpg' if len(k) == 1 else k}"
            for k in kinds
            for n in range(4)
        ]
        service.finished(service.upload(table([(1, "warm", warm)])))
        rows = [
            (n, f"Product {n}", f"{self.base}/{name}") for n, name in enumerate(self.mix.names())
        ]
        body = table(rows)
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
        output = status["bytes"]["output"]
        return Run(seconds, watch.cpu_seconds, watch.peak_pss, output, noise)

    # --- the table ---------------------------------------------------------------------------

    def print_table(self) -> None:
        medians = {
            name: statistics.median(run.seconds for run in runs)
            for name, runs in self.results.items()
        }
        ours = medians["imgsvc"]
        print(
            f"\n{self.mix.name}: {self.mix.total} images, {self.mix.megapixels:.0f} MP, "
            f"{self.latency * 1000:.0f} ms of latency, {len(self.results['imgsvc'])} runs, medians\n"
        )
        print("| what | images/s | MP/s | CPU s | peak PSS MB | MB out | imgsvc is |")
        print("|---|---|---|---|---|---|---|")
        for name, runs in self.results.items():
            seconds = medians[name]
            cpu = statistics.median(run.cpu_seconds for run in runs)
            pss = statistics.median(run.peak_pss for run in runs) / 1e6
            out = statistics.median(run.bytes for run in runs) / 1e6
            print(
                f"| {name} | {self.mix.total / seconds:.0f} | {self.mix.megapixels / seconds:.0f} "
                f"| {cpu:.1f} | {pss:.0f} | {out:.1f} | {seconds / ours:.2f} × |"
            )
        noise = max(run.noise for runs in self.results.values() for run in runs)
        print(
            f"\nOther processes took at most {noise:.1f} CPU s during a run (the origin included)."
        )


def install_sharp() -> bool:
    """Install sharp and undici by npm; say so where that cannot be."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        print("no Node.js here: sharp is left out")
        return False
    node = INSTALLED / "node"
    node.mkdir(parents=True, exist_ok=True)
    (node / "package.json").write_text('{"private": true}')
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "sharp", "undici@7"]
    return subprocess.run(install, cwd=node, check=False).returncode == 0


def install_img2dataset() -> bool:
    """Install img2dataset into an environment of its own; say so where that cannot be."""
    venv = INSTALLED / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    install = [str(venv / "bin" / "pip"), "install", "-q", "img2dataset", "setuptools<81"]
    done = subprocess.run(install, check=False)
    if done.returncode:
        print("img2dataset cannot be installed here: it is left out")
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    parser.add_argument("mixes", nargs="*", default=["mix"], help=f"of {', '.join(MIXES)}")
    parser.add_argument("--runs", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--latency", type=float, default=0.0, help="of the origin, in seconds")
    parser.add_argument("--per-host", type=int, default=64)
    parser.add_argument("--peers", action="store_true", help="install and run sharp, img2dataset")
    parser.add_argument("--only", nargs="*", help="just these rows, besides imgsvc")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imgsvc-bench-") as name:
        work = Path(name)
        sharp = options.peers and install_sharp()
        img2dataset = options.peers and install_img2dataset()
        for mix in options.mixes:
            bench = Bench(MIXES[mix], options.latency, options.per_host, work)
            rows: dict[str, Callable[[], Run]] = {
                "imgsvc": bench.service,
                "limit: Pillow alone": bench.limit,
                "limit, optimised": partial(bench.limit, optimize=True),
                "leanest script": bench.script,
            }
            if sharp:
                rows["sharp with undici"] = bench.sharp
            if img2dataset:
                rows["img2dataset"] = bench.img2dataset
            if options.only is not None:
                rows = {k: v for k, v in rows.items() if k == "imgsvc" or k in options.only}
            try:
                for _ in range(options.runs):
                    for row, run in rows.items():
                        bench.measure(row, run)
            finally:
                bench.close()
            bench.print_table()


if __name__ == "__main__":
    main()
