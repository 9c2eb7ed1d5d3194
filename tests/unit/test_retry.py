"""Errors that are retried, and the delays between attempts."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.config import WebhookConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.retry import is_transient, parse_retry_after, retry_delay, webhook_retry_delay

TIMEOUT = ImageError(ImageErrorCode.TIMEOUT, "slow")
TRANSIENT = {"connect_failed", "dns_failure", "timeout", "incomplete_body"}


def status(number: int, retry_after: float | None = None) -> ImageError:
    return ImageError(
        ImageErrorCode.HTTP_STATUS, str(number), http_status=number, retry_after=retry_after
    )


@pytest.mark.parametrize("code", [c for c in ImageErrorCode if c is not ImageErrorCode.HTTP_STATUS])
def test_is_transient_for_error_code(code: ImageErrorCode) -> None:
    assert is_transient(ImageError(code, "x")) == (code in TRANSIENT)


@given(st.integers(100, 999))
def test_is_transient_for_408_425_429_and_5xx_only(number: int) -> None:
    expected = number in {408, 425, 429} or number // 100 == 5
    assert is_transient(status(number)) == expected


def test_retry_delay_doubles_from_one_second_to_one_minute() -> None:
    delays = [retry_delay(made, TIMEOUT, 100, lambda: 0.5) for made in range(1, 10)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert retry_delay(99, TIMEOUT, 100, lambda: 0.5) == 60


def test_retry_delay_varies_by_up_to_a_quarter() -> None:
    assert retry_delay(3, TIMEOUT, 100, lambda: 0.0) == 3
    assert retry_delay(3, TIMEOUT, 100, lambda: 1.0) == 5
    assert retry_delay(50, TIMEOUT, 100, lambda: 1.0) == 75


def test_retry_delay_is_none_after_last_attempt() -> None:
    assert retry_delay(3, TIMEOUT, 4, lambda: 0.5) == 4
    assert retry_delay(4, TIMEOUT, 4, lambda: 0.5) is None
    assert retry_delay(1, TIMEOUT, 1, lambda: 0.5) is None


def test_retry_delay_is_none_for_permanent_error() -> None:
    assert retry_delay(1, status(404, retry_after=5), 4, lambda: 0.5) is None
    blocked = ImageError(ImageErrorCode.BLOCKED_ADDRESS, "no")
    assert retry_delay(1, blocked, 4, lambda: 0.5) is None


def test_retry_delay_follows_retry_after_up_to_five_minutes() -> None:
    assert retry_delay(1, status(429, 120), 4, lambda: 0.5) == 120
    assert retry_delay(1, status(503, 100_000), 4, lambda: 0.5) == 300
    assert retry_delay(6, status(503, 1), 9, lambda: 0.5) == 32, (
        "never shorter than the doubled delay"
    )
    assert retry_delay(1, status(503, 0), 4, lambda: 0.5) == 1


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60),
        ("Tue Nov 14 22:14:20 2023", 60),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("١٢", None),
        ("Wed, 99 Nov 2023 22:14:20 GMT", None),
        ("Wed, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_parse_retry_after_reads_seconds_and_dates(
    value: str | None, expected: float | None
) -> None:
    assert parse_retry_after(value, NOW) == expected


@given(st.text())
def test_parse_retry_after_accepts_any_text(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0


def test_webhook_retry_delay_follows_configuration_then_is_none() -> None:
    delays = WebhookConfig().retry_delays_seconds
    actual = [webhook_retry_delay(made, delays) for made in range(1, 10)]
    assert actual == [5, 60, 300, 1_800, 7_200, 18_000, 36_000, None, None]
    assert webhook_retry_delay(1, ()) is None
