"""Which pictures come out right: a table by format and size, over real and generated ones.

    python -m tests.bench.images_table > table.md

A picture is right when it has its size, its frames and their times, its alpha (within 4 of 255 or
what the plain save gets), is no larger than its source (BMP and TIFF excepted), and its mean ΔE2000
from the true pixels is at most 1.1 times, its SSIM at least 1/1.1 of, what a plain Pillow save of those
pixels at the same quality or palette has (differences of 0.05, which nobody sees, aside).
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
from tests.image_assertions import film, saved, shown
from tests.sample_images import photograph

SIZES = {"s": (160, 120), "m": (320, 240), "l": (720, 540)}
DURATIONS = [100, 40, 300, 70]
LOSSY = {"quality": 96}


@dataclass
class Case:
    """A file, and the frames that a person should see in what becomes of it."""

    group: str
    data: bytes
    truth: list[Image.Image]
    durations: list[int] = field(default_factory=list)
    target: str = "keep"


@dataclass
class Row:
    """The figures of one group."""

    count: int = 0
    right: int = 0
    kept: int = 0
    larger: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    differences: list[float] = field(default_factory=list)
    likenesses: list[float] = field(default_factory=list)


# --- the pictures ------------------------------------------------------------------------------


def clean(number: int, size: tuple[int, int]) -> Image.Image:
    image = photograph(number, *size)
    image.info = {}
    return image


def real() -> Iterator[Case]:
    """525 cuts from photographs, each another one."""
    number = 0
    for size, pixels in SIZES.items():
        for form, count in (
            *(("JPEG", 55), ("PNG", 25), ("WEBP", 25), ("GIF", 25)),
            *(("AVIF", 20), ("BMP", 13), ("TIFF", 12)),
        ):
            for _ in range(count):
                number += 1
                image = clean(number, pixels)
                options: dict[str, Any] = {}
                if form in {"JPEG", "WEBP", "AVIF"}:
                    options = {"quality": 80 + number % 16}
                data = saved(image, form, **options)
                yield Case(f"{form} {size}", data, [shown(data)[0][0]])


def edges() -> Iterator[Case]:
    """Generated pictures, each with something that others get wrong."""
    size = SIZES["m"]
    for make in (turned, translucent, deep, printed, profiled, plain_modes, moving, slight, worn):
        yield from make(size)


def turned(size: tuple[int, int]) -> Iterator[Case]:
    turns = [None, 0, 3, 1, 5, 4, 6, 2]
    for orientation in range(1, 9):
        for number, form in enumerate(["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]):
            image = clean(orientation * 5 + number, size)
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = saved(image, form, exif=exif, **(LOSSY if form[0] in "JWA" else {}))
            turn = turns[orientation - 1]
            lossy = shown(saved(image, form, **(LOSSY if form[0] in "JWA" else {})))[0][0]
            truth = lossy if turn is None else lossy.transpose(Image.Transpose(turn))
            yield Case("edge: orientation", data, [truth])


def translucent(size: tuple[int, int]) -> Iterator[Case]:
    soft = Image.radial_gradient("L").resize(size).point([255] * 100 + list(range(255, 99, -1)))
    hard = soft.point([0] * 180 + [255] * 76)
    for number in range(4):
        for alpha in (soft, hard):
            image = clean(200 + number, size).convert("RGBA")
            image.putalpha(alpha)
            for form, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
                data = saved(image, form, **options)
                for target in ("keep", "jpeg"):
                    yield Case("edge: alpha", data, [image], target=target)


def deep(size: tuple[int, int]) -> Iterator[Case]:
    chance = np.random.default_rng(1)
    for number in range(8):
        grey = clean(240 + number, size).convert("L")
        values = np.asarray(grey).astype(np.int32) * 257 + chance.integers(-128, 128, size[::-1])
        image = Image.fromarray(np.clip(values, 0, 65_535).astype(np.uint16))
        for form in ("PNG", "TIFF"):
            yield Case("edge: 16 bit", saved(image, form), [grey])


def printed(size: tuple[int, int]) -> Iterator[Case]:
    for number in range(8):
        image = clean(260 + number, size)
        cmyk = image.convert("CMYK")
        yield Case("edge: CMYK", saved(cmyk, "TIFF"), [image])
        data = saved(cmyk, "JPEG", quality=98)
        yield Case("edge: CMYK", data, [Image.open(io.BytesIO(data)).convert("RGB")])


def profiled(size: tuple[int, int]) -> Iterator[Case]:
    wide = (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
    profile = icc.from_gamma(45_455, wide)
    for number in range(6):
        image = clean(280 + number, size)
        for form in ("JPEG", "PNG", "WEBP", "AVIF"):
            options = LOSSY if form != "PNG" else {}
            data = saved(image, form, icc_profile=profile, **options)
            yield Case("edge: profile", data, [shown(data)[0][0]])


def plain_modes(size: tuple[int, int]) -> Iterator[Case]:
    for number in range(3):
        for mode in ("1", "L", "P"):
            image = clean(300 + number, size).convert(mode)
            for form in ("PNG", "TIFF", "BMP"):
                yield Case("edge: modes", saved(image, form), [image.convert("RGB")])


def moving(size: tuple[int, int]) -> Iterator[Case]:
    for number in range(4):
        for mode in ("RGB", "RGBA"):
            under = clean(320 + number, size).convert("RGBA")
            frames = []
            for step in range(len(DURATIONS)):
                frame = under.copy() if mode == "RGB" else Image.new("RGBA", size)
                frame.paste(under.resize((80, 60)), (40 * step, 30 * step))
                frames.append(frame.convert(mode))
            for form, options in (
                ("GIF", {"disposal": 2}),
                ("PNG", {}),
                ("WEBP", {"lossless": True}),
            ):
                data = film(frames, form, duration=DURATIONS, **options)
                truth = [frame for frame, _ in shown(data)]
                for target in ("keep", "webp"):
                    yield Case("edge: animation", data, truth, DURATIONS, target)


def slight(_: tuple[int, int]) -> Iterator[Case]:
    for size in ((1, 1), (1, 300), (300, 1), (7, 9)):
        for form in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"):
            data = saved(clean(340, size), form)
            yield Case("edge: tiny", data, [shown(data)[0][0]])


def worn(size: tuple[int, int]) -> Iterator[Case]:
    for quality in (1, 3, 5, 8, 10, 15, 20, 30):
        data = saved(clean(350 + quality, size), "JPEG", quality=quality)
        yield Case("edge: worn JPEG", data, [shown(data)[0][0]])


# --- the figures -------------------------------------------------------------------------------


def on_white(image: Image.Image) -> NDArray[np.uint8]:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return np.asarray(white.convert("RGB"))


def difference(one: Image.Image, other: Image.Image) -> float:
    labs = [rgb2lab(on_white(image)) for image in (one, other)]
    return float(deltaE_ciede2000(*labs).mean())  # type: ignore[no-untyped-call]


def likeness(one: Image.Image, other: Image.Image) -> float:
    if min(one.size) < 7:
        return 1.0
    pair = on_white(one), on_white(other)
    return float(structural_similarity(*pair, channel_axis=2))  # type: ignore[no-untyped-call]


def plainly(truth: list[Image.Image], form: str, quality: int) -> list[Image.Image]:
    """The true pixels after a plain Pillow save."""
    if form in {"png", "gif"}:
        return [reduced(image, max(2, 256 * quality // 100)) for image in truth]
    if form == "jpeg":
        truth = [Image.fromarray(on_white(image)) for image in truth]
    if len(truth) == 1:
        return [shown(saved(truth[0], form, quality=quality))[0][0]]
    return [frame for frame, _ in shown(film(truth, form, quality=quality, duration=50))]


def reduced(image: Image.Image, colours: int) -> Image.Image:
    if image.mode == "RGBA" and image.getextrema()[-1] == (255, 255):
        image = image.convert("RGB")
    return image.quantize(colours).convert("RGBA")


def judge(case: Case, result: CompressedImage, row: Row) -> bool:
    picture = result.info
    got = shown(result.data)
    if case.target == "jpeg" and picture.output_format == "jpeg":
        case.truth = case.truth[:1]
    if [frame.size for frame, _ in got] != [frame.size for frame in case.truth]:
        return False
    if case.durations and [duration for _, duration in got] != case.durations:
        return False
    if picture.kept:
        return all(difference(a, b) < 0.05 for (a, _), b in zip(got, case.truth, strict=True))
    ours, plain, our_likeness, plain_likeness = 0.0, 0.0, 0.0, 0.0
    references = plainly(case.truth, picture.output_format, picture.quality or 100)
    for (frame, _), truth, reference in zip(got, case.truth, references, strict=True):
        ours += difference(frame, truth)
        plain += difference(reference, truth)
        our_likeness += likeness(frame, truth)
        plain_likeness += likeness(reference, truth)
        allowed = max(4, 1.1 * alpha_gap(reference, truth))
        if picture.output_format != "jpeg" and alpha_gap(frame, truth) > allowed:
            return False
    row.differences.append((ours + 0.05) / (plain + 0.05))
    row.likenesses.append(our_likeness / plain_likeness)
    return row.differences[-1] <= 1.1 and row.likenesses[-1] >= 1 / 1.1


def alpha_gap(one: Image.Image, other: Image.Image) -> float:
    bands = [np.asarray(image.convert("RGBA"))[..., 3].astype(int) for image in (one, other)]
    return float(np.abs(bands[0] - bands[1]).mean())


def measure(cases: Callable[[], Iterator[Case]], rows: dict[str, Row]) -> None:
    for case in cases():
        row = rows[case.group]
        settings = CompressionSettings(format=OutputFormat(case.target))
        result = compress_image(case.data, settings, 10**8)
        row.count += 1
        row.kept += result.info.kept
        row.bytes_in += len(case.data)
        row.bytes_out += len(result.data)
        may_grow = result.info.input_format in {"bmp", "tiff"}
        larger = len(result.data) > len(case.data) and not may_grow
        row.larger += larger
        right = judge(case, result, row) and not larger
        row.right += right
        if not right:
            print(f"wrong: {case.group} → {case.target}: {result.info} "
                  f"{row.differences[-1:]} {row.likenesses[-1:]}", file=sys.stderr)  # fmt: skip


def main() -> None:
    warm_up()
    rows: dict[str, Row] = defaultdict(Row)
    measure(real, rows)
    measure(edges, rows)
    print("| pictures | n | right | kept | ΔE ratio | SSIM ratio | bytes in | out | larger |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        ratios = [np.mean(v) if v else float("nan") for v in (row.differences, row.likenesses)]
        print(f"| {name} | {row.count} | {row.right / row.count:.1%} | {row.kept} | {ratios[0]:.3f} "
              f"| {ratios[1]:.3f} | {row.bytes_in:,} | {row.bytes_out / row.bytes_in:.1%} "
              f"| {row.larger} |")  # fmt: skip
    count, right = (sum(getattr(row, name) for row in rows.values()) for name in ("count", "right"))
    print(f"\n{right} of {count} are right.")


if __name__ == "__main__":
    main()
