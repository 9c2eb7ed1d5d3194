"""Data types of image compression: the table of formats, its settings and its results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self


@dataclass(frozen=True, slots=True)
class FormatTraits:
    """What the rest of the program needs to know about an image format.

    `title` is its name on the page. `selectable` means that users can choose it as the format of
    outputs. `kept` means that a source can be an output without its metadata; other formats are always
    converted, because they are unsuitable for web pages. `animated` means that the service reads and
    writes animations. `max_side` is the largest width and height that can be written, in pixels.
    `was_kept` means that version 1.0 stored outputs of this format, which are still served.
    """

    name: str
    title: str
    extension: str
    media_type: str
    selectable: bool = False
    kept: bool = True
    animated: bool = False
    max_side: int = 2**31 - 1
    was_kept: bool = False

    @property
    def is_output(self) -> bool:
        """Whether stored outputs can have this format."""
        return self.kept or self.selectable or self.was_kept


class ImageFormat(StrEnum):
    """The table of formats that can be read: one row for each. Values are the names in the API.

    `imgsvc/images/formats/NAME.py` reads and writes the format NAME. Files are compared with the
    signatures of the formats in this order. Sources of the largest sides: `JPEG_MAX_DIMENSION` of
    libjpeg, the WebP format, and the largest side that libavif and the viewers based on it decode.
    """

    traits: FormatTraits

    def __new__(cls, traits: FormatTraits) -> Self:
        """Return a member whose value is the format's name."""
        member = str.__new__(cls, traits.name)
        member._value_ = traits.name
        member.traits = traits
        return member

    JPEG = FormatTraits("jpeg", "JPEG", "jpg", "image/jpeg", selectable=True, max_side=65_500)
    WEBP = FormatTraits(
        "webp", "WebP", "webp", "image/webp", selectable=True, animated=True, max_side=16_383
    )
    AVIF = FormatTraits(
        "avif", "AVIF", "avif", "image/avif", selectable=True, animated=True, max_side=32_768
    )
    PNG = FormatTraits("png", "PNG", "png", "image/png", selectable=True, animated=True)
    GIF = FormatTraits("gif", "GIF", "gif", "image/gif", animated=True)
    HEIC = FormatTraits("heic", "HEIC", "heic", "image/heic", kept=False, was_kept=True)
    BMP = FormatTraits("bmp", "BMP", "bmp", "image/bmp", kept=False)
    TIFF = FormatTraits("tiff", "TIFF", "tif", "image/tiff", kept=False)


class OutputFormat(StrEnum):
    """The format of an output: a selectable image format, or `KEEP`, the format of its source.

    The members come from the table, so type checkers know only `KEEP`. Use `OutputFormat("webp")`.
    """

    KEEP = "keep"
    vars().update({each.name: each.value for each in ImageFormat if each.traits.selectable})


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


ENCODER_REVISION = 1
"""Part of the token of each output. Raise it only if outputs are meant to change: all URLs change."""


class Effort(StrEnum):
    """How much processor time an encoder may spend. `SMALL`: fewer bytes at the same quality."""

    FAST = "fast"
    SMALL = "small"


MAX_SIDE_SETTING = 65_535
"""Largest value of the settings `max_width` and `max_height`, in pixels."""


@dataclass(frozen=True, slots=True)
class CompressionSettings:
    """Settings for compressing an image. Equal settings and equal bytes produce equal results.

    The text of the settings is part of the token of each output. A new setting adds a word only if it
    differs from the default, so that existing URLs stay.
    `max_width` and `max_height` are the largest sides of the output, in pixels (0: no limit).
    """

    quality: Quality = Quality(50, relative=True)
    format: OutputFormat = OutputFormat.KEEP
    progressive: bool = False
    max_width: int = 0
    max_height: int = 0
    effort: Effort = Effort.FAST

    @classmethod
    def parse(cls, text: str) -> CompressionSettings:
        """Return the settings of the text `str(settings)`, also of one that version 1.0 stored."""
        quality, output_format, *words = text.split()
        values = dict(word.partition("=")[::2] for word in words)
        return cls(
            Quality.parse(quality),
            OutputFormat(output_format),
            "progressive" in values,
            int(values.get("max_width", 0)),
            int(values.get("max_height", 0)),
            Effort(values.get("effort", Effort.FAST)),
        )

    def __str__(self) -> str:
        words = [
            str(self.quality),
            str(self.format),
            *(["progressive"] if self.progressive else []),
        ]
        # Defaults are left out, so that the settings of version 1.0 have the same text as there.
        effort = "" if self.effort is Effort.FAST else self.effort
        options = {"max_width": self.max_width, "max_height": self.max_height, "effort": effort}
        return " ".join(words + [f"{name}={value}" for name, value in options.items() if value])


@dataclass(frozen=True, slots=True)
class ThumbnailSettings:
    """Settings of a thumbnail: a WebP of the first frame, with no metadata, and never enlarged.

    `max_side` is the longest side in pixels, `quality` that of WebP. A change of the defaults needs
    another `ETag` of thumbnails.
    """

    max_side: int = 320
    quality: int = 75


WorkerSettings = CompressionSettings | ThumbnailSettings
"""What a worker does with an image."""


class Note(StrEnum):
    """Something that an output lacks, although its source has it."""

    GAIN_MAP_DROPPED = "gain-map-dropped"
    TONE_MAPPED = "tone-mapped"
    FIRST_FRAME = "first-frame"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Properties of a compressed image. Formats are lower-case names.

    `source_quality` is None if the source's format records no quality. `kept` is true if the source's
    own image data was kept; `quality` is None then. `notes` lists what the output lacks. `digest` is
    the SHA-256 of the output, or None if the info was read from the database.
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
    notes: tuple[Note, ...] = ()
    digest: bytes | None = field(default=None, compare=False)


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
    each.value: each.traits.extension for each in ImageFormat if each.traits.is_output
}
"""The file name extension of each output format."""


MEDIA_TYPES: Mapping[str, str] = {
    each.traits.extension: each.traits.media_type for each in ImageFormat if each.traits.is_output
}
"""The media type of each output extension."""
