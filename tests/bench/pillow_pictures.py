"""Pillow's own test pictures, broken ones included, through the codec in a limited process.

    python -m tests.bench.pillow_pictures [format]

Pillow's source package is fetched by pip into a temporary folder. Each file must end as a picture
that is no larger (BMP and TIFF excepted) or with an error of the list.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import PIL
import pillow_heif

from imgsvc.errors import ImageError
from imgsvc.image_types import CompressionSettings, OutputFormat
from imgsvc.images.codec import compress_image, warm_up
from tests.image_assertions import opened

MEMORY = 2 * 2**30
LISTED = {"not_an_image", "unsupported_format", "too_many_pixels", "corrupt_image", "out_of_memory"}


def fetch(folder: Path) -> Path:
    """The folder of Pillow's test pictures, unpacked below `folder`."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "pillow"]
    subprocess.run([*command, f"pillow=={PIL.__version__}", "-d", str(folder)], check=True)
    (package,) = folder.glob("pillow-*.tar.gz")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    (pictures,) = folder.glob("pillow-*/Tests/images")
    return pictures


def ending(data: bytes, form: OutputFormat) -> str:
    """How one file ends: `completed`, `kept`, an error's code, or what should not be."""
    try:
        result = compress_image(data, CompressionSettings(format=form), 100_000_000)
    except ImageError as error:
        return error.code.value if error.code in LISTED else f"UNLISTED {error}"
    if opened(result.data).size != (result.info.width, result.info.height):
        turned = opened(result.data).getexif().get(0x0112, 1) > 4
        if not turned:
            return "WRONG SIZE"
    if len(result.data) > len(data) and result.info.input_format not in {"bmp", "tiff"}:
        return "LARGER"
    return "kept" if result.info.kept else "completed"


def main() -> None:
    pillow_heif.register_heif_opener()
    form = OutputFormat(sys.argv[1]) if len(sys.argv) > 1 else OutputFormat.KEEP
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(path for path in fetch(Path(folder)).rglob("*") if path.is_file())
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        warm_up()
        endings: Counter[str] = Counter()
        slowest = (0.0, "")
        started = time.perf_counter()
        for path in files:
            began = time.perf_counter()
            end = ending(path.read_bytes(), form)
            slowest = max(slowest, (time.perf_counter() - began, path.name))
            endings[end] += 1
            if end.split()[0].isupper():
                print(end, path.name)
        took = time.perf_counter() - started
    print(f"{len(files)} files into {form} in {took:.0f} s: {dict(endings.most_common())}")
    print(f"slowest: {slowest[1]}, {slowest[0]:.2f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
