"""Tests of the table of image formats, of every format's codec, and of adding a format."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from imgsvc.errors import ImageError
from imgsvc.image_types import EXTENSIONS, MEDIA_TYPES, ImageFormat, OutputFormat
from imgsvc.images.compose import Frame
from imgsvc.images.formats import CODECS
from imgsvc.images.formats.base import DecodedImage, DecodeLimits, EncodeSettings
from imgsvc.images.sniff import sniff
from tests.image_assertions import encode_image, mean_difference, open_image
from tests.origin import ROOT, Origin
from tests.sample_images import encoded, is_photograph, photograph
from tests.service_process import table

PHOTO = photograph(6, 64, 48)


@pytest.fixture(scope="module")
def samples() -> dict[ImageFormat, bytes]:
    """Return a file of each format."""
    pillow_heif.register_heif_opener()
    pillow_names = {each: each.upper() for each in ImageFormat} | {ImageFormat.HEIC: "HEIF"}
    return {each: encode_image(PHOTO, name) for each, name in pillow_names.items()}


# --- the table -------------------------------------------------------------------------------------


def test_output_formats_are_keep_and_the_selectable_formats() -> None:
    assert list(OutputFormat) == ["keep", "jpeg", "webp", "avif", "png"]


def test_extensions_and_media_types_are_those_of_possible_outputs() -> None:
    assert EXTENSIONS["jpeg"] == "jpg"
    assert set(EXTENSIONS) == {"jpeg", "png", "webp", "gif", "avif", "heic"}
    assert set(MEDIA_TYPES) == set(EXTENSIONS.values())
    assert MEDIA_TYPES["jpg"] == "image/jpeg"


def test_names_titles_and_extensions_of_formats_are_unique() -> None:
    for column in ("name", "title", "extension", "media_type"):
        assert len({getattr(each.traits, column) for each in ImageFormat}) == len(ImageFormat)
    for each in ImageFormat:
        assert (each.name, each.value) == (each.traits.name.upper(), each.traits.name)
        assert re.fullmatch("[a-z]+", each.traits.extension)


# --- every codec -----------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ImageFormat)
def test_codec_agrees_with_table(image_format: ImageFormat) -> None:
    codec = CODECS[image_format]
    assert codec.encode is not None or not image_format.traits.selectable
    assert codec.encode is not None or not image_format.traits.animated
    assert (codec.remove_metadata is not None) is image_format.traits.kept


@pytest.mark.parametrize("image_format", ImageFormat)
def test_codec_matches_only_files_of_its_format(
    image_format: ImageFormat, samples: dict[ImageFormat, bytes]
) -> None:
    matching = [each for each, data in samples.items() if CODECS[image_format].matches(data)]
    assert matching == [image_format]
    assert sniff(samples[image_format]) is image_format
    assert not CODECS[image_format].matches(b"")


@pytest.mark.parametrize("image_format", ImageFormat)
def test_codec_decodes_its_format_within_limits(
    image_format: ImageFormat, samples: dict[ImageFormat, bytes]
) -> None:
    limits = DecodeLimits(PHOTO.width * PHOTO.height, animated=True)
    decoded = CODECS[image_format].decode(samples[image_format], limits)
    assert decoded.image_format is image_format
    assert limits.declared_pixels == PHOTO.width * PHOTO.height
    assert mean_difference(decoded.first_image, PHOTO) < 9
    with pytest.raises(ImageError, match="The limit is"):
        CODECS[image_format].decode(samples[image_format], DecodeLimits(1_000, animated=True))


@pytest.mark.parametrize("image_format", [each for each in ImageFormat if CODECS[each].encode])
def test_codec_encodes_what_it_decodes(
    image_format: ImageFormat, samples: dict[ImageFormat, bytes]
) -> None:
    codec = CODECS[image_format]
    assert codec.encode is not None
    decoded = codec.decode(samples[image_format], DecodeLimits(10**6, animated=True))
    data = codec.encode(decoded, EncodeSettings(90))
    assert sniff(data) is image_format
    assert codec.fits(decoded)
    assert mean_difference(open_image(data), PHOTO) < 9


@pytest.mark.parametrize("image_format", [ImageFormat.JPEG, ImageFormat.WEBP, ImageFormat.AVIF])
def test_codec_encodes_image_of_largest_side(image_format: ImageFormat) -> None:
    image = Image.new("RGB", (image_format.traits.max_side, 1), "red")
    encode = CODECS[image_format].encode
    assert encode is not None
    data = encode(DecodedImage(image_format, [Frame(image)]), EncodeSettings(50))
    assert open_image(data).size == image.size


# --- a new format ----------------------------------------------------------------------------------

REPORT = """
import asyncio, json, sys
from aiohttp.test_utils import make_mocked_request
from imgsvc.image_types import CompressionSettings, OutputFormat, Quality
from imgsvc.images.codec import compress_image
from imgsvc.images.sniff import sniff
from imgsvc.web.handlers.static_files import FORMATS_MODULE, StaticFilesHandler
from imgsvc.web.routes import ROUTES
from imgsvc.web.schema.openapi import openapi_document

photo, *files = sys.argv[1:]
settings = CompressionSettings(Quality(50, relative=True), OutputFormat("demo"))
data = compress_image(open(photo, "rb").read(), settings, 10**6).data
page = make_mocked_request("GET", "/", match_info={"path": FORMATS_MODULE})
paths = openapi_document(ROUTES, cookie=None)["paths"]
image = paths["/images/{file}"]["get"]
upload = paths["/processImages"]["post"]
jpeg = CompressionSettings(format=OutputFormat("jpeg"))
print(json.dumps({
    "sniffed": [sniff(data), *(sniff(open(file, "rb").read()) for file in files)],
    "kept": compress_image(data, CompressionSettings(Quality(100, relative=False)), 10**6).info.kept,
    "jpeg": compress_image(data, jpeg, 10**6).data.hex(),
    "options": next(p for p in upload["parameters"] if p["name"] == "format")["schema"]["enum"],
    "media types": list(image["responses"]["200"]["content"]),
    "pattern": image["parameters"][0]["schema"]["pattern"],
    "page": asyncio.run(StaticFilesHandler().static(page)).body.decode(),
}))
"""


def apply_diff(diff: str, folder: Path) -> list[str]:
    """Apply a diff whose hunks only add lines, and return the names of the changed files."""
    names = []
    for part in re.split(r"^--- .*\n", diff, flags=re.MULTILINE)[1:]:
        header, _, hunk = part.partition("@@\n")
        names.append(header.strip().removeprefix("+++ b/"))
        file = folder / names[-1]
        lines = hunk.splitlines(keepends=True)
        assert all(line[0] in " +" for line in lines)
        before = "".join(line[1:] for line in lines if line[0] == " ")
        text = file.read_text() if before else ""
        assert text.count(before) == 1 or not before
        file.write_text(text.replace(before, "".join(line[1:] for line in lines), 1))
    return names


@pytest.fixture(scope="module")
def with_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of the package, to which the documented diff is applied."""
    folder = tmp_path_factory.mktemp("with-demo")
    shutil.copytree(
        ROOT / "imgsvc", folder / "imgsvc", ignore=shutil.ignore_patterns("__pycache__")
    )
    (diff,) = re.findall(
        r"^```diff\n(--- a/imgsvc/image_types\.py\n.*?)^```",
        (ROOT / "docs" / "how-to" / "extend.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    changed = apply_diff(diff, folder)
    assert changed == ["imgsvc/image_types.py", "imgsvc/images/formats/demo.py"]
    return folder


def run_python(folder: Path, *arguments: str, **environ: str) -> str:
    """Run the Python interpreter with the package in `folder`, and return its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("IMGSVC_")}
    process = subprocess.run(
        [sys.executable, "-P", *arguments],
        env=environment | {"PYTHONPATH": str(folder)} | environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_new_format_needs_a_row_and_a_module(
    with_demo: Path, origin: Origin, tmp_path: Path
) -> None:
    products = tmp_path / "products.csv"
    products.write_bytes(table([[1, "Lamp", [origin.photo(3, "bmp"), origin.photo(4, "tif")]]]))
    options = ["--format", "demo", "--quality", "90"]
    run_python(
        with_demo,
        *("-m", "imgsvc", "process", str(products), "-o", str(tmp_path / "out.csv"), *options),
        IMGSVC_FETCH__ALLOWED_NETWORKS='["127.0.0.0/8"]',
        IMGSVC_COMPRESS__WORKERS="1",
    )
    outputs = [str(file) for file in (tmp_path / "out.images").rglob("*.demo")]
    assert len(outputs) == 2

    photo = tmp_path / "photo.bmp"
    photo.write_bytes(encoded(5, "bmp"))
    report = json.loads(run_python(with_demo, "-c", REPORT, str(photo), *outputs))
    assert report["sniffed"] == ["demo"] * 3
    assert report["kept"] is True
    assert is_photograph(bytes.fromhex(report["jpeg"]), 5, limit=15)
    assert report["options"] == ["keep", "jpeg", "webp", "avif", "png", "demo"]
    assert "image/demo" in report["media types"]
    assert re.fullmatch(report["pattern"], f"{'0' * 32}.demo")
    assert '["demo", "Demo"]' in report["page"]
