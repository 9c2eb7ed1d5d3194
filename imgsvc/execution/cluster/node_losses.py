"""Losses: how often a node was lost while it compressed an image. No I/O.

An image can end a whole machine, for example by its memory. Such an image runs alone from its second
loss on, so that the third proves that it is the cause. Losses are forgotten at a restart.
"""

from __future__ import annotations

from imgsvc.models import Claim

MAX_LOSSES = 3
"""Losses after which an image fails with `compress_crashed`."""
SUSPECT_LOSSES = 2
"""Losses after which an image runs alone on a node."""
MAX_IMAGES = 10_000
"""Images whose losses are remembered. Beyond it, the oldest are forgotten."""

_ImageKey = tuple[int, str]


class NodeLosses:
    """Counts the losses of images."""

    def __init__(self) -> None:
        self._losses: dict[_ImageKey, int] = {}

    def record(self, claim: Claim) -> bool:
        """Record a loss. Return whether the image may be tried again."""
        image = _image(claim)
        losses = self._losses.pop(image, 0) + 1
        if losses >= MAX_LOSSES:
            return False
        self._losses[image] = losses
        if len(self._losses) > MAX_IMAGES:
            del self._losses[next(iter(self._losses))]
        return True

    def is_suspect(self, claim: Claim) -> bool:
        """Return whether the image has to run alone."""
        return self._losses.get(_image(claim), 0) >= SUSPECT_LOSSES

    def clear(self, claim: Claim) -> None:
        """Forget the losses of an image that was compressed."""
        self._losses.pop(_image(claim), None)


def _image(claim: Claim) -> _ImageKey:
    return claim.request_key, claim.url
