"""Bytes in, frames out: upright, in true colours, counted before they are decoded."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice

from PIL import Image, ImageChops
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imgsvc.errors import ImageError
from imgsvc.images import bmp, colour, exif, fast_jpeg, gif, icc, isobmff, jpeg, png, tiff, webp
from imgsvc.images.compose import Frame, Layer, compose
from imgsvc.images.errors import corrupt, too_many_pixels, truncated, unsupported
from imgsvc.images.jpeg_quality import jpeg_quality
from imgsvc.images.sniff import Kind
from imgsvc.images.strip import strip


@dataclass(slots=True)
class Source:
    """A decoded picture.

    Its frames are upright, all of one size, and L, LA, RGB or RGBA in the colours of `icc` (None:
    sRGB). `quality` is None where the format records none. `plays` is how often an animation runs,
    0 for ever. Where there are `rows`, they are the picture, and its frame tells no more than its
    size. `least_bytes` is what its own file has without metadata, or less.
    """

    kind: Kind
    frames: list[Frame]
    icc: bytes | None = None
    quality: int | None = None
    plays: int = 0
    rows: fast_jpeg.Rows | None = None
    least_bytes: int = 0

    @property
    def first(self) -> Image.Image:
        return self.frames[0].image

    @property
    def transparent(self) -> bool:
        return any(frame.image.mode in {"LA", "RGBA"} for frame in self.frames)


@dataclass(slots=True)
class Limits:
    """What a decoder may do: so many pixels in all frames, and whether it decodes more than one.

    `rows` says that a JPEG may come as rows; `counted` is the number of pixels that a header declared.
    """

    max_pixels: int
    animated: bool
    rows: bool = False
    counted: int = 0

    def check(self, width: int, height: int, frames: int = 1) -> None:
        """Raise `too_many_pixels`, or `corrupt_image` where there are none."""
        if width < 1 or height < 1:
            raise corrupt("The picture has no pixels")
        if width * height * frames > self.max_pixels:
            raise too_many_pixels(width, height, frames, self.max_pixels)
        self.counted = max(self.counted, width * height * frames)


def decode(data: bytes, kind: Kind, limits: Limits) -> Source:
    """Decode a picture of the format `kind`, or its first frame where `limits` ask for no more.

    Raises ImageError; for damaged files also whatever Pillow raises.
    """
    return _DECODERS[kind](data, limits)


def unusual(data: bytes, kind: Kind) -> ImageError | None:
    """`unsupported_format` where a file that could not be decoded is whole, but of a rare kind."""
    if kind is Kind.JPEG:
        name = jpeg.unusual(data)
        return unsupported(name) if name else None
    opener = {Kind.BMP: BmpImageFile, Kind.TIFF: TiffImageFile}.get(kind)
    if opener is None or not {Kind.BMP: bmp.has_header, Kind.TIFF: tiff.has_header}[kind](data):
        return None
    try:
        opener(io.BytesIO(data)).close()
    except Exception:  # noqa: BLE001 - Pillow raises anything for what it does not read
        return unsupported(f"This variant of {kind.upper()}")
    return None


def _jpeg(data: bytes, limits: Limits) -> Source:
    with JpegImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        quality = _quality(image)
        turn = exif.orientation(image.info.get("exif"))
        if limits.rows and image.mode == "RGB" and turn == 1:
            source = _plain_jpeg(data, image, quality)
            if source is not None:
                return source
        image.load()
        if _is_filling(image.getpixel((image.width - 1, image.height - 1))):
            with JpegImageFile(io.BytesIO(jpeg.prolonged(data))) as longer:
                longer.load()
                if longer.tobytes() != image.tobytes():
                    raise truncated()
        return _still(Kind.JPEG, *_settled(image), turn, quality)


def _plain_jpeg(data: bytes, image: JpegImageFile, quality: int | None) -> Source | None:
    """The picture as rows; None where it has to be looked at more closely."""
    try:
        coded_bytes = jpeg.coded_bytes(data)
    except ImageError:
        return None
    rows = fast_jpeg.decode(data, *image.size)
    if rows is None or _is_filling(tuple(rows[-1, -1].tolist())):
        return None
    icc = colour.rgb_profile(image.info.get("icc_profile"))
    return Source(Kind.JPEG, [Frame(image)], icc, quality, rows=rows, least_bytes=coded_bytes)


def _is_filling(pixel: float | tuple[int, ...] | None) -> bool:
    """Whether a pixel, the last one, is the grey that libjpeg puts where coded data is missing."""
    return set(pixel if isinstance(pixel, tuple) else (pixel,)) <= {127, 128}


def _quality(image: JpegImageFile) -> int | None:
    tables = image.quantization
    used = list(dict.fromkeys(layer[3] for layer in image.layer if layer[3] in tables))
    return jpeg_quality(*(tables[number] for number in used[:2])) if used else None


def _settled(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    image.load()
    icc = image.info.get("icc_profile")
    return colour.settle(image, icc if isinstance(icc, bytes) else None)


def _still(
    kind: Kind, image: Image.Image, icc: bytes | None, turn: int = 1, quality: int | None = None
) -> Source:
    return Source(kind, [Frame(exif.upright(image, turn))], icc, quality)


def _animation(source: Source, frames: Iterable[Frame], limits: Limits, turn: int = 1) -> Source:
    """The source with the frames, or the first alone where no more are asked for."""
    wanted = frames if limits.animated else islice(frames, 1)
    film = [Frame(exif.upright(frame.image, turn), frame.duration) for frame in wanted]
    opaque = [colour.without_idle_alpha(frame.image) for frame in film]
    if all(image.mode == "RGB" for image in opaque):
        film = [Frame(image, frame.duration) for image, frame in zip(opaque, film, strict=True)]
    source.frames = film
    return source


def _png(data: bytes, limits: Limits) -> Source:
    file = png.read(data)
    limits.check(file.width, file.height, max(len(file.parts), 1))
    turn = exif.orientation(file.exif)
    if not file.parts:
        pixels = _png_pixels(file.still(), file.data, file)
        settled = colour.settle(pixels, file.profile)
        return _still(Kind.PNG, *settled, turn)
    source = Source(Kind.PNG, [], plays=file.plays)
    profile = file.profile

    def layers() -> Iterator[Layer]:
        for part in file.parts:
            pixels = _png_pixels(file.frame(part), part.data, file)
            image, source.icc = colour.as_rgb(*colour.settle(pixels, profile))
            offset = part.box[:2]
            yield Layer(image.convert("RGBA"), offset, part.disposal, part.over, part.duration)

    return _animation(source, compose((file.width, file.height), layers()), limits, turn)


def _png_pixels(pixels: bytes, data: Sequence[bytes], file: png.Png) -> Image.Image:
    """The pixels of a PNG file that holds nothing but `data`, its transparent colour applied."""
    with PngImageFile(io.BytesIO(pixels)) as image:
        image.load()
        if _has_empty_end(image) and file.is_short(*image.size, data):
            raise truncated()
        colour_key = file.colour_key
        if colour_key is None:
            return image
        image.info.pop("transparency", None)
        if file.depth == 16 and len(colour_key) == 1:
            grey = colour.scaled(image, 65_535)
            grey.putalpha(ImageChops.invert(colour.equal_to(image, colour_key[0])))
            return grey
        plain = image.convert("L" if len(colour_key) == 1 else "RGB")
        shift, top = max(file.depth - 8, 0), (1 << min(file.depth, 8)) - 1
        key = tuple((value >> shift & top) * 255 // top for value in colour_key)
        plain.info["transparency"] = key[0] if len(key) == 1 else key
        return plain.convert("LA" if len(key) == 1 else "RGBA")


def _has_empty_end(image: Image.Image) -> bool:
    """Whether one of the last two rows is zero throughout, as Pillow leaves those without data."""
    width, height = image.size
    rows = range(max(height - 2, 0), height)
    return not all(any(image.crop((0, row, width, row + 1)).tobytes()) for row in rows)


def _gif(data: bytes, limits: Limits) -> Source:
    file = gif.read(data)
    size = file.size
    limits.check(*size, len(file.parts))
    for part in file.parts:
        limits.check(part.width, part.height)

    def layers() -> Iterator[Layer]:
        for part in file.parts:
            with GifImageFile(io.BytesIO(file.frame(part))) as image:
                image.load()
                pixels = image.convert("RGBA")
            offset = (part.left, part.top)
            yield Layer(pixels, offset, part.disposal, True, part.duration)

    return _animation(Source(Kind.GIF, [], plays=file.plays), compose(size, layers()), limits)


def _webp(data: bytes, limits: Limits) -> Source:
    file = webp.read(data)
    limits.check(file.width, file.height, file.frames)
    turn = exif.orientation(file.exif)
    with WebPImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size, image.n_frames)
        if image.n_frames == 1:
            return _still(Kind.WEBP, *_settled(image), turn)
        source = Source(Kind.WEBP, [], plays=image.info.get("loop", 0))
        return _film(source, image, limits, turn)


def _film(source: Source, image: ImageFile, limits: Limits, turn: int) -> Source:
    """The source with the frames of an animation that Pillow itself composes rightly."""

    def frames() -> Iterator[Frame]:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            pixels, source.icc = colour.as_rgb(*_settled(image.copy()))
            yield Frame(pixels.convert("RGBA"), image.info.get("duration", 0))

    return _animation(source, frames(), limits, turn)


def _avif(data: bytes, limits: Limits) -> Source:
    isobmff.check_whole(data)
    # without metadata, for Pillow takes damage there for damage to the picture
    with AvifImageFile(io.BytesIO(strip(data, Kind.AVIF))) as image:
        limits.check(*image.size, image.n_frames)
        turn = exif.orientation(image.info.get("exif"))
        if "icc_profile" not in image.info and (points := isobmff.code_points(data)):
            image.info["icc_profile"] = icc.from_code_points(*points)
        if image.n_frames == 1:
            return _still(Kind.AVIF, *_settled(image), turn)
        return _film(Source(Kind.AVIF, [], plays=isobmff.plays(data)), image, limits, turn)


def _heic(data: bytes, limits: Limits) -> Source:
    if find_spec("pillow_heif") is None:
        raise unsupported("HEIC", "the server reads it with the extra imgsvc[heic] installed")
    isobmff.check_whole(data)
    with import_module("pillow_heif").HeifImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        return _still(Kind.HEIC, *_settled(image))


def _bmp(data: bytes, limits: Limits) -> Source:
    with BmpImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        image.load()
        if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
            return _still(Kind.BMP, image.convert("RGB"), None)
        return _still(Kind.BMP, *colour.settle(image, bmp.profile(data)))


def _tiff(data: bytes, limits: Limits) -> Source:
    if not tiff.has_header(data):
        raise truncated()
    with TiffImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        page = tiff.page(image)
        page.check_whole(len(data))
        image.load()
        return _still(Kind.TIFF, *colour.settle(page.pixels(image), image.info.get("icc_profile")))


_DECODERS: dict[Kind, Callable[[bytes, Limits], Source]] = {
    Kind.JPEG: _jpeg,
    Kind.PNG: _png,
    Kind.WEBP: _webp,
    Kind.GIF: _gif,
    Kind.AVIF: _avif,
    Kind.BMP: _bmp,
    Kind.TIFF: _tiff,
    Kind.HEIC: _heic,
}
