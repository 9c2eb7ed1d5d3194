"""The delays between attempts, for images and webhooks. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

from imgsvc.errors import ImageError, ImageErrorCode

FIRST_DELAY_SECONDS = 1.0
"""The delay before the second attempt. It doubles with each further attempt."""
MAX_DELAY_SECONDS = 60.0
"""The limit of the doubled delay, before it is varied at random."""
MAX_RETRY_AFTER_SECONDS = 300.0
"""The limit of the delay that a host may request with `Retry-After`."""

TRANSIENT_CODES = frozenset(
    {
        ImageErrorCode.CONNECT_FAILED,
        ImageErrorCode.DNS_FAILURE,
        ImageErrorCode.TIMEOUT,
        ImageErrorCode.INCOMPLETE_BODY,
    }
)
"""The errors for which the same fetch may succeed later, besides `http_status`."""
TRANSIENT_STATUSES = frozenset({408, 425, 429})
"""Request Timeout, Too Early and Too Many Requests. Every 5xx is transient as well."""


def is_transient(error: ImageError) -> bool:
    """Return whether the same fetch may succeed later."""
    if error.code is ImageErrorCode.HTTP_STATUS:
        status = error.http_status or 0
        return status in TRANSIENT_STATUSES or 500 <= status <= 599
    return error.code in TRANSIENT_CODES


def retry_delay(
    attempts_made: int, error: ImageError, limit: int, random: Callable[[], float]
) -> float | None:
    """Return the delay before the next attempt in seconds, or None if there is no next attempt.

    `attempts_made` includes the attempt that has just failed. `limit` is the maximum number of
    attempts. `random` returns a number from 0 to 1.

    The delay doubles from 1 s to 60 s. It is varied by up to 25 % in both directions. It is at least
    the delay that the host has requested with `Retry-After`, up to 5 minutes.
    """
    if attempts_made >= limit or not is_transient(error):
        return None
    doubled = FIRST_DELAY_SECONDS * 2.0 ** min(attempts_made - 1, 16)
    delay = min(doubled, MAX_DELAY_SECONDS) * (0.75 + 0.5 * random())
    return max(delay, min(error.retry_after or 0.0, MAX_RETRY_AFTER_SECONDS))


def webhook_retry_delay(attempts_made: int, delays: Sequence[float]) -> float | None:
    """Return the delay before a webhook is sent again in seconds, or None after the last retry.

    `attempts_made` includes the attempt that has just failed. `delays` has one entry for each retry.
    """
    return delays[attempts_made - 1] if attempts_made <= len(delays) else None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return a `Retry-After` header as seconds from `now`, which is a Unix time.

    The value is a number of seconds or an HTTP date. Return None if it is neither, and 0 if the date
    has passed.
    """
    text = (value or "").strip()[:64]
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # HTTP dates are UTC, with or without a time zone
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
