"""Measure the speed of the service, and compare it with the machine's limit and with other programs.

Runs are interleaved. Compare ratios of medians only: absolute figures vary between runs and machines.
Without arguments, all benchmarks run, which takes half an hour.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import cluster, costs, peers, report, weekly
from tests.bench.compare import Comparison
from tests.bench.corpus import MIXES
from tests.soak.load import response_times_under_load

OTHERS: dict[str, Callable[[Path], object]] = {
    "validator": costs.validator,
    "answers": response_times_under_load,
    "costs": costs.cost_per_image,
    "cluster": cluster.coordinator,
    "weekly": weekly.second_run,
}


def compare(mix: str, work: Path, available: set[str], options: argparse.Namespace) -> None:
    """Measure all programs on one mix of images, and print the table."""
    comparison = Comparison(MIXES[mix], options.per_host, work, options.other)
    try:
        rows = comparison.rows(available)
        if options.only is not None:
            rows = {
                name: run for name, run in rows.items() if name in {report.SERVICE, *options.only}
            }
        for _ in range(options.runs):
            for name, run in rows.items():
                comparison.measure(name, run)
    finally:
        comparison.close()
    report.print_table(comparison.mix, comparison.results)
    report.print_claims(mix, comparison.results)


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    known = [*MIXES, *OTHERS]
    parser.add_argument(
        "benchmarks", nargs="*", help=f"benchmarks to run: {', '.join(known)} (default: all)"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument(
        "--per-host", type=int, default=64, help="concurrent downloads per host (default 64)"
    )
    parser.add_argument("--no-peers", action="store_true", help="skip sharp and img2dataset")
    parser.add_argument(
        "--other", nargs="*", type=Path, default=[], help="folders with other versions of imgsvc"
    )
    parser.add_argument("--only", nargs="*", help="compare only these rows with imgsvc")
    options = parser.parse_args()
    chosen = options.benchmarks or known
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"unknown benchmark: {', '.join(unknown)} (choose from {', '.join(known)})")
    with tempfile.TemporaryDirectory(prefix="imgsvc-bench-") as folder:
        work = Path(folder)
        available = set() if options.no_peers or not MIXES.keys() & chosen else peers.install()
        for name in chosen:
            print(f"--- {name}", flush=True)
            if name in MIXES:
                compare(name, work, available, options)
            else:
                OTHERS[name](Path(tempfile.mkdtemp(dir=work)))


if __name__ == "__main__":
    main()
