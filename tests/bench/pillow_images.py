"""Compress Pillow's own test images, including damaged ones, in a process with limited memory.

    python -m tests.bench.pillow_images [format]

pip downloads Pillow's source package into a temporary folder. Each file must give an image that is not
larger (except conversions) or an error with an expected code.
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
from tests.image_assertions import open_image

MEMORY_BYTES = 2 * 2**30
"""Memory limit of the process, in bytes."""
EXPECTED_CODES = {
    "not_an_image",
    "unsupported_format",
    "too_many_pixels",
    "corrupt_image",
    "out_of_memory",
}


def download(folder: Path) -> Path:
    """Download Pillow's source package, and return the folder of its test images below `folder`."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "pillow"]
    subprocess.run([*command, f"pillow=={PIL.__version__}", "-d", str(folder)], check=True)
    (package,) = folder.glob("pillow-*.tar.gz")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    (images,) = folder.glob("pillow-*/Tests/images")
    return images


def result_of(data: bytes, output_format: OutputFormat) -> str:
    """Return the result for one file: `completed`, `kept`, or the error code.

    Results in capitals are failures of the service.
    """
    try:
        result = compress_image(data, CompressionSettings(format=output_format), 100_000_000)
    except ImageError as error:
        return error.code.value if error.code in EXPECTED_CODES else f"UNEXPECTED {error}"
    if open_image(result.data).size != (result.info.width, result.info.height):
        is_rotated = open_image(result.data).getexif().get(0x0112, 1) > 4
        if not is_rotated:
            return "WRONG SIZE"
    same_format = result.info.output_format == result.info.input_format
    if same_format and len(result.data) > len(data):
        return "LARGER"
    return "kept" if result.info.kept else "completed"


def main() -> None:
    pillow_heif.register_heif_opener()
    output_format = OutputFormat(sys.argv[1]) if len(sys.argv) > 1 else OutputFormat.KEEP
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(path for path in download(Path(folder)).rglob("*") if path.is_file())
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        warm_up()
        counts: Counter[str] = Counter()
        slowest = (0.0, "")
        started = time.perf_counter()
        for path in files:
            file_started = time.perf_counter()
            outcome = result_of(path.read_bytes(), output_format)
            slowest = max(slowest, (time.perf_counter() - file_started, path.name))
            counts[outcome] += 1
            if outcome.split()[0].isupper():
                print(outcome, path.name)
        seconds = time.perf_counter() - started
    print(f"{len(files)} files to {output_format} in {seconds:.0f} s: {dict(counts.most_common())}")
    print(f"slowest: {slowest[1]}, {slowest[0]:.2f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
