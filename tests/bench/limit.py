"""The speed limit of the machine: Pillow in one tuned process per core, without downloads or files.

python -m tests.bench.limit FOLDER MIX OPTIMIZE   prints {"seconds": …, "bytes": …}
"""

from __future__ import annotations

import io
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

from tests.bench.corpus import DISTINCT, MIXES
from tests.bench.script import compress, cpu_count, tune_memory

_BODIES: dict[str, bytes] = {}


def prepare(root: str) -> None:
    """Load the corpus and warm up a process of the pool."""
    tune_memory()
    for file in Path(root).glob("*/*"):
        _BODIES[f"{file.parent.name}/{file.name}"] = file.read_bytes()
    compress(_warm_up_image(), optimize=False)


def _warm_up_image() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG", quality=90)
    return out.getvalue()


def compress_all(names: list[str], optimize: bool) -> int:
    """Compress images, and return the total size of the outputs in bytes."""
    total = 0
    for name in names:
        kind, _, file = name.partition("/")
        number, _, extension = file.partition(".")
        body = _BODIES[f"{kind}/{int(number) % DISTINCT}.{extension}"]
        total += len(compress(body, optimize=optimize))
    return total


def main(root: str, mix: str, optimize: bool) -> None:
    names = list(MIXES[mix].names())
    chunks = [names[n : n + 8] for n in range(0, len(names), 8)]
    with ProcessPoolExecutor(cpu_count(), initializer=prepare, initargs=(root,)) as pool:
        list(pool.map(compress_all, [[]] * cpu_count() * 4, [optimize] * cpu_count() * 4))
        started = time.perf_counter()
        total = sum(pool.map(compress_all, chunks, [optimize] * len(chunks)))
        print(json.dumps({"seconds": time.perf_counter() - started, "bytes": total}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "1")
