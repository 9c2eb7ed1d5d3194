"""Limits of the parts of a file whose number its size and its pixels do not limit well enough.

All are checked before anything is decoded, and while the parts are counted.
"""

from __future__ import annotations

from imgsvc.images.errors import too_many_parts

MAX_FRAMES = 5_000
"""Maximum number of frames. Each costs about 0.3 ms, even if it has only one pixel."""

MAX_SCANS = 100
"""Maximum number of scans of a JPEG, as in libtiff. Encoders write about 10. A scan of 200 bytes takes
as long as all pixels of the image."""

MAX_BLOCKS = 200_000
"""Maximum number of the blocks of a container: segments, chunks, boxes, extensions. Each costs Pillow
and us about 4 µs, and may have as few as two bytes."""

MAX_ITEMS = 4_096
"""Maximum number of items in AVIF and HEIC. libavif compares each with all others. A grid of 100
million pixels with tiles of 256 pixels a side has about 1,600."""


def check_frames(count: int) -> None:
    """Raise `too_many_pixels` if an image has more than `MAX_FRAMES` frames."""
    if count > MAX_FRAMES:
        raise too_many_parts("frames", MAX_FRAMES)


def check_scans(count: int) -> None:
    """Raise `too_many_pixels` if a JPEG has more than `MAX_SCANS` scans."""
    if count > MAX_SCANS:
        raise too_many_parts("scans", MAX_SCANS)


def check_blocks(count: int) -> None:
    """Raise `too_many_pixels` if a file has more than `MAX_BLOCKS` blocks."""
    if count > MAX_BLOCKS:
        raise too_many_parts("blocks", MAX_BLOCKS)


def check_items(count: int) -> None:
    """Raise `too_many_pixels` if a file has more than `MAX_ITEMS` items."""
    if count > MAX_ITEMS:
        raise too_many_parts("items", MAX_ITEMS)
