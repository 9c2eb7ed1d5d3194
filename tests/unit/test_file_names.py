"""Tests of file names that are valid on any system, and of the names of downloads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.image_types import CompressionSettings
from imgsvc.models import RequestOptions
from imgsvc.web.http.file_names import attachment, safe_name
from tests.unit.test_serializers import REQUEST


@given(st.text(max_size=300))
def test_safe_name_is_valid_on_all_systems(text: str) -> None:
    name = safe_name(text, 120)
    assert len(name.encode()) <= 121
    assert not set(name) & set('<>:"/\\|?*\0')
    assert name == name.strip(" .")
    assert name.isprintable()
    assert safe_name(name, 120) == name or name.startswith("_")


def test_safe_name_replaces_dangerous_names() -> None:
    cases = {
        "../../etc/passwd": "_.._etc_passwd",
        "C:\\Windows\\x": "C_Windows_x",
        "CON": "_CON",
        "lpt1.jpg": "_lpt1.jpg",
        ".hidden": "hidden",
        "a\nb\tc": "a b c",
        "a\u202egpj.exe": "agpj.exe",
        "...": "",
        "": "",
        "Lamp, desk": "Lamp, desk",
        "e\u0301": "é",
    }
    assert {text: safe_name(text, 120) for text in cases} == cases


@pytest.mark.parametrize(
    ("name", "header"),
    [
        (None, f'attachment; filename="{REQUEST.request_id}-compressed.csv"'),
        ("products.csv", 'attachment; filename="products-compressed.csv"'),
        ("Spring 2.0", 'attachment; filename="Spring 2.0-compressed.csv"'),
        ("export.v2.xlsx", 'attachment; filename="export.v2-compressed.csv"'),
        ('a/b:"c".csv', 'attachment; filename="a_b_c_-compressed.csv"'),
        ("CON.csv", 'attachment; filename="_CON-compressed.csv"'),
        ("...", f'attachment; filename="{REQUEST.request_id}-compressed.csv"'),
        (
            "50%25.csv",
            (
                'attachment; filename="50_25-compressed.csv"; '
                "filename*=UTF-8''50%2525-compressed.csv"
            ),
        ),
        (
            "Été.csv",
            (
                'attachment; filename="_t_-compressed.csv"; '
                "filename*=UTF-8''%C3%89t%C3%A9-compressed.csv"
            ),
        ),
    ],
)
def test_attachment_names_download_after_request(name: str | None, header: str) -> None:
    request = replace(REQUEST, options=RequestOptions(CompressionSettings(), name=name))
    assert attachment(request, "compressed", "csv") == header


@given(st.text(min_size=1, max_size=200))
def test_attachment_fits_file_systems_and_one_header_line(name: str) -> None:
    request = replace(REQUEST, options=RequestOptions(CompressionSettings(), name=name))
    header = attachment(request, "compressed", "csv")
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
