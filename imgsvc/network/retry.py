"""(attempts, error) → wait so long, or give up. Pure; images and webhooks share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

from imgsvc.errors import ImageError, ImageErrorCode

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 300.0

TRANSIENT_CODES = frozenset(
    {
        ImageErrorCode.CONNECT_FAILED,
        ImageErrorCode.DNS_FAILURE,
        ImageErrorCode.TIMEOUT,
        ImageErrorCode.INCOMPLETE_BODY,
    }
)
TRANSIENT_STATUSES = frozenset({408, 425, 429})
"""Too slow, too early, too many; every 5xx is transient as well."""


def is_transient(error: ImageError) -> bool:
    """Tell whether the same fetch may well succeed a little later."""
    if error.code is ImageErrorCode.HTTP_STATUS:
        status = error.http_status or 0
        return status in TRANSIENT_STATUSES or 500 <= status <= 599
    return error.code in TRANSIENT_CODES


def retry_delay(
    attempts_made: int, error: ImageError, limit: int, random: Callable[[], float]
) -> float | None:
    """Give the seconds to wait before the next attempt, or None to give up.

    `attempts_made` counts the one that has just failed; `limit` is how many there may be in all.
    `random` gives a number from 0 to 1. The pause doubles from 1 s to 60 s, varied by a quarter either
    way, and is never shorter than what the origin asked for, up to 5 minutes.
    """
    if attempts_made >= limit or not is_transient(error):
        return None
    doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(attempts_made - 1, 16)
    pause = min(doubled, LONGEST_PAUSE_SECONDS) * (0.75 + 0.5 * random())
    return max(pause, min(error.retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS))


def webhook_retry_delay(attempts_made: int, pauses: Sequence[float]) -> float | None:
    """Give the seconds to wait before a webhook is sent again, or None when it has had its tries.

    `attempts_made` counts the one that has just failed.
    """
    return pauses[attempts_made - 1] if attempts_made <= len(pauses) else None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Read a `Retry-After` header, seconds or an HTTP date, as seconds from `now` (Unix seconds).

    Gives None for what is neither, and 0 for a date that has passed.
    """
    text = (value or "").strip()[:64]
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # HTTP's dates are UTC, whether they say so or not
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
