"""Composition of animation frames, with the same results as in browsers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from PIL import Image


class Disposal(IntEnum):
    """What happens to a frame's area before the next frame is drawn. The values are those of APNG."""

    NONE = 0
    BACKGROUND = 1
    PREVIOUS = 2


@dataclass(frozen=True, slots=True)
class Layer:
    """One frame as stored in the file: RGBA pixels and their position on the canvas.

    If `blend` is true, draw the pixels over the canvas; otherwise replace it. `duration` is in
    milliseconds.
    """

    image: Image.Image
    offset: tuple[int, int]
    disposal: Disposal
    blend: bool
    duration: float


@dataclass(frozen=True, slots=True)
class Frame:
    """One complete frame, shown for `duration` milliseconds."""

    image: Image.Image
    duration: float = 0


def compose(size: tuple[int, int], layers: Iterable[Layer]) -> Iterator[Frame]:
    """Yield the canvas after each layer is drawn. The canvas starts fully transparent."""
    canvas = Image.new("RGBA", size)
    for number, layer in enumerate(layers):
        left, top = layer.offset
        width, height = layer.image.size
        box = (left, top, min(left + width, size[0]), min(top + height, size[1]))
        is_visible = box[2] > left and box[3] > top
        previous = canvas.copy() if layer.disposal is Disposal.PREVIOUS and number else None
        if is_visible:
            _draw(canvas, layer, box)
        yield Frame(canvas.copy(), layer.duration)
        if previous is not None:
            canvas = previous
        elif is_visible and layer.disposal is not Disposal.NONE:
            canvas.paste((0, 0, 0, 0), box)


def _draw(canvas: Image.Image, layer: Layer, box: tuple[int, int, int, int]) -> None:
    size = (box[2] - box[0], box[3] - box[1])
    image = layer.image if layer.image.size == size else layer.image.crop((0, 0, *size))
    if layer.blend:
        canvas.alpha_composite(image, box[:2])
    else:
        canvas.paste(image, box)
