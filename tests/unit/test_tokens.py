"""Tests of the derivation of tokens. A change of a value here changes the URL of every output."""

from __future__ import annotations

import pytest

from imgsvc.database.tokens import output_token
from imgsvc.image_types import CompressionSettings, OutputFormat, Quality


@pytest.mark.parametrize(
    ("settings", "token"),
    [
        (CompressionSettings(), "05f4b742e4d091b14ce74092b654f314"),
        (
            CompressionSettings(Quality(50, relative=False), OutputFormat("webp")),
            "1e252354e51a2a6452d227af2163397f",
        ),
        (CompressionSettings(progressive=True), "3010fdde14999d87c8c416cdc1e21aac"),
    ],
)
def test_output_token_has_value_of_first_release(settings: CompressionSettings, token: str) -> None:
    assert output_token(b"s" * 32, b"d" * 32, settings).hex() == token
