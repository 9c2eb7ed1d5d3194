"""Decode image files into upright frames in normalised colours. Pixels are counted before decoding."""

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
from imgsvc.images.sniff import ImageFormat
from imgsvc.images.strip import strip


@dataclass(slots=True)
class DecodedImage:
    """A decoded image.

    Its frames are upright, of equal size, and in mode L, LA, RGB or RGBA. `icc` is their colour
    profile (None: sRGB). `quality` is None if the format records none. `play_count` is the number
    of times an animation plays (0: endless). If `pixel_array` is set, it holds the pixels, and only
    the size of the frame is valid. `min_stripped_bytes` is a lower bound for the size of the source
    file without metadata.
    """

    image_format: ImageFormat
    frames: list[Frame]
    icc: bytes | None = None
    quality: int | None = None
    play_count: int = 0
    pixel_array: fast_jpeg.PixelArray | None = None
    min_stripped_bytes: int = 0

    @property
    def first_image(self) -> Image.Image:
        """The first frame."""
        return self.frames[0].image

    @property
    def has_alpha(self) -> bool:
        """Whether any frame has an alpha channel."""
        return any(frame.image.mode in {"LA", "RGBA"} for frame in self.frames)


@dataclass(slots=True)
class DecodeLimits:
    """Limits and options of a decoder.

    `max_pixels` limits the pixels of all frames together. `animated` makes it decode all frames, not
    only the first. `allow_pixel_array` allows it to return a JPEG as a pixel array.
    `declared_pixels` is set to the number of pixels in the file's header.
    """

    max_pixels: int
    animated: bool
    allow_pixel_array: bool = False
    declared_pixels: int = 0

    def check(self, width: int, height: int, frames: int = 1) -> None:
        """Raise `too_many_pixels` above the limit, or `corrupt_image` for an image without pixels."""
        if width < 1 or height < 1:
            raise corrupt("The image has no pixels.")
        if width * height * frames > self.max_pixels:
            raise too_many_pixels(width, height, frames, self.max_pixels)
        self.declared_pixels = max(self.declared_pixels, width * height * frames)


def decode(data: bytes, image_format: ImageFormat, limits: DecodeLimits) -> DecodedImage:
    """Decode all frames of an image, or only the first unless `limits.animated` is set.

    Raise ImageError. For damaged files, Pillow may raise any other exception.
    """
    return _IMAGE_DECODERS[image_format](data, limits)


def unsupported_variant(data: bytes, image_format: ImageFormat) -> ImageError | None:
    """Return an `unsupported_format` error if a file is complete but of an unsupported variant.

    Called for files that could not be decoded. Return None if the file is damaged.
    """
    if image_format is ImageFormat.JPEG:
        name = jpeg.unsupported_coding(data)
        return unsupported(name) if name else None
    reader = {ImageFormat.BMP: BmpImageFile, ImageFormat.TIFF: TiffImageFile}.get(image_format)
    if reader is None or not {ImageFormat.BMP: bmp.has_header, ImageFormat.TIFF: tiff.has_header}[
        image_format
    ](data):
        return None
    try:
        reader(io.BytesIO(data)).close()
    except Exception:  # noqa: BLE001 - Pillow raises any exception for unsupported files
        return unsupported(f"This variant of {image_format.upper()} files")
    return None


def _decode_jpeg(data: bytes, limits: DecodeLimits) -> DecodedImage:
    with JpegImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        quality = _jpeg_quality(image)
        orientation = exif.orientation(image.info.get("exif"))
        if limits.allow_pixel_array and image.mode == "RGB" and orientation == 1:
            decoded = _decode_jpeg_fast(data, image, quality)
            if decoded is not None:
                return decoded
        image.load()
        if _is_fill_colour(image.getpixel((image.width - 1, image.height - 1))):
            with JpegImageFile(io.BytesIO(jpeg.with_extra_coded_data(data))) as extended:
                extended.load()
                if extended.tobytes() != image.tobytes():
                    raise truncated()
        return _single_frame(ImageFormat.JPEG, *_normalised(image), orientation, quality)


def _decode_jpeg_fast(
    data: bytes, image: JpegImageFile, quality: int | None
) -> DecodedImage | None:
    """Decode a JPEG into a pixel array. Return None if Pillow has to decode it."""
    try:
        coded_bytes = jpeg.coded_bytes(data)
    except ImageError:
        return None
    pixel_array = fast_jpeg.decode(data, *image.size)
    if pixel_array is None or _is_fill_colour(tuple(pixel_array[-1, -1].tolist())):
        return None
    icc = colour.rgb_profile(image.info.get("icc_profile"))
    return DecodedImage(
        ImageFormat.JPEG,
        [Frame(image)],
        icc,
        quality,
        pixel_array=pixel_array,
        min_stripped_bytes=coded_bytes,
    )


def _is_fill_colour(pixel: float | tuple[int, ...] | None) -> bool:
    """Return whether the last pixel has the grey that libjpeg uses for missing coded data."""
    return set(pixel if isinstance(pixel, tuple) else (pixel,)) <= {127, 128}


def _jpeg_quality(image: JpegImageFile) -> int | None:
    tables = image.quantization
    used = list(dict.fromkeys(layer[3] for layer in image.layer if layer[3] in tables))
    return jpeg_quality(*(tables[number] for number in used[:2])) if used else None


def _normalised(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    image.load()
    icc = image.info.get("icc_profile")
    return colour.normalise(image, icc if isinstance(icc, bytes) else None)


def _single_frame(
    image_format: ImageFormat,
    image: Image.Image,
    icc: bytes | None,
    orientation: int = 1,
    quality: int | None = None,
) -> DecodedImage:
    return DecodedImage(
        image_format, [Frame(exif.apply_orientation(image, orientation))], icc, quality
    )


def _with_frames(
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


def _decode_png(data: bytes, limits: DecodeLimits) -> DecodedImage:
    file = png.read(data)
    limits.check(file.width, file.height, max(len(file.frames), 1))
    orientation = exif.orientation(file.exif)
    if not file.frames:
        pixels = _png_pixels(file.default_image_file(), file.data, file)
        normalised = colour.normalise(pixels, file.profile)
        return _single_frame(ImageFormat.PNG, *normalised, orientation)
    decoded = DecodedImage(ImageFormat.PNG, [], play_count=file.play_count)
    profile = file.profile

    def layers() -> Iterator[Layer]:
        for frame in file.frames:
            pixels = _png_pixels(file.frame_file(frame), frame.data, file)
            image, decoded.icc = colour.to_rgb(*colour.normalise(pixels, profile))
            offset = frame.box[:2]
            yield Layer(image.convert("RGBA"), offset, frame.disposal, frame.blend, frame.duration)

    return _with_frames(decoded, compose((file.width, file.height), layers()), limits, orientation)


def _png_pixels(pixels: bytes, data: Sequence[bytes], file: png.Png) -> Image.Image:
    """Decode a PNG file that contains only the image data `data`, and apply its transparent colour."""
    with PngImageFile(io.BytesIO(pixels)) as image:
        image.load()
        if _has_blank_end(image) and file.is_truncated(*image.size, data):
            raise truncated()
        colour_key = file.colour_key
        if colour_key is None:
            return image
        image.info.pop("transparency", None)
        if file.depth == 16 and len(colour_key) == 1:
            grey = colour.scale_to_8_bit(image, 65_535)
            grey.putalpha(ImageChops.invert(colour.equality_mask(image, colour_key[0])))
            return grey
        converted = image.convert("L" if len(colour_key) == 1 else "RGB")
        shift, top = max(file.depth - 8, 0), (1 << min(file.depth, 8)) - 1
        key = tuple((value >> shift & top) * 255 // top for value in colour_key)
        converted.info["transparency"] = key[0] if len(key) == 1 else key
        return converted.convert("LA" if len(key) == 1 else "RGBA")


def _has_blank_end(image: Image.Image) -> bool:
    """Return whether one of the last two rows is all zero. Pillow fills missing rows with zeros."""
    width, height = image.size
    rows = range(max(height - 2, 0), height)
    return not all(any(image.crop((0, row, width, row + 1)).tobytes()) for row in rows)


def _decode_gif(data: bytes, limits: DecodeLimits) -> DecodedImage:
    file = gif.read(data)
    size = file.size
    limits.check(*size, len(file.frames))
    for frame in file.frames:
        limits.check(frame.width, frame.height)

    def layers() -> Iterator[Layer]:
        for frame in file.frames:
            with GifImageFile(io.BytesIO(file.frame_file(frame))) as image:
                image.load()
                pixels = image.convert("RGBA")
            offset = (frame.left, frame.top)
            yield Layer(pixels, offset, frame.disposal, True, frame.duration)

    return _with_frames(
        DecodedImage(ImageFormat.GIF, [], play_count=file.play_count),
        compose(size, layers()),
        limits,
    )


def _decode_webp(data: bytes, limits: DecodeLimits) -> DecodedImage:
    file = webp.read(data)
    limits.check(file.width, file.height, file.frames)
    orientation = exif.orientation(file.exif)
    with WebPImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size, image.n_frames)
        if image.n_frames == 1:
            return _single_frame(ImageFormat.WEBP, *_normalised(image), orientation)
        decoded = DecodedImage(ImageFormat.WEBP, [], play_count=image.info.get("loop", 0))
        return _with_pillow_frames(decoded, image, limits, orientation)


def _with_pillow_frames(
    decoded: DecodedImage, image: ImageFile, limits: DecodeLimits, orientation: int
) -> DecodedImage:
    """Return `decoded` with the frames of an animation that Pillow composes correctly."""

    def frames() -> Iterator[Frame]:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            pixels, decoded.icc = colour.to_rgb(*_normalised(image.copy()))
            yield Frame(pixels.convert("RGBA"), image.info.get("duration", 0))

    return _with_frames(decoded, frames(), limits, orientation)


def _decode_avif(data: bytes, limits: DecodeLimits) -> DecodedImage:
    isobmff.check_complete(data)
    # Strip the metadata first: Pillow rejects an image whose metadata is damaged.
    with AvifImageFile(io.BytesIO(strip(data, ImageFormat.AVIF))) as image:
        limits.check(*image.size, image.n_frames)
        orientation = exif.orientation(image.info.get("exif"))
        if "icc_profile" not in image.info and (points := isobmff.code_points(data)):
            image.info["icc_profile"] = icc.from_code_points(*points)
        if image.n_frames == 1:
            return _single_frame(ImageFormat.AVIF, *_normalised(image), orientation)
        return _with_pillow_frames(
            DecodedImage(ImageFormat.AVIF, [], play_count=isobmff.play_count(data)),
            image,
            limits,
            orientation,
        )


def _decode_heic(data: bytes, limits: DecodeLimits) -> DecodedImage:
    if find_spec("pillow_heif") is None:
        raise unsupported("HEIC files", "To support them, install imgsvc[heic] on the server.")
    isobmff.check_complete(data)
    with import_module("pillow_heif").HeifImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        return _single_frame(ImageFormat.HEIC, *_normalised(image))


def _decode_bmp(data: bytes, limits: DecodeLimits) -> DecodedImage:
    with BmpImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        image.load()
        if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
            return _single_frame(ImageFormat.BMP, image.convert("RGB"), None)
        return _single_frame(ImageFormat.BMP, *colour.normalise(image, bmp.icc_profile(data)))


def _decode_tiff(data: bytes, limits: DecodeLimits) -> DecodedImage:
    if not tiff.has_header(data):
        raise truncated()
    with TiffImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        page = tiff.read_page(image)
        page.check_complete(len(data))
        image.load()
        return _single_frame(
            ImageFormat.TIFF, *colour.normalise(page.to_8_bit(image), image.info.get("icc_profile"))
        )


_IMAGE_DECODERS: dict[ImageFormat, Callable[[bytes, DecodeLimits], DecodedImage]] = {
    ImageFormat.JPEG: _decode_jpeg,
    ImageFormat.PNG: _decode_png,
    ImageFormat.WEBP: _decode_webp,
    ImageFormat.GIF: _decode_gif,
    ImageFormat.AVIF: _decode_avif,
    ImageFormat.BMP: _decode_bmp,
    ImageFormat.TIFF: _decode_tiff,
    ImageFormat.HEIC: _decode_heic,
}
