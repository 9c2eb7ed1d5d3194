"""Tests of animated GIFs: one palette for all frames if it saves bytes, else one for each."""

from __future__ import annotations

import random

from PIL import Image

from imgsvc.images.compose import Frame
from imgsvc.images.formats import gif, gif_writer
from tests.image_assertions import mean_difference, read_frames
from tests.sample_images import photograph

SIZE = (160, 120)


def has_own_palettes(data: bytes) -> bool:
    return any(frame.palette is not None for frame in gif.read(data).frames)


def moving_box() -> list[Image.Image]:
    """Return frames of a photograph, in which only a box moves, with other noise in each frame."""
    frames = []
    for step in range(6):
        frame = photograph(1, *SIZE)
        noise = Image.frombytes("RGB", SIZE, random.Random(step).randbytes(3 * SIZE[0] * SIZE[1]))
        frame = Image.blend(frame, noise, 0.02)
        frame.paste((250, 220, 30), (20 + step * 8, 40, 60 + step * 8, 80))
        frames.append(frame)
    return frames


def written(frames: list[Image.Image]) -> bytes:
    return gif_writer.write([Frame(frame, 80) for frame in frames], 0, 128)


def test_write_similar_frames_share_a_palette() -> None:
    frames = moving_box()
    data = written(frames)
    alone = sum(len(written([frame])) for frame in frames)
    assert not has_own_palettes(data)
    assert len(data) < 0.75 * alone
    shown = [image for image, _ in read_frames(data)]
    assert len(shown) == len(frames)
    for image, original in zip(shown, frames, strict=True):
        single = read_frames(written([original]))[0][0]
        assert mean_difference(image, original) < 1.33 * mean_difference(single, original)


def test_write_frames_of_different_colours_have_their_own_palettes() -> None:
    ramp = Image.linear_gradient("L").resize(SIZE)
    gradient = Image.merge(
        "RGB", (ramp, ramp.rotate(180), ramp.transpose(Image.Transpose.ROTATE_90).resize(SIZE))
    )
    channels = gradient.split()
    frames = [
        gradient,
        Image.merge("RGB", (channels[2], channels[0], channels[0])),
        Image.merge("RGB", (channels[1], channels[2], channels[0])),
        photograph(0, *SIZE),
        photograph(5, *SIZE),
    ]
    assert has_own_palettes(written(frames))


def test_write_animation_with_transparency_keeps_it() -> None:
    frames = []
    for step in range(4):
        frame = Image.new("RGBA", SIZE)
        frame.paste(photograph(1, 80, 60), (step * 20, step * 15))
        frames.append(frame)
    shown = [image for image, _ in read_frames(written(frames))]
    for image, original in zip(shown, frames, strict=True):
        assert image.getchannel("A").tobytes() == original.getchannel("A").tobytes()
        assert mean_difference(image, original) < 3
