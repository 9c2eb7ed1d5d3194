"""The tables of a comparison, and the project's claims about speed beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.corpus import Mix
from tests.bench.peers import IMG2DATASET, SHARP

LATENCY_SECONDS = 0.1
"""Seconds before the distant image host responds."""
SERVICE, SCRIPT, PILLOW = "imgsvc", "minimal script", "limit: Pillow only"
WITHOUT_NATIVE = "imgsvc without the native module"
DOWNLOADS = "downloads alone"
WITH_LATENCY = f", {LATENCY_SECONDS * 1000:.0f} ms latency"
WITHOUT_START = ", without its start"


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


Results = Mapping[str, Sequence[Run]]
"""The runs of each program, by row name."""


@dataclass(frozen=True)
class Claim:
    """A claim: on a mix, imgsvc is at least `target` times as fast as another program."""

    mix: str
    program: str
    target: float


CLAIMS = (
    Claim("mix", PILLOW, 1.1),
    Claim("mix", SHARP, 2.2),
    Claim("mix", IMG2DATASET + WITHOUT_START, 1.4),
    Claim("s", SCRIPT, 1.4),
    Claim("s", DOWNLOADS + WITH_LATENCY, 0.95),
)


def print_table(mix: Mix, results: Results) -> None:
    """Print the medians of each program's figures."""
    print(
        f"\n{mix.name}: {mix.total} images, {mix.megapixels:.0f} MP, "
        f"{len(results[SERVICE])} runs, medians. Speed and CPU of imgsvc: relative to the program\n\n"
        "| program | images/s | MP/s | CPU s | peak PSS MB | output MB | speed of imgsvc | CPU |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    seconds = times(results)
    for name, took in seconds.items():
        runs = results[name.removesuffix(WITHOUT_START)]
        own = runs_of_service(name, results)
        cpu = _median(runs, lambda run: run.cpu_seconds)
        print(
            f"| {name} | {mix.total / took:.0f} | {mix.megapixels / took:.0f} | {cpu:.1f} "
            f"| {_median(runs, lambda run: run.peak_pss) / 1e6:.0f} "
            f"| {_median(runs, lambda run: run.bytes) / 1e6:.1f} "
            f"| {speed(name, results):.2f} × "
            f"| {_median(own, lambda run: run.cpu_seconds) / cpu:.2f} × |"
        )
    most = max(run.other_cpu_seconds for runs in results.values() for run in runs)
    print(f"\nOther processes, including the image host, used at most {most:.1f} CPU s in a run.\n")


def print_claims(mix: str, results: Results) -> None:
    """Print the claims about a mix, and the speed that was measured."""
    claims = [claim for claim in CLAIMS if claim.mix == mix and claim.program in times(results)]
    if claims:
        print("| imgsvc relative to | claim | measured |\n|---|---|---|")
    for claim in claims:
        print(f"| {claim.program} | {claim.target} × | {speed(claim.program, results):.2f} × |")


def times(results: Results) -> dict[str, float]:
    """Return the median seconds of each program, and those without the start if they are known."""
    found = {}
    for name, runs in results.items():
        found[name] = _median(runs, lambda run: run.seconds)
        warm = [run.warm_seconds for run in runs if run.warm_seconds is not None]
        if warm:
            found[name + WITHOUT_START] = statistics.median(warm)
    return found


def speed(program: str, results: Results) -> float:
    """Return the speed of imgsvc relative to a program, at the same latency."""
    service = _median(runs_of_service(program, results), lambda run: run.seconds)
    return times(results)[program] / service


def runs_of_service(program: str, results: Results) -> Sequence[Run]:
    """Return the runs of imgsvc with the latency of a program's runs."""
    return results[SERVICE + WITH_LATENCY * program.endswith(WITH_LATENCY)]


def _median(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    return statistics.median(figure(run) for run in runs)
