"""The interface of a format's codec, and what the codecs share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise
from types import ModuleType
from typing import Any, NamedTuple

from PIL import Image
from PIL.ImageFile import ImageFile

from imgsvc.errors import ImageError
from imgsvc.image_types import CompressionSettings, Effort, ImageFormat
from imgsvc.images import colour, exif, icc_parser
from imgsvc.images.compose import Frame
from imgsvc.images.errors import corrupt, too_many_pixels
from imgsvc.images.part_limits import check_frames
from imgsvc.images.resize import Bounds, PixelSize

INDEXED_MODES = frozenset({"1", "P", "PA"})
"""Pillow's modes of images that are bilevel or have a palette."""


@dataclass(slots=True)
class DecodedImage:
    """A decoded image.

    Its frames are upright, of equal size, and in mode L, LA, RGB or RGBA. `icc` is their colour
    profile (None: sRGB). `quality` is None if the format records none. `play_count` is the number
    of times an animation plays (0: endless). `min_stripped_bytes` is a lower bound for the size of the
    source file without metadata. `source_frames` is the number of frames of the source.
    `is_tone_mapped` is true if the source has a high dynamic range. `is_indexed` is true if the source
    is bilevel or has a palette. `full_size` is the upright size of the source, or None if the frames
    have this size. `repaired` is the source file with its damage repaired, or None if it needs none.
    """

    image_format: ImageFormat
    frames: list[Frame]
    icc: bytes | None = None
    quality: int | None = None
    play_count: int = 0
    min_stripped_bytes: int = 0
    source_frames: int = 1
    is_tone_mapped: bool = False
    is_indexed: bool = False
    full_size: PixelSize | None = None
    repaired: bytes | None = None

    @property
    def first_image(self) -> Image.Image:
        """The first frame."""
        return self.frames[0].image

    @property
    def has_alpha(self) -> bool:
        """Whether any frame has an alpha channel."""
        return any(frame.image.mode in {"LA", "RGBA"} for frame in self.frames)

    def frames_as_rgb(self) -> tuple[list[Frame], bytes | None]:
        """Return the frames as RGB or RGBA, and their colour profile."""
        pairs = [(colour.to_rgb(frame.image, self.icc), frame.duration) for frame in self.frames]
        return [Frame(image, duration) for (image, _), duration in pairs], pairs[0][0][1]


@dataclass(slots=True)
class DecodeLimits:
    """Limits and options of a decoder.

    `max_pixels` limits the pixels of all frames together. `animated` makes it decode all frames, not
    only the first. `bounds` is the largest size of the output: a decoder may use it to read a larger
    image at a fraction of its size. `declared_pixels` is set to the number of pixels in the file's
    header.
    """

    max_pixels: int
    animated: bool
    bounds: Bounds = field(default_factory=Bounds)
    declared_pixels: int = 0

    def check(self, width: int, height: int, frames: int = 1) -> None:
        """Raise `too_many_pixels` above a limit, or `corrupt_image` for an image without pixels."""
        if width < 1 or height < 1:
            raise corrupt("The image has no pixels.")
        check_frames(frames)
        if width * height * frames > self.max_pixels:
            raise too_many_pixels(width, height, frames, self.max_pixels)
        self.declared_pixels = max(self.declared_pixels, width * height * frames)


class Transcoded(NamedTuple):
    """A file compressed without decoding its pixels. `source` has a frame of the right size only."""

    source: DecodedImage
    output: bytes
    quality: int


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """Settings of an encoder. `quality` is 1 to 100; `progressive` is for JPEG only.

    Encoders may spend more time at `Effort.SMALL`, where that makes files smaller.
    """

    quality: int
    progressive: bool = False
    effort: Effort = Effort.FAST


def _fits_always(_: DecodedImage) -> bool:
    return True


def _is_damaged(_: bytes) -> str | None:
    return None


def _has_no_gain_map(_: bytes) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Codec:
    """Everything about one image format: the object `CODEC` of its module.

    `matches` returns whether a file is of this format, given its first bytes. `decode` may raise any
    exception for damaged files. `encode` is None if the format is only read. `remove_metadata` is None
    if the format has no metadata, or if sources of this format are always converted. `fits` returns
    whether the format allows such an animation; the largest side is in the table.
    `unsupported_variant` names the variant of a complete file that cannot be decoded, or returns None
    if the file is damaged. `repair` is called if `decode` fails: it returns a damaged file that
    browsers show whole as a valid file, or raises `corrupt_image` if image data is missing.
    `has_gain_map` returns whether a file has a gain map. `transcode` compresses a file without decoding
    its pixels; it returns None or raises any exception if they are needed, or if the file is damaged.
    `peak_bytes_per_pixel` is the peak memory of
    decoding or encoding, measured and rounded up. `pillow_settings` (module, name, value) are set while
    an image is compressed.
    """

    matches: Callable[[bytes], bool]
    decode: Callable[[bytes, DecodeLimits], DecodedImage]
    encode: Callable[[DecodedImage, EncodeSettings], bytes] | None = None
    remove_metadata: Callable[[bytes], bytes] | None = None
    fits: Callable[[DecodedImage], bool] = _fits_always
    unsupported_variant: Callable[[bytes], str | None] = _is_damaged
    repair: Callable[[bytes, DecodeLimits], bytes] | None = None
    has_gain_map: Callable[[bytes], bool] = _has_no_gain_map
    transcode: Callable[[bytes, CompressionSettings, DecodeLimits], Transcoded | None] | None = None
    peak_bytes_per_pixel: int = 16
    pillow_settings: tuple[tuple[ModuleType, str, object], ...] = ()

    def strip(self, data: bytes) -> bytes:
        """Return the file without metadata. The result is never larger than `data`.

        Keep the orientation, the colour profile and the animation. If the structure of the file cannot
        be parsed (decoders are more lenient), return the file unchanged.
        """
        if self.remove_metadata is None:
            return data
        try:
            stripped = self.remove_metadata(data)
        except (ImageError, IndexError, ValueError):
            return data
        return stripped if len(stripped) <= len(data) else data


def normalised(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """Return the pixels of an image that Pillow opened as L, LA, RGB or RGBA, and its ICC profile."""
    image.load()
    icc = image.info.get("icc_profile")
    return colour.normalise(image, icc if isinstance(icc, bytes) else None)


def is_hdr(image: Image.Image) -> bool:
    """Return whether the profile of an image that Pillow opened has a high dynamic range."""
    icc = image.info.get("icc_profile")
    return isinstance(icc, bytes) and icc_parser.hdr(icc) is not None


def single_frame(
    image_format: ImageFormat,
    image: Image.Image,
    icc: bytes | None,
    orientation: int = 1,
    quality: int | None = None,
    *,
    is_tone_mapped: bool = False,
) -> DecodedImage:
    """Return a decoded image of one frame, given its EXIF orientation."""
    frames = [Frame(exif.apply_orientation(image, orientation))]
    return DecodedImage(image_format, frames, icc, quality, is_tone_mapped=is_tone_mapped)


def with_frames(
    decoded: DecodedImage, frames: Iterable[Frame], limits: DecodeLimits, orientation: int = 1
) -> DecodedImage:
    """Return `decoded` with its frames set: all of them, or the first unless `limits.animated`."""
    selected = frames if limits.animated else islice(frames, 1)
    upright = [
        Frame(exif.apply_orientation(frame.image, orientation), frame.duration)
        for frame in selected
    ]
    opaque = [colour.drop_opaque_alpha(frame.image) for frame in upright]
    if all(image.mode == "RGB" for image in opaque):
        upright = [
            Frame(image, frame.duration) for image, frame in zip(opaque, upright, strict=True)
        ]
    decoded.frames = upright
    return decoded


def with_pillow_frames(
    decoded: DecodedImage, image: ImageFile, limits: DecodeLimits, orientation: int
) -> DecodedImage:
    """Return `decoded` with the frames of an animation that Pillow composes correctly."""
    decoded.source_frames = getattr(image, "n_frames", 1)
    decoded.is_tone_mapped = is_hdr(image)

    def frames() -> Iterator[Frame]:
        for number in range(decoded.source_frames):
            image.seek(number)
            image.load()
            pixels, decoded.icc = colour.to_rgb(*normalised(image.copy()))
            yield Frame(pixels.convert("RGBA"), image.info.get("duration", 0))

    return with_frames(decoded, frames(), limits, orientation)


def animation_options(frames: list[Frame]) -> dict[str, Any]:
    """Return the options with which Pillow writes an animation."""
    return {
        "save_all": True,
        "append_images": [frame.image for frame in frames[1:]],
        "duration": _whole_durations(frames),
    }


def _whole_durations(frames: list[Frame]) -> list[int]:
    """Return durations in whole milliseconds, rounded so that the frames start at the right time."""
    ends = [round(end) for end in accumulate(frame.duration for frame in frames)]
    return [end - start for start, end in pairwise([0, *ends])]


def save(image: Image.Image, pillow_format: str, **options: Any) -> bytes:
    """Return the image as a file that Pillow writes, without the metadata of its source."""
    out = io.BytesIO()
    image.info = {}
    image.save(out, pillow_format, **options)
    return out.getvalue()


def rejected_variant(data: bytes, image_format: ImageFormat, reader: type[ImageFile]) -> str | None:
    """Return what is unsupported if Pillow's reader rejects a file with a valid header, or None."""
    try:
        reader(io.BytesIO(data)).close()
    except Exception:  # noqa: BLE001 - Pillow raises any exception for unsupported files
        return f"This variant of {image_format.upper()} files"
    return None
