"""The AVIF format. `isobmff.py` parses its container."""

from __future__ import annotations

import io
from typing import Any

from PIL import AvifImagePlugin

from imgsvc.image_types import Effort, ImageFormat
from imgsvc.images import exif, icc_parser, isobmff
from imgsvc.images.formats.base import (
    Codec,
    DecodedImage,
    DecodeLimits,
    EncodeSettings,
    animation_options,
    is_hdr,
    normalised,
    save,
    single_frame,
    with_pillow_frames,
)

_SPEED, _SLOWER_SPEED = 8, 6
"""Speeds of libaom. The slower one takes 3 times as long, for 10 to 16 % fewer bytes."""

_SLOWER_PIXELS = {Effort.FAST: 100_000, Effort.SMALL: 20_000_000}
"""Pixels of all frames up to which the slower speed is used. More would need much of the time limit."""


def matches(head: bytes) -> bool:
    """Return whether a file starts like an AVIF."""
    return isobmff.kind(head) == "avif"


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode an AVIF."""
    isobmff.check(data)
    # Strip the metadata first: Pillow rejects an image whose metadata is damaged.
    with AvifImagePlugin.AvifImageFile(io.BytesIO(CODEC.strip(data))) as image:
        limits.check(*image.size, image.n_frames)
        orientation = exif.orientation(image.info.get("exif"))
        if "icc_profile" not in image.info and (icc := isobmff.colour_profile(data)):
            image.info["icc_profile"] = icc
        if image.n_frames == 1:
            return single_frame(
                ImageFormat.AVIF, *normalised(image), orientation, is_tone_mapped=is_hdr(image)
            )
        decoded = DecodedImage(ImageFormat.AVIF, [], play_count=isobmff.play_count(data))
        return with_pillow_frames(decoded, image, limits, orientation)


def encode(decoded: DecodedImage, settings: EncodeSettings) -> bytes:
    """Return the image as a lossy AVIF."""
    pixels = decoded.first_image.width * decoded.first_image.height * len(decoded.frames)
    speed = _SLOWER_SPEED if pixels <= _SLOWER_PIXELS[settings.effort] else _SPEED
    options: dict[str, Any] = {"quality": settings.quality, "speed": speed, "max_threads": 1}
    frames, icc = decoded.frames, decoded.icc
    if decoded.first_image.mode != "L":
        frames, icc = decoded.frames_as_rgb()
    if len(frames) > 1:
        options |= animation_options(frames)
    # Chromium does not show an AVIF with an invalid profile. In other formats it ignores the profile.
    icc = icc if icc is not None and icc_parser.is_valid(icc) else b""
    data = save(frames[0].image, "AVIF", icc_profile=icc, **options)
    return (
        isobmff.with_play_count(data, decoded.play_count)
        if len(decoded.frames) > 1 and decoded.play_count
        else data
    )


CODEC = Codec(
    matches,
    decode,
    encode,
    isobmff.strip,
    has_gain_map=isobmff.has_gain_map,
    peak_bytes_per_pixel=30,
    pillow_settings=((AvifImagePlugin, "DEFAULT_MAX_THREADS", 1),),
)
