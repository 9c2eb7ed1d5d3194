"""Frames in, bytes out."""

from __future__ import annotations

import io
from itertools import accumulate, pairwise
from typing import Any

from PIL import Image

from imgsvc.images import colour, fast_jpeg, gif_writer, isobmff, jpeg, palette, webp
from imgsvc.images.compose import Frame
from imgsvc.images.decode import Source
from imgsvc.images.sniff import Kind

_MAX_SIDES = {Kind.JPEG: jpeg.MAX_SIDE, Kind.WEBP: webp.MAX_SIDE, Kind.AVIF: isobmff.MAX_SIDE}
_ANIMATED = {Kind.GIF, Kind.WEBP, Kind.PNG, Kind.AVIF}
_WEBP_METHOD = 4
_AVIF_SPEED = 8
_AVIF_SPEED_OF_SMALL = 6
_SMALL = 100_000
"""Up to so many pixels, all frames counted, an AVIF takes little time however well it is made."""
_FEW_COLOURS = 16
"""Up to so many it pays to compress a PNG as far as it goes; beyond, it takes time for nothing."""
_MAX_LOOPS = _MAX_NUMBER = 65_535


def holds_animation(kind: Kind) -> bool:
    return kind in _ANIMATED


def fits(kind: Kind, source: Source) -> bool:
    """Whether the format can hold a picture as large, and an animation as long."""
    if kind is Kind.WEBP and len(source.frames) > 1:
        durations = [frame.duration for frame in source.frames]
        if max(durations) > webp.MAX_DURATION or sum(durations) > webp.MAX_WHOLE_DURATION:
            return False
    return max(source.first.size) <= _MAX_SIDES.get(kind, 2**31 - 1)


def encode(source: Source, kind: Kind, quality: int, *, progressive: bool) -> bytes:
    """The picture in the format `kind`, one that can be written, at `quality` (1 to 100).

    For PNG and GIF the quality is that share of 256 colours.
    """
    if kind is Kind.JPEG:
        return _jpeg(source, quality, progressive)
    if kind is Kind.WEBP:
        return _webp(source, quality)
    if kind is Kind.AVIF:
        return _avif(source, quality)
    colours = max(2, 256 * quality // 100)
    if kind is Kind.GIF:
        return gif_writer.write(source.frames, source.plays, colours)
    return _png(source, colours)


def _jpeg(source: Source, quality: int, progressive: bool) -> bytes:
    if source.rows is not None:
        data = fast_jpeg.encode(source.rows, quality, source.least_bytes)
        return jpeg.with_profile(data, source.icc)
    image = colour.on_white(source.first)
    return _save(
        image,
        "JPEG",
        quality=quality,
        optimize=True,
        progressive=progressive,
        icc_profile=source.icc,
    )


def _webp(source: Source, quality: int) -> bytes:
    frames, icc = _as_rgb(source)
    options: dict[str, Any] = {"quality": quality, "method": _WEBP_METHOD, "icc_profile": icc}
    if len(frames) > 1:
        options |= _film_options(frames) | {"loop": min(source.plays, _MAX_LOOPS)}
    return _save(frames[0].image, "WEBP", **options)


def _avif(source: Source, quality: int) -> bytes:
    small = source.first.width * source.first.height * len(source.frames) <= _SMALL
    speed = _AVIF_SPEED_OF_SMALL if small else _AVIF_SPEED
    options: dict[str, Any] = {"quality": quality, "speed": speed, "max_threads": 1}
    frames, icc = source.frames, source.icc
    if source.first.mode != "L":
        frames, icc = _as_rgb(source)
    if len(frames) > 1:
        options |= _film_options(frames)
    data = _save(frames[0].image, "AVIF", icc_profile=icc or b"", **options)
    return (
        isobmff.with_plays(data, source.plays) if len(source.frames) > 1 and source.plays else data
    )


def _png(source: Source, colours: int) -> bytes:
    frames, icc = source.frames, source.icc
    if source.first.mode != "L" or icc is not None:
        frames, icc = _as_rgb(source)
    reduced = palette.reduce([frame.image for frame in frames], colours)
    frames = [Frame(image, frame.duration) for image, frame in zip(reduced, frames, strict=True)]
    few = len(palette.entries(reduced[0])) <= _FEW_COLOURS
    options: dict[str, Any] = {"icc_profile": icc, "optimize": few}
    if len(frames) > 1:
        options |= _film_options(frames) | {"loop": source.plays}
        options["duration"] = [_fraction(frame.duration) for frame in frames]
    return _save(frames[0].image, "PNG", **options)


def _fraction(duration: float) -> float:
    """The duration, of milliseconds, as near as a PNG's two 16-bit numbers of a fraction come."""
    if duration <= _MAX_NUMBER:
        return duration
    seconds = min(duration / 1_000, _MAX_NUMBER)
    parts = int(_MAX_NUMBER // seconds)
    return 1_000 * min(round(seconds * parts), _MAX_NUMBER) / parts


def _as_rgb(source: Source) -> tuple[list[Frame], bytes | None]:
    pairs = [(colour.as_rgb(frame.image, source.icc), frame.duration) for frame in source.frames]
    return [Frame(image, duration) for (image, _), duration in pairs], pairs[0][0][1]


def _film_options(frames: list[Frame]) -> dict[str, Any]:
    return {
        "save_all": True,
        "append_images": [frame.image for frame in frames[1:]],
        "duration": _whole_durations(frames),
    }


def _whole_durations(frames: list[Frame]) -> list[int]:
    """Durations in whole milliseconds, rounded so that their sum is right at each frame."""
    ends = [round(end) for end in accumulate(frame.duration for frame in frames)]
    return [end - start for start, end in pairwise([0, *ends])]


def _save(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.info = {}
    image.save(out, form, **options)
    return out.getvalue()
