"""Tests of the JPEG quality estimate, with tables of libjpeg and of other encoders."""

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
    """Return the quantisation tables that libjpeg writes."""
    out = io.BytesIO()
    Image.new(mode, (8, 8)).save(out, "JPEG", **options)
    with JpegImageFile(io.BytesIO(out.getvalue())) as image:
        return list(image.quantization.values())


ALL_QUALITIES = {quality: quality for quality in range(1, 101)}


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_quality_is_exact_for_libjpeg_tables(subsampling: int) -> None:
    found = {q: jpeg_quality(*tables(quality=q, subsampling=subsampling)) for q in ALL_QUALITIES}
    assert found == ALL_QUALITIES


def test_jpeg_quality_is_exact_for_grey_images() -> None:
    assert len(tables("L", quality=50)) == 1
    assert {q: jpeg_quality(*tables("L", quality=q)) for q in ALL_QUALITIES} == ALL_QUALITIES


def test_jpeg_quality_is_exact_for_tables_not_clamped_to_8_bits() -> None:
    def unclamped(quality: int) -> list[list[int]]:
        scale = 5_000 // quality if quality < 50 else 200 - 2 * quality
        return [[max(1, (v * scale + 50) // 100) for v in table] for table in tables(quality=50)]

    assert {q: jpeg_quality(*unclamped(q)) for q in ALL_QUALITIES} == ALL_QUALITIES
    assert {q: jpeg_quality(unclamped(q)[0]) for q in ALL_QUALITIES} == ALL_QUALITIES


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("mode", "quality"), [("RGB", 90), ("L", 71), ("CMYK", 33), ("RGB", 3)])
def test_compress_image_reports_source_quality(mode: str, quality: int, progressive: bool) -> None:
    out = io.BytesIO()
    Image.linear_gradient("L").convert(mode).save(
        out, "JPEG", quality=quality, progressive=progressive
    )
    info = compress_image(out.getvalue(), CompressionSettings(), 100_000).info
    assert info.source_quality == quality
    assert info.kept or info.quality == (quality + 1) // 2


@pytest.mark.parametrize("family", ["{}", "web_{}"])
def test_jpeg_quality_is_nearest_for_tables_of_other_encoders(family: str) -> None:
    names = [family.format(name) for name in ("low", "medium", "high", "maximum")]
    quantization: list[Any] = [presets[name]["quantization"] for name in names]
    found = [jpeg_quality(*tables) for tables in quantization]
    assert found == sorted(found)
    assert found[0] >= 50
    assert found[-1] >= 94


@given(st.integers(10, 85), st.lists(st.integers(-1, 1), min_size=128, max_size=128))
def test_jpeg_quality_is_close_for_slightly_changed_tables(quality: int, noise: list[int]) -> None:
    luminance, chrominance = tables(quality=quality)
    changed = [min(255, max(1, a + b)) for a, b in zip(luminance + chrominance, noise, strict=True)]
    assert abs(jpeg_quality(changed[:64], changed[64:]) - quality) <= 3


@given(st.lists(st.integers(1, 65_535), min_size=64, max_size=64))
def test_jpeg_quality_is_1_to_100_for_any_table(table: list[int]) -> None:
    assert 1 <= jpeg_quality(table) <= 100
