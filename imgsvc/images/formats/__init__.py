"""One module per image format. The table in `imgsvc.image_types` names them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from imgsvc.image_types import ImageFormat
from imgsvc.images.formats.base import Codec

CODECS: Mapping[ImageFormat, Codec] = {
    image_format: import_module(f"{__name__}.{image_format}").CODEC for image_format in ImageFormat
}
"""The codec of each format, in the order of the table."""
