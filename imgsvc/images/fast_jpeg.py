"""Plain JPEGs that become JPEGs: the same bytes as by way of Pillow, in less time.

Pillow keeps a pixel in four bytes and copies every row, in and out; imagecodecs hands libjpeg-turbo its
rows as they are. It is only there for that: Pillow reads the header, and all that is not as usual.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's, for algebra that nobody asks for
try:
    import imagecodecs
    import numpy
except (ImportError, RuntimeError):  # not on this platform, or too old a processor for numpy
    AVAILABLE = False
else:
    AVAILABLE = True

Rows = Any
"""A numpy array of bytes: height × width × red, green and blue."""


def decode(data: bytes, width: int, height: int) -> Rows | None:
    """The picture of a JPEG file in RGB, of that size, or None where that cannot be had.

    Where the file's coded data ends too soon the rest is grey.
    """
    if not AVAILABLE:
        return None
    # Made here, as where imagecodecs fails to, it never frees what libjpeg holds by then.
    rows = numpy.empty((height, width, 3), numpy.uint8)
    try:
        return imagecodecs.jpeg8_decode(data, out=rows)
    except (imagecodecs.Jpeg8Error, ValueError):  # damaged, or of another shape
        return None


def encode(rows: Rows, quality: int, room: int) -> bytes:
    """A JPEG file of a picture in RGB, its Huffman codes optimised; few exceed `room` bytes."""
    # Where libjpeg's own room cannot grow, imagecodecs never frees it.
    return bytes(imagecodecs.jpeg8_encode(rows, level=quality, optimize=True, out=room))
