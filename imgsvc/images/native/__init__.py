"""JPEG to JPEG without pixels, in C. `build.py` builds the module; without it the service is slower."""

from __future__ import annotations

from collections.abc import Callable


def _load() -> Callable[[bytes, int, bool], bytes | None] | None:
    try:
        from imgsvc.images.native._requantise import requantise  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return requantise


_function = _load()
AVAILABLE = _function is not None
"""Whether the module is built for this platform."""


def describe() -> str:
    """Return what compresses JPEGs, for a message."""
    return "the native module" if AVAILABLE else "Pillow (slower: the native module is not built)"


def requantise(data: bytes, quality: int, *, small: bool) -> bytes | None:
    """Return a JPEG file as a baseline JPEG of this quality, or None if it must be decoded.

    The result has no metadata and no colour profile. Any error or warning of libjpeg returns None, and
    so do other components than YCbCr and grey, missing coded data, and a result larger than the source.
    `small` optimises the Huffman codes, and returns None for more colour samples than 4:2:0.
    """
    return None if _function is None else _function(data, quality, small)
