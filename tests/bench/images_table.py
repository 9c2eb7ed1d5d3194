"""Measure which images are compressed correctly, by format and size, and print a table.

    python -m tests.bench.images_table > table.md

The images are photographs and generated images. The reference is a plain Pillow save of the original
pixels with the same quality or palette size. An output is correct if:

- its size, its frames and their durations are right;
- its alpha differs from the original by at most 4 of 255, or by at most 1.1 times the difference of
  the reference;
- it is not larger than its source, if it has the same format;
- its mean ΔE2000 from the original pixels is at most 1.1 times that of the reference (differences of
  0.05 are invisible and ignored);
- its SSIM is at least 1/1.1 of that of the reference.
"""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

from imgsvc.image_types import CompressedImage, CompressionSettings, OutputFormat
from imgsvc.images import icc
from imgsvc.images.codec import compress_image, warm_up
from tests.image_assertions import encode_animation, encode_image, read_frames
from tests.sample_images import photograph
from tests.translucent_images import TRANSLUCENT_IMAGES
from tests.unit.test_hdr import GREYS, LEVELS, png_chunk

SIZES = {"s": (160, 120), "m": (320, 240), "l": (720, 540)}
DURATIONS = [100, 40, 300, 70]
LOSSY = {"quality": 96}


@dataclass
class Case:
    """A source file, and the frames that its output should show."""

    group: str
    data: bytes
    original: list[Image.Image]
    durations: list[int] = field(default_factory=list)
    target: str = "keep"


@dataclass
class Row:
    """The figures of one group."""

    count: int = 0
    correct: int = 0
    kept: int = 0
    larger: int = 0
    source_bytes: int = 0
    output_bytes: int = 0
    delta_e_ratios: list[float] = field(default_factory=list)
    ssim_ratios: list[float] = field(default_factory=list)
    white_ssims: list[float] = field(default_factory=list)
    black_ssims: list[float] = field(default_factory=list)


# --- images -----------------------------------------------------------------------------------


def clean_photograph(number: int, size: tuple[int, int]) -> Image.Image:
    image = photograph(number, *size)
    image.info = {}
    return image


def photographs() -> Iterator[Case]:
    """Yield 525 different cuts from photographs."""
    number = 0
    for size, pixels in SIZES.items():
        for file_format, count in (
            *(("JPEG", 55), ("PNG", 25), ("WEBP", 25), ("GIF", 25)),
            *(("AVIF", 20), ("BMP", 13), ("TIFF", 12)),
        ):
            for _ in range(count):
                number += 1
                image = clean_photograph(number, pixels)
                options: dict[str, Any] = {}
                if file_format in {"JPEG", "WEBP", "AVIF"}:
                    options = {"quality": 80 + number % 16}
                data = encode_image(image, file_format, **options)
                yield Case(f"{file_format} {size}", data, [read_frames(data)[0][0]])


def generated_images() -> Iterator[Case]:
    """Yield generated images with features that other programs often handle incorrectly."""
    size = SIZES["m"]
    for make in (
        rotated,
        translucent,
        soft_translucent,
        sixteen_bit,
        hdr,
        cmyk_images,
        with_profile,
        plain_modes,
        animations,
        tiny,
        low_quality,
    ):
        yield from make(size)


def rotated(size: tuple[int, int]) -> Iterator[Case]:
    transposes = [None, 0, 3, 1, 5, 4, 6, 2]
    for orientation in range(1, 9):
        for number, file_format in enumerate(["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]):
            image = clean_photograph(orientation * 5 + number, size)
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = encode_image(
                image, file_format, exif=exif, **(LOSSY if file_format[0] in "JWA" else {})
            )
            transpose = transposes[orientation - 1]
            encoded = read_frames(
                encode_image(image, file_format, **(LOSSY if file_format[0] in "JWA" else {}))
            )[0][0]
            original = (
                encoded if transpose is None else encoded.transpose(Image.Transpose(transpose))
            )
            yield Case("edge: orientation", data, [original])


def translucent(size: tuple[int, int]) -> Iterator[Case]:
    soft = Image.radial_gradient("L").resize(size).point([255] * 100 + list(range(255, 99, -1)))
    hard = soft.point([0] * 180 + [255] * 76)
    for number in range(4):
        for alpha in (soft, hard):
            image = clean_photograph(200 + number, size).convert("RGBA")
            image.putalpha(alpha)
            for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
                data = encode_image(image, file_format, **options)
                for target in ("keep", "jpeg"):
                    yield Case("edge: alpha", data, [image], target=target)


def soft_translucent(size: tuple[int, int]) -> Iterator[Case]:
    for kind, make in TRANSLUCENT_IMAGES.items():
        for number in (0, 1, 2, 6, 7):
            for pixels in (size, SIZES["l"]):
                image = make(number, pixels)
                yield Case(f"alpha: {kind}", encode_image(image, "PNG"), [image])


def sixteen_bit(size: tuple[int, int]) -> Iterator[Case]:
    random_numbers = np.random.default_rng(1)
    for number in range(8):
        grey = clean_photograph(240 + number, size).convert("L")
        values = np.asarray(grey).astype(np.int32) * 257 + random_numbers.integers(
            -128, 128, size[::-1]
        )
        image = Image.fromarray(np.clip(values, 0, 65_535).astype(np.uint16))
        for file_format in ("PNG", "TIFF"):
            yield Case("edge: 16 bit", encode_image(image, file_format), [grey])


def hdr(size: tuple[int, int]) -> Iterator[Case]:
    """Yield grey PQ and HLG images, whose levels Chromium shows as `GREYS` says."""
    for transfer in (16, 18):
        levels = np.interp(range(256), LEVELS, GREYS[transfer]).round().astype(np.uint8)
        for number in range(6):
            image = clean_photograph(250 + number, size).convert("L")
            shown = Image.fromarray(levels[np.asarray(image)]).convert("RGB")
            data = encode_image(image.convert("RGB"), "PNG")
            chunk = png_chunk(b"cICP", bytes([9, transfer, 0, 1]))
            for target in ("jpeg", "webp", "avif"):
                yield Case("edge: HDR", data[:33] + chunk + data[33:], [shown], target=target)


def cmyk_images(size: tuple[int, int]) -> Iterator[Case]:
    for number in range(8):
        image = clean_photograph(260 + number, size)
        cmyk = image.convert("CMYK")
        yield Case("edge: CMYK", encode_image(cmyk, "TIFF"), [image])
        data = encode_image(cmyk, "JPEG", quality=98)
        yield Case("edge: CMYK", data, [Image.open(io.BytesIO(data)).convert("RGB")])


def with_profile(size: tuple[int, int]) -> Iterator[Case]:
    wide = (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
    profile = icc.from_gamma(45_455, wide)
    for number in range(6):
        image = clean_photograph(280 + number, size)
        for file_format in ("JPEG", "PNG", "WEBP", "AVIF"):
            options = LOSSY if file_format != "PNG" else {}
            data = encode_image(image, file_format, icc_profile=profile, **options)
            yield Case("edge: profile", data, [read_frames(data)[0][0]])


def plain_modes(size: tuple[int, int]) -> Iterator[Case]:
    for number in range(3):
        for mode in ("1", "L", "P"):
            image = clean_photograph(300 + number, size).convert(mode)
            for file_format in ("PNG", "TIFF", "BMP"):
                yield Case("edge: modes", encode_image(image, file_format), [image.convert("RGB")])


def animations(size: tuple[int, int]) -> Iterator[Case]:
    for number in range(4):
        for mode in ("RGB", "RGBA"):
            background = clean_photograph(320 + number, size).convert("RGBA")
            frames = []
            for step in range(len(DURATIONS)):
                frame = background.copy() if mode == "RGB" else Image.new("RGBA", size)
                frame.paste(background.resize((80, 60)), (40 * step, 30 * step))
                frames.append(frame.convert(mode))
            for file_format, options in (
                ("GIF", {"disposal": 2}),
                ("PNG", {}),
                ("WEBP", {"lossless": True}),
            ):
                data = encode_animation(frames, file_format, duration=DURATIONS, **options)
                original = [frame for frame, _ in read_frames(data)]
                for target in ("keep", "webp"):
                    yield Case("edge: animation", data, original, DURATIONS, target)


def tiny(_: tuple[int, int]) -> Iterator[Case]:
    for size in ((1, 1), (1, 300), (300, 1), (7, 9)):
        for file_format in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"):
            data = encode_image(clean_photograph(340, size), file_format)
            yield Case("edge: tiny", data, [read_frames(data)[0][0]])


def low_quality(size: tuple[int, int]) -> Iterator[Case]:
    for quality in (1, 3, 5, 8, 10, 15, 20, 30):
        data = encode_image(clean_photograph(350 + quality, size), "JPEG", quality=quality)
        yield Case("edge: low-quality JPEG", data, [read_frames(data)[0][0]])


# --- figures -----------------------------------------------------------------------------------


def on_background(image: Image.Image, background: str = "white") -> NDArray[np.uint8]:
    canvas = Image.new("RGBA", image.size, background)
    canvas.alpha_composite(image.convert("RGBA"))
    return np.asarray(canvas.convert("RGB"))


def delta_e(one: Image.Image, other: Image.Image) -> float:
    """Return the mean ΔE2000 of two images on white."""
    labs = [rgb2lab(on_background(image)) for image in (one, other)]
    return float(deltaE_ciede2000(*labs).mean())  # type: ignore[no-untyped-call]


def ssim(one: Image.Image, other: Image.Image, background: str = "white") -> float:
    """Return the SSIM of two images on a background."""
    if min(one.size) < 7:
        return 1.0
    pair = on_background(one, background), on_background(other, background)
    return float(structural_similarity(*pair, channel_axis=2))  # type: ignore[no-untyped-call]


def plain_save(original: list[Image.Image], file_format: str, quality: int) -> list[Image.Image]:
    """Return the original frames after a plain Pillow save."""
    if file_format in {"png", "gif"}:
        return [quantized(image, max(2, 256 * quality // 100)) for image in original]
    if file_format == "jpeg":
        original = [Image.fromarray(on_background(image)) for image in original]
    if len(original) == 1:
        return [read_frames(encode_image(original[0], file_format, quality=quality))[0][0]]
    return [
        frame
        for frame, _ in read_frames(
            encode_animation(original, file_format, quality=quality, duration=50)
        )
    ]


def quantized(image: Image.Image, colours: int) -> Image.Image:
    if image.mode == "RGBA" and image.getextrema()[-1] == (255, 255):
        image = image.convert("RGB")
    return image.quantize(colours).convert("RGBA")


def is_correct(case: Case, result: CompressedImage, row: Row) -> bool:
    """Return whether an output is correct, and add its figures to the row."""
    info = result.info
    frames = read_frames(result.data)
    if case.target == "jpeg" and info.output_format == "jpeg":
        case.original = case.original[:1]
    if [frame.size for frame, _ in frames] != [frame.size for frame in case.original]:
        return False
    if case.durations and [duration for _, duration in frames] != case.durations:
        return False
    if info.kept:
        return all(delta_e(a, b) < 0.05 for (a, _), b in zip(frames, case.original, strict=True))
    our_delta_e, plain_delta_e, our_ssim, plain_ssim = 0.0, 0.0, 0.0, 0.0
    references = plain_save(case.original, info.output_format, info.quality or 100)
    for (frame, _), original, reference in zip(frames, case.original, references, strict=True):
        our_delta_e += delta_e(frame, original)
        plain_delta_e += delta_e(reference, original)
        row.white_ssims.append(ssim(frame, original))
        row.black_ssims.append(ssim(frame, original, "black"))
        our_ssim += row.white_ssims[-1]
        plain_ssim += ssim(reference, original)
        allowed = max(4, 1.1 * alpha_difference(reference, original))
        if info.output_format != "jpeg" and alpha_difference(frame, original) > allowed:
            return False
    row.delta_e_ratios.append((our_delta_e + 0.05) / (plain_delta_e + 0.05))
    row.ssim_ratios.append(our_ssim / plain_ssim)
    return row.delta_e_ratios[-1] <= 1.1 and row.ssim_ratios[-1] >= 1 / 1.1


def alpha_difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of alpha, 0 to 255."""
    bands = [np.asarray(image.convert("RGBA"))[..., 3].astype(int) for image in (one, other)]
    return float(np.abs(bands[0] - bands[1]).mean())


def measure(cases: Callable[[], Iterator[Case]], rows: dict[str, Row]) -> None:
    for case in cases():
        row = rows[case.group]
        settings = CompressionSettings(format=OutputFormat(case.target))
        result = compress_image(case.data, settings, 10**8)
        row.count += 1
        row.kept += result.info.kept
        row.source_bytes += len(case.data)
        row.output_bytes += len(result.data)
        same_format = result.info.output_format == result.info.input_format
        larger = same_format and len(result.data) > len(case.data)
        row.larger += larger
        correct = is_correct(case, result, row) and not larger
        row.correct += correct
        if not correct:
            print(f"incorrect: {case.group} → {case.target}: {result.info} "
                  f"{row.delta_e_ratios[-1:]} {row.ssim_ratios[-1:]}", file=sys.stderr)  # fmt: skip


def main() -> None:
    warm_up()
    rows: dict[str, Row] = defaultdict(Row)
    measure(photographs, rows)
    measure(generated_images, rows)
    print(
        "| images | n | correct | kept | ΔE ratio | SSIM ratio | SSIM on white | on black "
        "| source bytes | output | larger |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        columns = (row.delta_e_ratios, row.ssim_ratios, row.white_ssims, row.black_ssims)
        means = " | ".join(f"{np.mean(v) if v else float('nan'):.3f}" for v in columns)
        print(f"| {name} | {row.count} | {row.correct / row.count:.1%} | {row.kept} | {means} "
              f"| {row.source_bytes:,} | {row.output_bytes / row.source_bytes:.1%} "
              f"| {row.larger} |")  # fmt: skip
    count, correct = (
        sum(getattr(row, name) for row in rows.values()) for name in ("count", "correct")
    )
    print(f"\n{correct} of {count} are correct.")


if __name__ == "__main__":
    main()
