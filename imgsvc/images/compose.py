"""How the frames of an animation are laid over one another, as browsers do it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from PIL import Image


class Disposal(IntEnum):
    """What becomes of a frame's place before the next is drawn; the numbers are APNG's."""

    NONE = 0
    BACKGROUND = 1
    PREVIOUS = 2


@dataclass(frozen=True, slots=True)
class Layer:
    """One frame as its file has it: RGBA pixels, and where they go."""

    image: Image.Image
    offset: tuple[int, int]
    disposal: Disposal
    over: bool
    duration: float


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as a person sees it, for `duration` milliseconds."""

    image: Image.Image
    duration: float = 0


def compose(size: tuple[int, int], layers: Iterable[Layer]) -> Iterator[Frame]:
    """Draw layers onto a canvas, one after the other; the background is transparent."""
    canvas = Image.new("RGBA", size)
    for number, layer in enumerate(layers):
        left, top = layer.offset
        width, height = layer.image.size
        box = (left, top, min(left + width, size[0]), min(top + height, size[1]))
        inside = box[2] > left and box[3] > top
        before = canvas.copy() if layer.disposal is Disposal.PREVIOUS and number else None
        if inside:
            _draw(canvas, layer, box)
        yield Frame(canvas.copy(), layer.duration)
        if before is not None:
            canvas = before
        elif inside and layer.disposal is not Disposal.NONE:
            canvas.paste((0, 0, 0, 0), box)


def _draw(canvas: Image.Image, layer: Layer, box: tuple[int, int, int, int]) -> None:
    size = (box[2] - box[0], box[3] - box[1])
    image = layer.image if layer.image.size == size else layer.image.crop((0, 0, *size))
    if layer.over:
        canvas.alpha_composite(image, box[:2])
    else:
        canvas.paste(image, box)
