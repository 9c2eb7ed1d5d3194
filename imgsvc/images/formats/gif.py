"""The GIF format. `gif_writer.py` writes it."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL.GifImagePlugin import GifImageFile

from imgsvc.image_types import ImageFormat
from imgsvc.images import palette
from imgsvc.images.compose import Disposal, Layer, compose
from imgsvc.images.errors import corrupt, truncated
from imgsvc.images.formats import gif_writer
from imgsvc.images.formats.base import (
    Codec,
    DecodedImage,
    DecodeLimits,
    EncodeSettings,
    with_frames,
)
from imgsvc.images.part_limits import check_blocks, check_frames

_EXTENSION, _IMAGE_DESCRIPTOR, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL, _APPLICATION = 0xF9, 0xFF
_ZEROS = re.compile(rb"\0+")
_LOOP_EXTENSION = re.compile(rb"(NETSCAPE2\.0|ANIMEXTS1\.0)\x03\x01..\0", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GifFrame:
    """One frame: its position, its palette (None: the global palette), and its compressed data.

    `transparent` is the palette index of the transparent colour. `duration` is in milliseconds.
    """

    left: int
    top: int
    width: int
    height: int
    palette: bytes | None
    interlaced: bool
    transparent: int | None
    duration: int
    disposal: Disposal
    data: bytes


@dataclass(slots=True)
class Gif:
    """The contents of a GIF file, without its pixels.

    `play_count` 0 means endless. `visible_blocks` are the blocks that affect how the image looks.
    """

    screen: tuple[int, int]
    palette: bytes | None
    play_count: int = 1
    frames: list[GifFrame] = field(default_factory=list)
    visible_blocks: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """The canvas size: the screen size, enlarged to hold the first frame, as in browsers."""
        first = self.frames[0]
        return (
            max(self.screen[0], first.left + first.width),
            max(self.screen[1], first.top + first.height),
        )

    def frame_file(self, frame: GifFrame) -> bytes:
        """Return one frame as a separate GIF file."""
        palette = frame.palette or self.palette or b""
        flags = _palette_flags(palette)
        header = (
            struct.pack("<6sHHBBB", b"GIF89a", frame.width, frame.height, flags, 0, 0) + palette
        )
        if frame.transparent is not None:
            header += struct.pack(
                "<BBBBHBB", _EXTENSION, _GRAPHIC_CONTROL, 4, 1, 0, frame.transparent, 0
            )
        descriptor = struct.pack(
            "<BHHHHB",
            _IMAGE_DESCRIPTOR,
            0,
            0,
            frame.width,
            frame.height,
            0x40 if frame.interlaced else 0,
        )
        return header + descriptor + frame.data + b";"


def _palette_flags(palette: bytes) -> int:
    return 0x80 | (max(len(palette) // 3, 2).bit_length() - 2) if palette else 0


def read(data: bytes) -> Gif:
    """Parse a GIF file without decoding its pixels. Raise `corrupt_image`."""
    return _Reader(data).read()


def strip(data: bytes) -> bytes:
    """Return the GIF file without comments, unknown extensions, and data after its end."""
    return b"".join(read(data).visible_blocks)


class _Reader:
    """A parser of one GIF file.

    If it is lenient, the file may end within the compressed pixels of its last frame.
    """

    def __init__(self, data: bytes, *, lenient: bool = False) -> None:
        self._data = data
        self._lenient = lenient
        self._position = 0
        self._control: bytes | None = None

    def read(self) -> Gif:
        header = self._read_bytes(13)
        width, height, flags = struct.unpack_from("<HHB", header, 6)
        palette = self._read_palette(flags)
        gif = Gif(
            (width, height), palette, visible_blocks=[b"GIF89a" + header[6:] + (palette or b"")]
        )
        count = 0
        while (block_type := self._read_block_type(gif)) != _TRAILER:
            count += 1
            check_blocks(count)
            if block_type == _EXTENSION:
                self._read_extension(gif)
            elif block_type == _IMAGE_DESCRIPTOR:
                self._read_image(gif)
            elif gif.frames:  # unknown data after a frame ends the file, as in browsers
                break
            else:
                raise corrupt("The GIF file is damaged: it has a block of unknown type.")
        if not gif.frames:
            raise corrupt("The GIF file has no image data.")
        gif.visible_blocks.append(b";")
        return gif

    def _read_block_type(self, gif: Gif) -> int:
        """Return the type of the next block. Zeros before it are skipped.

        If the file ends after a complete frame, it only lacks its trailer.
        """
        if zeros := _ZEROS.match(self._data, self._position):
            self._position = zeros.end()
        if self._position >= len(self._data) and gif.frames and self._control is None:
            return _TRAILER
        return self._read_bytes(1)[0]

    def _read_bytes(self, count: int) -> bytes:
        chunk = self._data[self._position : self._position + count]
        if len(chunk) < count:
            raise truncated()
        self._position += count
        return chunk

    def _read_image_data(self) -> bytes:
        """Return the compressed pixels: the code size and blocks of data, the last one empty."""
        start = self._position
        self._read_bytes(1)
        if not self._lenient:
            self._skip_blocks()
            return self._data[start : self._position]
        blocks = [self._data[start : self._position]]
        while size := int.from_bytes(self._data[self._position : self._position + 1]):
            block = self._data[self._position + 1 : self._position + 1 + size]
            blocks.append(bytes([len(block)]) + block if block else b"")
            self._position += 1 + size
        self._position += 1
        return b"".join(blocks) + b"\0"

    def _read_palette(self, flags: int) -> bytes | None:
        return self._read_bytes(6 << (flags & 7)) if flags & 0x80 else None

    def _skip_blocks(self) -> None:
        data, position = self._data, self._position
        try:
            while data[position]:
                position += data[position] + 1
        except IndexError:
            raise truncated() from None
        self._position = position + 1

    def _read_extension(self, gif: Gif) -> None:
        start = self._position - 1
        label = self._read_bytes(1)[0]
        first = self._position
        self._skip_blocks()
        body = self._data[first + 1 : self._position]
        if label == _GRAPHIC_CONTROL and len(body) >= 5:
            self._control = body[:4]
        elif label == _APPLICATION and _LOOP_EXTENSION.match(body):
            repeats = int.from_bytes(body[13:15], "little")
            gif.play_count = repeats + 1 if repeats else 0
            gif.visible_blocks.append(self._data[start : self._position])

    def _read_image(self, gif: Gif) -> None:
        check_frames(len(gif.frames) + 1)
        start = self._position - 1
        left, top, width, height, flags = struct.unpack("<HHHHB", self._read_bytes(9))
        palette = self._read_palette(flags)
        first = self._position
        pixels = self._read_image_data()
        control = self._control or bytes(4)
        self._control = None
        if any(control):
            gif.visible_blocks.append(b"\x21\xf9\x04" + control + b"\0")
        gif.visible_blocks.append(self._data[start:first] + pixels)
        if not width or not height:
            raise corrupt("A frame of the GIF file has no pixels.")
        gif.frames.append(
            GifFrame(
                *(left, top, width, height, palette, bool(flags & 0x40)),
                transparent=control[3] if control[0] & 1 else None,
                duration=10 * int.from_bytes(control[1:3], "little"),
                disposal=_disposal(control[0] >> 2 & 7),
                data=pixels,
            )
        )


def repair(data: bytes, limits: DecodeLimits) -> bytes:
    """Return a GIF that lacks its last bytes as a valid file, without metadata.

    Raise `corrupt_image` or OSError if pixels of the last frame are missing.
    """
    file = _Reader(data, lenient=True).read()
    last = file.frames[-1]
    limits.check(*file.size, len(file.frames))
    limits.check(last.width, last.height)
    with GifImageFile(io.BytesIO(file.frame_file(last))) as image:
        image.load()
    return b"".join(file.visible_blocks)


def _disposal(method: int) -> Disposal:
    return {2: Disposal.BACKGROUND, 3: Disposal.PREVIOUS}.get(method, Disposal.NONE)


def matches(head: bytes) -> bool:
    """Return whether a file starts like a GIF."""
    return head.startswith((b"GIF87a", b"GIF89a"))


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode a GIF."""
    file = read(data)
    size = file.size
    limits.check(*size, len(file.frames))
    for frame in file.frames:
        limits.check(frame.width, frame.height)

    def layers() -> Iterator[Layer]:
        for frame in file.frames:
            with GifImageFile(io.BytesIO(file.frame_file(frame))) as image:
                image.load()
                pixels = image.convert("RGBA")
            offset = (frame.left, frame.top)
            yield Layer(pixels, offset, frame.disposal, blend=True, duration=frame.duration)

    return with_frames(
        DecodedImage(
            ImageFormat.GIF, [], play_count=file.play_count, source_frames=len(file.frames)
        ),
        compose(size, layers()),
        limits,
    )


def encode(decoded: DecodedImage, settings: EncodeSettings) -> bytes:
    """Return the image as a GIF. The quality is the percentage of 256 colours."""
    colours = palette.colour_count(settings.quality)
    return gif_writer.write(decoded.frames, decoded.play_count, colours)


CODEC = Codec(matches, decode, encode, strip, repair=repair)
