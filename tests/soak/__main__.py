"""Soak tests, run by hand: `python -m tests.soak kills fairness …`. Without names, all of them run.

Each test prints its measurements. The exit code is 1 if any test has found a problem.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.soak import fetching, load, survival

SOAK_TESTS: dict[str, Callable[[Path], list[str]]] = {
    "kills": survival.kills,
    "workers": survival.killed_workers,
    "disk": survival.full_disk,
    "memory": load.memory,
    "upload": load.large_upload,
    "responses": load.response_times_under_load,
    "watchers": load.watchers,
    "fairness": fetching.fair_scheduling,
    "latency": fetching.latency,
    "hosts": fetching.dead_host,
    "endless": fetching.endless_bodies,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("tests", nargs="*", help=f"any of {', '.join(SOAK_TESTS)} (default: all)")
    chosen = parser.parse_args().tests or list(SOAK_TESTS)
    problems = []
    for name in chosen:
        print(f"--- {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="imgsvc-soak-") as folder:
            problems += [f"{name}: {problem}" for problem in SOAK_TESTS[name](Path(folder))]
    print("\n".join(problems) or "no problems found")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
