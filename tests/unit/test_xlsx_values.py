"""Numbers, dates and text of .xlsx files."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.table.xlsx_values import (
    MAX_COLUMNS,
    DateKind,
    column_letters,
    column_number,
    date_kind,
    date_text,
    escape,
    iso_date_text,
    number_text,
    unescape,
)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("12", "12"),
        ("1.0", "1"),
        ("-0", "0"),
        ("19.989999999999998", "19.99"),
        ("0.1", "0.1"),
        ("0.30000000000000004", "0.3"),
        ("4.0063813339310002E12", "4006381333931"),
        ("1E+20", "100000000000000000000"),
        ("1.5E-7", "0.00000015"),
        ("-2.50", "-2.5"),
        ("1234567890123456", "1234567890123456"),
        ("12345678901234567890", "12345678901234567890"),
        ("-12345678901234567890", "-12345678901234567890"),
        (" 7 ", "7"),
        ("1e999", "1e999"),
        ("nan", "nan"),
        ("1_000", "1_000"),
        ("٣", "٣"),
    ],
)
def test_number_has_no_exponent_and_no_rounding_error(raw: str, text: str) -> None:
    assert number_text(raw) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_keeps_fifteen_digits(value: float) -> None:
    text = number_text(repr(value))
    assert "e" not in text.lower()
    assert not ("." in text and text.endswith(("0", ".")))
    assert float(text) == float(format(value, ".15g")) or (
        value.is_integer() and float(text) == value
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("General", None),
        ("0.00", None),
        ("0.00E+00", None),
        ("@", None),
        ('#,##0.00 "days"', None),
        ("[Red]#,##0;[Blue]-#,##0", None),
        (r"#,##0\ \d", None),
        ("[$-407]d. mmmm yyyy", DateKind.DATE),
        ("yyyy-mm-dd hh:mm:ss", DateKind.DATE),
        ("mmm", DateKind.DATE),
        ("h:mm AM/PM", DateKind.TIME),
        ("[h]:mm:ss", DateKind.TIME),
        ("mm:ss.0", DateKind.TIME),
        ('yyyy"年"m"月"', DateKind.DATE),
    ],
)
def test_format_code_shows_whether_a_number_is_a_date(code: str, kind: DateKind | None) -> None:
    assert date_kind(code) is kind


def test_long_format_code_is_read_in_little_time() -> None:
    assert date_kind("[" * 2**20) is None


@pytest.mark.parametrize(
    ("raw", "kind", "text"),
    [
        ("46354", DateKind.DATE, "2026-11-28"),
        ("46354.586805555555", DateKind.DATE, "2026-11-28 14:05:00"),
        ("46354.99999999999", DateKind.DATE, "2026-11-29"),
        ("1", DateKind.DATE, "1900-01-01"),
        ("61", DateKind.DATE, "1900-03-01"),
        ("0.5", DateKind.DATE, "12:00:00"),
        ("0.586805555555", DateKind.TIME, "14:05:00"),
        ("1.5", DateKind.TIME, "36:00:00"),
        ("-1", DateKind.DATE, "-1"),
        ("2958466", DateKind.DATE, "2958466"),
        ("2958465.999999", DateKind.DATE, "2958465.999999"),
        ("soon", DateKind.DATE, "soon"),
    ],
)
def test_date_is_iso_8601(raw: str, kind: DateKind, text: str) -> None:
    assert date_text(raw, kind) == text


def test_date_counts_from_1904_in_workbooks_that_say_so() -> None:
    assert date_text("44892", DateKind.DATE, from_1904=True) == "2026-11-28"
    assert date_text("0", DateKind.DATE, from_1904=True) == "1904-01-01"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("2026-11-28", "2026-11-28"),
        ("2026-11-28T14:05:00.000Z", "2026-11-28 14:05:00"),
        ("soon", "soon"),
    ],
)
def test_date_cell_has_the_form_of_other_dates(raw: str, text: str) -> None:
    assert iso_date_text(raw) == text


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        ("a_x000D_\nb", "a\r\nb"),
        ("_x005F_x0041_", "_x0041_"),
        ("_xD83D__xDE00_", "😀"),
        ("_xD83D_", "�"),
        ("_x00_ _X0041_", "_x00_ _X0041_"),
    ],
)
def test_escapes_are_replaced_by_characters(escaped: str, text: str) -> None:
    assert unescape(escaped) == text


@given(st.text())
def test_text_survives_xml(text: str) -> None:
    # XML parsers turn a carriage return into a line feed.
    content = ElementTree.fromstring(f"<t>{escape(text)}</t>").text or ""
    assert unescape(content) == text


@given(st.integers(0, MAX_COLUMNS - 1))
def test_column_letters_are_read_back(column: int) -> None:
    assert column_number(column_letters(column)) == column


@pytest.mark.parametrize("letters", ["", "XFE", "AAAA", "Ä", "A1", "$A"])
def test_letters_beyond_the_last_column_are_no_column(letters: str) -> None:
    assert column_number(letters) is None
