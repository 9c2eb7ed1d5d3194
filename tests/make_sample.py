"""Draws the images of `imgsvc/sample/`: `python -m tests.make_sample`. The drawn grain is random."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from imgsvc.demo import cut_out, scene
from imgsvc.sample import SAMPLE_PRODUCTS

FOLDER = Path(__file__).parents[1] / "imgsvc" / "sample"
FORMATS = {"jpg": "JPEG", "webp": "WEBP", "png": "PNG", "gif": "GIF"}


def draw(name: str, seed: int) -> bytes:
    """Return the contents of the image file `name`."""
    out = io.BytesIO()
    extension = name.rpartition(".")[2]
    image = scene(seed).resize((480, 320), Image.Resampling.LANCZOS)
    if extension == "png":
        cut_out(image.resize((180, 120))).save(out, "PNG", optimize=True)
    elif extension == "gif":
        frames = [image.rotate(angle).resize((96, 64)) for angle in range(0, 360, 60)]
        frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=90, loop=0)
    else:
        image.save(out, FORMATS[extension], quality=90)
    return out.getvalue()


if __name__ == "__main__":
    names = [name for names in SAMPLE_PRODUCTS.values() for name in names]
    for seed, name in enumerate(names[:-1]):  # the last one is missing on purpose
        (FOLDER / name).write_bytes(draw(name, seed))
