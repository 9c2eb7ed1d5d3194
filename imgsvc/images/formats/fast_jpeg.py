"""Fast decoding and encoding of ordinary JPEGs with imagecodecs: the same bytes as with Pillow.

Pillow stores a pixel in four bytes and copies every row on input and output. imagecodecs passes the
rows to libjpeg-turbo without copying. Pillow still reads the header, and decodes all other JPEGs.
"""

from __future__ import annotations

import os

from imgsvc.images.formats.base import PixelArray

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's linear algebra is not used
try:
    import imagecodecs
    import numpy
except (
    ImportError,
    RuntimeError,
):  # no wheel for this platform, or the processor is too old for numpy
    AVAILABLE = False
else:
    AVAILABLE = True


def decode(data: bytes, width: int, height: int) -> PixelArray | None:
    """Return the RGB pixels of a JPEG file of this size, or None if it cannot be decoded here.

    If the coded data of the file ends too early, the missing pixels are grey.
    """
    if not AVAILABLE:
        return None
    # Allocate the array here: if imagecodecs fails to allocate it, it leaks libjpeg's memory.
    pixels = numpy.empty((height, width, 3), numpy.uint8)
    try:
        return imagecodecs.jpeg8_decode(data, out=pixels)
    except (imagecodecs.Jpeg8Error, ValueError):  # damaged, or another size
        return None


def encode(pixels: PixelArray, quality: int, buffer_bytes: int) -> bytes:
    """Return a JPEG file of RGB pixels, with optimised Huffman codes.

    `buffer_bytes` is the size of the output buffer. Few files need more.
    """
    # If libjpeg cannot enlarge its own buffer, imagecodecs never frees it.
    return bytes(imagecodecs.jpeg8_encode(pixels, level=quality, optimize=True, out=buffer_bytes))
