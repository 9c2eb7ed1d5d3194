"""How fast the whole service is, beside the limit of the machine and its peers, interleaved.

Ratios of medians are what counts: figures drift from run to run and from machine to machine. Without
arguments all of it is measured, which takes half an hour.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import costs, peers
from tests.bench.compare import SERVICE, Comparison
from tests.bench.corpus import MIXES
from tests.soak.load import response_times_under_load

OTHERS: dict[str, Callable[[Path], object]] = {
    "validator": costs.validator,
    "answers": response_times_under_load,
    "costs": costs.cost_per_image,
}


def compare(mix: str, work: Path, available: set[str], options: argparse.Namespace) -> None:
    comparison = Comparison(MIXES[mix], options.per_host, work)
    try:
        rows = comparison.rows(available)
        if options.only is not None:
            rows = {name: run for name, run in rows.items() if name in {SERVICE, *options.only}}
        for _ in range(options.runs):
            for name, run in rows.items():
                comparison.measure(name, run)
    finally:
        comparison.close()
    comparison.print_table()


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    known = [*MIXES, *OTHERS]
    parser.add_argument("what", nargs="*", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--per-host", type=int, default=64, help="downloads at once (default 64)")
    parser.add_argument("--no-peers", action="store_true", help="leave sharp and img2dataset out")
    parser.add_argument("--only", nargs="*", help="of a comparison, just these rows and imgsvc")
    options = parser.parse_args()
    chosen = options.what or known
    if unknown := [what for what in chosen if what not in known]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="imgsvc-bench-") as name:
        work = Path(name)
        available = set() if options.no_peers or not MIXES.keys() & chosen else peers.install()
        for what in chosen:
            print(f"--- {what}", flush=True)
            if what in MIXES:
                compare(what, work, available, options)
            else:
                OTHERS[what](Path(tempfile.mkdtemp(dir=work)))


if __name__ == "__main__":
    main()
