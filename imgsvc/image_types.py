"""The nouns of pictures: how one is to be compressed, and what is known of it then."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class OutputFormat(StrEnum):
    KEEP = "keep"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"
    PNG = "png"


@dataclass(frozen=True, slots=True)
class Quality:
    """A quality to compress at: `50%` is half of the source's own, `50` is absolute.

    `value` is 1–100 on libjpeg's scale, or a percentage of the source's quality where `relative`.
    """

    value: int
    relative: bool

    @classmethod
    def parse(cls, text: str | int) -> Quality:
        """Read `"50%"`, `"50"` or `50`; raise ValueError for anything else."""
        match = re.fullmatch(r"([1-9][0-9]?|100)(%?)", str(text).strip())
        if match is None or isinstance(text, bool):
            raise ValueError('must be a whole number from 1 to 100, or a percentage such as "50%"')
        return cls(int(match[1]), bool(match[2]))

    def of(self, source: int | None) -> int:
        """The quality to use for a source of quality `source` (None: its format records none).

        Rounded up, and at least 1.
        """
        if not self.relative:
            return self.value
        return max(1, -(-(100 if source is None else source) * self.value // 100))

    def __str__(self) -> str:
        return f"{self.value}%" if self.relative else str(self.value)


@dataclass(frozen=True, slots=True)
class CompressionSettings:
    """How an image is to be compressed. Equal settings on equal bytes give equal results."""

    quality: Quality = Quality(50, relative=True)
    format: OutputFormat = OutputFormat.KEEP
    progressive: bool = False

    def __str__(self) -> str:
        return f"{self.quality} {self.format}{' progressive' if self.progressive else ''}"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is known of a compressed image besides its bytes. Formats are lower-case names.

    `source_quality` is None where the source's format records none; `quality` is None where the
    source's own picture was kept.
    """

    input_bytes: int
    output_bytes: int
    width: int
    height: int
    input_format: str
    output_format: str
    source_quality: int | None
    quality: int | None
    kept: bool


@dataclass(frozen=True, slots=True)
class CompressedImage:
    """A compressed image: its bytes and what is known of it."""

    data: bytes
    info: ImageInfo


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored output: the file's name on disk and what is known of it."""

    name: str
    info: ImageInfo


EXTENSIONS: Mapping[str, str] = {
    "jpeg": "jpg",
    "png": "png",
    "webp": "webp",
    "gif": "gif",
    "avif": "avif",
    "heic": "heic",
}
"""The file name extension of each output format."""


MEDIA_TYPES: Mapping[str, str] = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "heic": "image/heic",
}
"""The media type of each output extension."""
