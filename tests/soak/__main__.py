"""Long trials, run by hand: `python -m tests.soak kills turns …`; without names, all of them.

Each prints what it saw, and ends with exit code 1 where a promise did not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.soak import fetching, load, survival

TRIALS: dict[str, Callable[[Path], list[str]]] = {
    "kills": survival.kills,
    "workers": survival.killed_workers,
    "disk": survival.full_disk,
    "memory": load.memory,
    "upload": load.large_upload,
    "answers": load.answers_under_load,
    "watchers": load.watchers,
    "turns": fetching.fair_turns,
    "latency": fetching.latency,
    "hosts": fetching.dead_host,
    "endless": fetching.endless_bodies,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("trials", nargs="*", help=f"of {', '.join(TRIALS)} (default: all)")
    chosen = parser.parse_args().trials or list(TRIALS)
    broken = []
    for name in chosen:
        print(f"--- {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="imgsvc-soak-") as folder:
            broken += [f"{name}: {problem}" for problem in TRIALS[name](Path(folder))]
    print("\n".join(broken) or "all promises held")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
