"""Run the native module, built with sanitizers, on damaged JPEGs. Any invalid access ends the run.

`python3 -m tests.fuzz.requantise --files 1000000` needs GCC. `--libjpeg FOLDER` checks libjpeg itself
too: the folder has `libjpeg.a`, compiled with `SANITIZERS` and `-fPIC`, and its headers.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from imgsvc.images.native import build
from tests.image_assertions import encode_image
from tests.sample_images import photograph

SANITIZERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-g",
)
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=16"
    ":quarantine_size_mb=16",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
"""Python itself leaks. Without a limit for allocations, a damaged size takes gigabytes."""
SIZES = ((1, 1), (8, 8), (33, 17), (48, 36), (130, 90))
VARIANTS: tuple[dict[str, Any], ...] = (
    *({"subsampling": each, "progressive": p} for each in (0, 1, 2) for p in (False, True)),
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 1, "progressive": True},
    {"optimize": True, "quality": 100},
    {"keep_rgb": True},
)
MARKERS = (0xC0, 0xC2, 0xC4, 0xC9, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xEE)
EXTREME_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
PADDING = bytes(1_000)
"""Bytes after an output, so that its own conversion is not refused because it is not smaller."""


def seeds() -> list[bytes]:
    """Return valid JPEGs of all kinds: those that the module takes, and those that it refuses."""
    files = []
    for number, size in enumerate(SIZES):
        image = photograph(number, *size)
        files += [encode_image(image, "JPEG", **{"quality": 90, **each}) for each in VARIANTS]
        files += [encode_image(image.convert(mode), "JPEG") for mode in ("L", "CMYK")]
        files.append(encode_image(image.convert("L"), "JPEG", progressive=True))
    return files


def damaged(files: list[bytes], numbers: random.Random) -> bytes:
    """Return one of the files with changed, inserted, removed or exchanged bytes."""
    data = bytearray(numbers.choice(files))
    for _ in range(numbers.choice((1, 1, 1, 1, 2, 8))):
        # Half of the changes are in the header: it has the tables, the sizes and the sampling.
        at = numbers.randrange(min(len(data), 700) if numbers.random() < 0.5 else len(data))
        kind = numbers.randrange(7)
        if kind == 0:
            data[at] ^= 1 << numbers.randrange(8)
        elif kind == 1:
            data[at] = numbers.choice(EXTREME_BYTES)
        elif kind == 2:
            data[at : at + 2] = bytes((0xFF, numbers.choice(MARKERS)))
        elif kind == 3:
            data[at:at] = numbers.randbytes(numbers.randrange(1, 9))
        elif kind == 4:
            del data[at : at + numbers.choice((1, 2, 50))]
        elif kind == 5:
            other = numbers.choice(files)
            start = numbers.randrange(len(other))
            data[at : at + 64] = other[start : start + 64]
        else:
            data[at:] = b"\xff\xd9"
        if not data:
            break
    return bytes(data)


def load(path: Path) -> ModuleType:
    """Import the module from its file."""
    spec = importlib.util.spec_from_file_location("_requantise", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def convert_damaged_files(path: Path, count: int, seed: int) -> None:
    """Convert damaged files. Runs in a process with AddressSanitizer, which ends it at an error."""
    requantise = load(path).requantise
    numbers = random.Random(seed)
    files = seeds()
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        data = damaged(files, numbers)
        output = requantise(data, numbers.randint(1, 100), numbers.random() < 0.5)
        outcomes["refused" if output is None else "converted"] += 1
        if output is not None and requantise(output + PADDING, 1, False) is None:
            raise ValueError(f"the output is damaged; the file is {data.hex()}")
    print(
        f"{count} damaged files: {outcomes['converted']} converted, {outcomes['refused']} refused"
    )


def run(count: int, seed: int, libjpeg: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Build the module with sanitizers, and convert damaged files with it in another process."""
    library = None
    if libjpeg is not None:
        library = build.Library((f"-I{libjpeg}",), (str(libjpeg / "libjpeg.a"),))
    with tempfile.TemporaryDirectory() as folder:
        path = build.build(Path(folder), *SANITIZERS, library=library)
        asan = subprocess.run(
            [*build.compiler(), "-print-file-name=libasan.so"],
            capture_output=True,
            text=True,
            check=True,
        )
        command = [sys.executable, "-m", __spec__.name, "--module", str(path)]
        return subprocess.run(
            [*command, "--files", str(count), "--seed", str(seed)],
            env={**os.environ, **OPTIONS, "LD_PRELOAD": asan.stdout.strip()},
            capture_output=True,
            text=True,
            check=False,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--libjpeg", type=Path)
    parser.add_argument("--module", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.module is not None:
        convert_damaged_files(options.module, options.files, options.seed)
        return 0
    result = run(options.files, options.seed, options.libjpeg)
    print(result.stdout, result.stderr, sep="", end="")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
