"""The pictures of the benchmark, cut from photographs that scikit-image ships, made once a machine."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests import sample_images

SIZES = {"xs": (64, 64), "s": (500, 500), "m": (1200, 1200), "l": (2400, 1600)}
DISTINCT = 60
"""Different pictures of each size; a run serves each at many URLs, told apart by a trailing comment."""


@dataclass(frozen=True)
class Mix:
    """How many images of each kind a run has. Kinds are sizes of JPEGs, `png` and `webp` (size s)."""

    name: str
    counts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def megapixels(self) -> float:
        return sum(n * _size(kind)[0] * _size(kind)[1] for kind, n in self.counts.items()) / 1e6

    def names(self) -> Iterator[str]:
        """The paths of the images, kinds interleaved."""
        kinds = [(kind, n) for kind, count in self.counts.items() for n in range(count)]
        order = sorted(kinds, key=lambda item: ((item[1] + 0.5) / self.counts[item[0]], item[0]))
        for kind, number in order:
            yield f"{kind}/{number}.{_extension(kind)}"


MIXES = {
    mix.name: mix
    for mix in (
        Mix("s", {"s": 2400}),
        Mix("m", {"m": 800}),
        Mix("l", {"l": 320}),
        Mix("mix", {"s": 480, "m": 480, "l": 240}),
        Mix("formats", {"s": 200, "png": 60, "webp": 200}),
    )
}
TINY = Mix("tiny", {"xs": DISTINCT})
"""Pictures so small that their own pixels cost next to nothing."""


def _size(kind: str) -> tuple[int, int]:
    return SIZES.get(kind, SIZES["s"])


def _extension(kind: str) -> str:
    return "jpg" if kind in SIZES else kind


def _make(job: tuple[str, int, Path]) -> None:
    kind, number, file = job
    extension = _extension(kind)
    picture = sample_images.photograph(number, *_size(kind))
    if number % 3 == 0:  # a third are products on white
        sheet = Image.new("RGB", picture.size, "white")
        inner = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3))
        sheet.paste(inner, (picture.width // 6, picture.height // 6))
        picture = sheet
    out = io.BytesIO()
    options = {} if extension == "png" else {"quality": sample_images.quality_of(number)}
    picture.save(out, sample_images.FORMATS[extension], **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(out.getvalue())
    partial.rename(file)


def folder(mix: Mix) -> Path:
    """Make what is missing of the distinct pictures; return the folder they are in."""
    root = Path(tempfile.gettempdir()) / "imgsvc-bench-corpus"
    jobs = []
    for kind, count in mix.counts.items():
        for number in range(min(count, DISTINCT)):
            file = root / kind / f"{number}.{_extension(kind)}"
            if not file.exists():
                jobs.append((kind, number, file))
    if jobs:
        with ProcessPoolExecutor() as pool:
            list(pool.map(_make, jobs, chunksize=4))
    return root
