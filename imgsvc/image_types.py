"""Data types of image compression: its settings and its results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class OutputFormat(StrEnum):
    """The format of an output. `KEEP` is the format of its source."""

    KEEP = "keep"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"
    PNG = "png"


@dataclass(frozen=True, slots=True)
class Quality:
    """A compression quality: `50%` is half of the source's own quality, `50` is absolute.

    `value` is a quality from 1 to 100 on libjpeg's scale. If `relative` is true, it is a percentage of
    the source's quality instead.
    """

    value: int
    relative: bool

    @classmethod
    def parse(cls, text: str | int) -> Quality:
        """Return the quality of `"50%"`, `"50"` or `50`. Raise ValueError for anything else."""
        match = re.fullmatch(r"([1-9][0-9]?|100)(%?)", str(text).strip())
        if match is None or isinstance(text, bool):
            raise ValueError('must be a whole number from 1 to 100, or a percentage such as "50%"')
        return cls(int(match[1]), bool(match[2]))

    def resolve(self, source_quality: int | None) -> int:
        """Return the absolute quality for a source, rounded up and at least 1.

        `source_quality` None means that the source's format records no quality; it counts as 100.
        """
        if not self.relative:
            return self.value
        return max(1, -(-(100 if source_quality is None else source_quality) * self.value // 100))

    def __str__(self) -> str:
        return f"{self.value}%" if self.relative else str(self.value)


@dataclass(frozen=True, slots=True)
class CompressionSettings:
    """Settings for compressing an image. Equal settings and equal bytes produce equal results."""

    quality: Quality = Quality(50, relative=True)
    format: OutputFormat = OutputFormat.KEEP
    progressive: bool = False

    def __str__(self) -> str:
        return f"{self.quality} {self.format}{' progressive' if self.progressive else ''}"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Properties of a compressed image. Formats are lower-case names.

    `source_quality` is None if the source's format records no quality. `kept` is true if the source's
    own image data was kept; `quality` is None then.
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
    """A compressed image: its bytes and properties."""

    data: bytes
    info: ImageInfo


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored output: its file name on disk and its properties."""

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
