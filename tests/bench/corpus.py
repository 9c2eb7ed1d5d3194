"""The images of the benchmark, created once per machine from `photographs`.

They are as mixed as a catalogue: a third are products on white, a fifth of the JPEGs have full colour
resolution (4:4:4), a seventh are progressive, and their quality is 75 to 95.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests import sample_images
from tests.bench.photographs import photographs

SIZES = {"xs": (64, 64), "s": (500, 500), "m": (1200, 1200), "l": (2400, 1600)}
DISTINCT = 60
"""Number of different images of each size.

A run serves each at many URLs. A number after the end of the image makes the bytes of each URL unique.
"""
VERSION = 2
"""Version of the corpus. Images of other versions are not used."""
QUALITIES = (75, 80, 82, 85, 85, 88, 90, 90, 92, 95, 95)
"""Qualities of JPEGs and WebPs. Their number shares no divisor with those of the other traits."""


@dataclass(frozen=True)
class Mix:
    """The number of images of each kind in a run.

    Kinds are the sizes of JPEGs, and `png` and `webp` in size s.
    """

    name: str
    counts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def megapixels(self) -> float:
        return sum(n * _size(kind)[0] * _size(kind)[1] for kind, n in self.counts.items()) / 1e6

    def names(self) -> Iterator[str]:
        """Yield the paths of the images, with the kinds interleaved."""
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
"""Images so small that their pixels take almost no CPU time."""


def _size(kind: str) -> tuple[int, int]:
    return SIZES.get(kind, SIZES["s"])


def _extension(kind: str) -> str:
    return "jpg" if kind in SIZES else kind


def _make(job: tuple[str, int, Path, Path]) -> None:
    kind, number, photograph, file = job
    extension = _extension(kind)
    with Image.open(photograph) as source:
        image = sample_images.part(source.convert("RGB"), number, *_size(kind))
    if number % 3 == 0:
        background = Image.new("RGB", image.size, "white")
        product = image.resize((image.width * 2 // 3, image.height * 2 // 3))
        background.paste(product, (image.width // 6, image.height // 6))
        image = background
    out = io.BytesIO()
    image.save(out, sample_images.FORMATS[extension], **_options(extension, number))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(out.getvalue())
    partial.rename(file)


def _options(extension: str, number: int) -> dict[str, object]:
    """Return the options to save an image with."""
    quality: dict[str, object] = {"quality": QUALITIES[number % len(QUALITIES)]}
    if extension == "jpg":
        sampling = "4:4:4" if number % 5 == 0 else "4:2:0"
        return quality | {"subsampling": sampling, "progressive": number % 7 == 0}
    return quality if extension == "webp" else {}


def folder(mix: Mix) -> Path:
    """Create the images that are missing, and return their folder.

    Its name contains the number of photographs, because not every machine can download all.
    """
    sources = photographs()
    root = Path(tempfile.gettempdir()) / f"imgsvc-bench-corpus-{VERSION}-{len(sources)}"
    jobs = []
    for kind, count in mix.counts.items():
        for number in range(min(count, DISTINCT)):
            file = root / kind / f"{number}.{_extension(kind)}"
            if not file.exists():
                jobs.append((kind, number, sources[number % len(sources)], file))
    if jobs:
        with ProcessPoolExecutor() as pool:
            list(pool.map(_make, jobs, chunksize=4))
    return root
