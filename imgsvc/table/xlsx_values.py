"""Cell values of .xlsx files → text, and text → XML. Pure functions."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from math import isinf


class DateKind(Enum):
    """What a number with a date format stands for: a day, or only a time."""

    DATE = "date"
    TIME = "time"


BUILT_IN_FORMATS: dict[int, DateKind] = {
    **dict.fromkeys((*range(14, 18), 22, *range(27, 32), 36, *range(50, 55)), DateKind.DATE),
    **dict.fromkeys((57, 58), DateKind.DATE),
    **dict.fromkeys((*range(18, 22), *range(32, 36), *range(45, 48), 55, 56), DateKind.TIME),
}
"""The number formats with dates that have no format code in the file. ECMA-376 Part 1, 18.8.30."""

MAX_FORMAT_LENGTH = 1_000
"""Characters of a format code that are read. Excel allows 255."""
_MAX_DAY = 2_958_466
"""The day after 9999-12-31, counted from 1899-12-30."""
_DAYS_TO_1904 = 1_462
"""The days from 1899-12-30 to 1904-01-01, the first day of the date system of old Macs."""
_DECIMAL_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")
_FORMAT_LITERALS = re.compile(
    r'"[^"]*"|\\.|_.|\*.|\[(?!(?:h+|m+|s+)\])[^\]]*\]', re.DOTALL | re.IGNORECASE
)
_XML_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")
_SURROGATES = re.compile("[\ud800-\udfff]")
_TO_ESCAPE = re.compile(
    "_(?=x[0-9A-Fa-f]{4}_)|[\x00-\x08\x0b\x0c\r\x0e-\x1f\ud800-\udfff\ufffe\uffff]"
)


def date_kind(format_code: str) -> DateKind | None:
    """Return what a number with this format code stands for; None for a plain number."""
    code = _FORMAT_LITERALS.sub("", format_code[:MAX_FORMAT_LENGTH]).lower()
    if code in {"general", "standard"}:
        return None
    if "y" in code or "d" in code:
        return DateKind.DATE
    if "h" in code or "s" in code:
        return DateKind.TIME
    return DateKind.DATE if "m" in code else None


def number_text(raw: str) -> str:
    """Return a number without exponent and without trailing zeros of its fraction.

    A double is rounded to 15 digits, as Excel shows it: 19.989999999999998 is 19.99. A whole number
    keeps all digits that are in the file. Text that is not a number is returned unchanged.
    """
    text = raw.strip()
    if text.isascii() and text.isdigit():
        return text
    if not _DECIMAL_NUMBER.fullmatch(text) or isinf(value := float(text)):
        return raw
    if value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    digits = format(Decimal(text if text.lstrip("-").isdigit() else format(value, ".15g")), "f")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def date_text(raw: str, kind: DateKind, *, from_1904: bool = False) -> str:
    """Return a number with a date format as `2026-11-28`, `2026-11-28 14:05:00` or `14:05:00`.

    Numbers count days. A time of a day or more, such as 36:00:00, is a duration. A number that is no
    date is returned as a number.
    """
    text = raw.strip()
    if not _DECIMAL_NUMBER.fullmatch(text):
        return raw
    days = float(text)
    if not 0 <= days < _MAX_DAY - (_DAYS_TO_1904 if from_1904 else 0):
        return number_text(raw)
    seconds = round(days * 86_400)
    if kind is DateKind.TIME or 0 < days < 1:
        return f"{seconds // 3_600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    # Excel counts the day 1900-02-29, which did not exist.
    start = datetime(1899, 12, 31 if days < 60 and not from_1904 else 30)  # noqa: DTZ001
    try:
        return _format_time(
            start + timedelta(_DAYS_TO_1904 if from_1904 else 0, seconds),
        )
    except OverflowError:  # rounded to the year 10000
        return number_text(raw)


def iso_date_text(raw: str) -> str:
    """Return a date in ISO 8601 in the form of `date_text`, without its time zone."""
    try:
        return _format_time(datetime.fromisoformat(raw.strip()))
    except ValueError:
        return raw


def _format_time(time: datetime) -> str:
    has_time = time.hour or time.minute or time.second
    return f"{time:%Y-%m-%d %H:%M:%S}" if has_time else f"{time:%Y-%m-%d}"


def unescape(text: str) -> str:
    """Return text with its escapes `_xHHHH_` replaced by characters (ECMA-376 Part 1, 22.9.2.19)."""
    if "_x" not in text:
        return text
    text = _XML_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    if _SURROGATES.search(text):  # two escapes for one character
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def escape(text: str) -> str:
    """Return text as the content of an XML element. `unescape` returns the text again."""
    text = _TO_ESCAPE.sub(lambda match: f"_x{ord(match[0]):04X}_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def column_letters(column: int) -> str:
    """Return the letters of a column. The first column, A, is 0."""
    letters = ""
    column += 1
    while column:
        column, letter = divmod(column - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


def column_number(letters: str) -> int | None:
    """Return the number of a column, 0 for A; None if there is no such column."""
    if not (1 <= len(letters) <= 3 and letters.isascii() and letters.isalpha()):
        return None
    number = 0
    for letter in letters.upper():
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1 if number <= MAX_COLUMNS else None


MAX_COLUMNS = 16_384
"""Columns of a worksheet. ECMA-376 and Excel."""
MAX_ROWS = 1_048_576
"""Rows of a worksheet."""
MAX_CELL_UNITS = 32_767
"""Characters in a cell, as Excel counts them: UTF-16 units."""
