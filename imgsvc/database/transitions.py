"""The states that an image may change to."""

from __future__ import annotations

from collections.abc import Mapping

from imgsvc.models import ImageStatus

IMAGE_TRANSITIONS: Mapping[ImageStatus, frozenset[ImageStatus]] = {
    ImageStatus.PENDING: frozenset(
        {ImageStatus.PROCESSING, ImageStatus.FAILED, ImageStatus.CANCELLED}
    ),
    ImageStatus.PROCESSING: frozenset(
        {
            ImageStatus.PENDING,
            ImageStatus.COMPLETED,
            ImageStatus.FAILED,
            ImageStatus.CANCELLED,
        }
    ),
    ImageStatus.FAILED: frozenset({ImageStatus.PENDING}),
    ImageStatus.CANCELLED: frozenset({ImageStatus.PENDING}),
    ImageStatus.COMPLETED: frozenset(),
}
"""The states that may follow each state.

A failed or cancelled image becomes pending only if a user retries it.
"""


class InvalidTransitionError(Exception):
    """A forbidden change of an image's state. This is always a bug, never a user's mistake."""


def check_transition(before: ImageStatus, after: ImageStatus) -> None:
    """Raise `InvalidTransitionError` unless an image may change from `before` to `after`."""
    if after not in IMAGE_TRANSITIONS[before]:
        raise InvalidTransitionError(f"an image that is {before} cannot become {after}")
