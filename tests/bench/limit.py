"""The limit: Pillow alone, one tuned process a core, no fetching, no files.

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
from tests.bench.script import cores, halve, tune

_BODIES: dict[str, bytes] = {}


def prepare(root: str) -> None:
    tune()
    for file in Path(root).glob("*/*"):
        _BODIES[f"{file.parent.name}/{file.name}"] = file.read_bytes()
    halve(_encoded_once(), optimize=False)


def _encoded_once() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG", quality=90)
    return out.getvalue()


def work(names: list[str], optimize: bool) -> int:
    total = 0
    for name in names:
        kind, _, file = name.partition("/")
        number, _, extension = file.partition(".")
        body = _BODIES[f"{kind}/{int(number) % DISTINCT}.{extension}"]
        total += len(halve(body, optimize=optimize))
    return total


def main(root: str, mix: str, optimize: bool) -> None:
    names = list(MIXES[mix].names())
    chunks = [names[n : n + 8] for n in range(0, len(names), 8)]
    with ProcessPoolExecutor(cores(), initializer=prepare, initargs=(root,)) as pool:
        list(pool.map(work, [[]] * cores() * 4, [optimize] * cores() * 4))
        begun = time.perf_counter()
        total = sum(pool.map(work, chunks, [optimize] * len(chunks)))
        print(json.dumps({"seconds": time.perf_counter() - begun, "bytes": total}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "1")
