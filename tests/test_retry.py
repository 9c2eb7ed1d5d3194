"""When a failure is tried again, and after how long."""

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
def test_which_codes_are_transient(code: ImageErrorCode) -> None:
    assert is_transient(ImageError(code, "x")) == (code in TRANSIENT)


@given(st.integers(100, 999))
def test_which_statuses_are_transient(number: int) -> None:
    expected = number in {408, 425, 429} or number // 100 == 5
    assert is_transient(status(number)) == expected


def test_pauses_double_from_a_second_to_a_minute() -> None:
    pauses = [retry_delay(made, TIMEOUT, 100, lambda: 0.5) for made in range(1, 10)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert retry_delay(99, TIMEOUT, 100, lambda: 0.5) == 60


def test_pauses_vary_by_a_quarter_either_way() -> None:
    assert retry_delay(3, TIMEOUT, 100, lambda: 0.0) == 3
    assert retry_delay(3, TIMEOUT, 100, lambda: 1.0) == 5
    assert retry_delay(50, TIMEOUT, 100, lambda: 1.0) == 75


def test_there_are_as_many_attempts_in_all_as_allowed() -> None:
    assert retry_delay(3, TIMEOUT, 4, lambda: 0.5) == 4
    assert retry_delay(4, TIMEOUT, 4, lambda: 0.5) is None
    assert retry_delay(1, TIMEOUT, 1, lambda: 0.5) is None


def test_what_is_not_transient_is_not_tried_again() -> None:
    assert retry_delay(1, status(404, retry_after=5), 4, lambda: 0.5) is None
    gone = ImageError(ImageErrorCode.BLOCKED_ADDRESS, "no")
    assert retry_delay(1, gone, 4, lambda: 0.5) is None


def test_the_origin_may_ask_for_up_to_five_minutes() -> None:
    assert retry_delay(1, status(429, 120), 4, lambda: 0.5) == 120
    assert retry_delay(1, status(503, 100_000), 4, lambda: 0.5) == 300
    assert retry_delay(6, status(503, 1), 9, lambda: 0.5) == 32, "never sooner than our own"
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
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value, NOW) == expected


@given(st.text())
def test_no_retry_after_is_too_strange(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0


def test_a_webhook_follows_its_schedule_to_the_end() -> None:
    pauses = WebhookConfig().pauses_seconds
    tried = [webhook_retry_delay(made, pauses) for made in range(1, 10)]
    assert tried == [5, 60, 300, 1_800, 7_200, 18_000, 36_000, None, None]
    assert webhook_retry_delay(1, ()) is None
