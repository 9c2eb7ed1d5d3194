"""A JPEG's own quality, against libjpeg itself and against tables that are not libjpeg's."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.JpegPresets import presets

from imgsvc.image_types import CompressionSettings
from imgsvc.images.codec import compress_image
from imgsvc.images.jpeg_quality import jpeg_quality


def tables(mode: str = "RGB", **options: Any) -> list[list[int]]:
    """The quantisation tables that libjpeg writes."""
    out = io.BytesIO()
    Image.new(mode, (8, 8)).save(out, "JPEG", **options)
    with JpegImageFile(io.BytesIO(out.getvalue())) as image:
        return list(image.quantization.values())


EVERY = {quality: quality for quality in range(1, 101)}


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_every_quality_of_libjpeg_is_recognised(subsampling: int) -> None:
    found = {q: jpeg_quality(*tables(quality=q, subsampling=subsampling)) for q in EVERY}
    assert found == EVERY


def test_grey_pictures_have_one_table() -> None:
    assert len(tables("L", quality=50)) == 1
    assert {q: jpeg_quality(*tables("L", quality=q)) for q in EVERY} == EVERY


def test_tables_that_were_not_clamped_to_a_byte_are_recognised() -> None:
    def wide(quality: int) -> list[list[int]]:
        scale = 5_000 // quality if quality < 50 else 200 - 2 * quality
        return [[max(1, (v * scale + 50) // 100) for v in table] for table in tables(quality=50)]

    assert {q: jpeg_quality(*wide(q)) for q in EVERY} == EVERY
    assert {q: jpeg_quality(wide(q)[0]) for q in EVERY} == EVERY


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("mode", "quality"), [("RGB", 90), ("L", 71), ("CMYK", 33), ("RGB", 3)])
def test_a_status_tells_the_quality_of_a_file(mode: str, quality: int, progressive: bool) -> None:
    out = io.BytesIO()
    Image.linear_gradient("L").convert(mode).save(
        out, "JPEG", quality=quality, progressive=progressive
    )
    info = compress_image(out.getvalue(), CompressionSettings(), 100_000).info
    assert info.source_quality == quality
    assert info.kept or info.quality == (quality + 1) // 2


@pytest.mark.parametrize("family", ["{}", "web_{}"])
def test_other_makers_tables_get_the_nearest(family: str) -> None:
    names = [family.format(name) for name in ("low", "medium", "high", "maximum")]
    quantization: list[Any] = [presets[name]["quantization"] for name in names]
    found = [jpeg_quality(*tables) for tables in quantization]
    assert found == sorted(found)
    assert found[0] >= 50
    assert found[-1] >= 94


@given(st.integers(10, 85), st.lists(st.integers(-1, 1), min_size=128, max_size=128))
def test_tables_a_little_off_get_a_quality_nearby(quality: int, noise: list[int]) -> None:
    luminance, chrominance = tables(quality=quality)
    shaken = [min(255, max(1, a + b)) for a, b in zip(luminance + chrominance, noise, strict=True)]
    assert abs(jpeg_quality(shaken[:64], shaken[64:]) - quality) <= 3


@given(st.lists(st.integers(1, 65_535), min_size=64, max_size=64))
def test_any_table_has_a_quality(table: list[int]) -> None:
    assert 1 <= jpeg_quality(table) <= 100
