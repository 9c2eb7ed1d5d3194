"""GIF files, block by block."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from imgsvc.images.compose import Disposal
from imgsvc.images.errors import corrupt, truncated

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_CONTROL, _APPLICATION = 0xF9, 0xFF
_LOOPING = re.compile(rb"(NETSCAPE2\.0|ANIMEXTS1\.0)\x03\x01..\0", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One frame: its place, its colours (None: the file's), and its compressed data."""

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
    """What a GIF file says of itself. `plays` is 0 for ever. `pieces` are the blocks that show."""

    screen: tuple[int, int]
    palette: bytes | None
    plays: int = 1
    parts: list[Part] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """The canvas: the screen, grown where the first frame is larger, as browsers do."""
        first = self.parts[0]
        return (
            max(self.screen[0], first.left + first.width),
            max(self.screen[1], first.top + first.height),
        )

    def frame(self, part: Part) -> bytes:
        """One frame as a GIF file of its own."""
        palette = part.palette or self.palette or b""
        flags = _palette_flags(palette)
        head = struct.pack("<6sHHBBB", b"GIF89a", part.width, part.height, flags, 0, 0) + palette
        if part.transparent is not None:
            head += struct.pack("<BBBBHBB", _EXTENSION, _CONTROL, 4, 1, 0, part.transparent, 0)
        place = struct.pack(
            "<BHHHHB", _IMAGE, 0, 0, part.width, part.height, 0x40 if part.interlaced else 0
        )
        return head + place + part.data + b";"


def _palette_flags(palette: bytes) -> int:
    return 0x80 | (max(len(palette) // 3, 2).bit_length() - 2) if palette else 0


def read(data: bytes) -> Gif:
    """Read everything but the pixels. Raises `corrupt_image`."""
    return _Reader(data).read()


def strip(data: bytes) -> bytes:
    """The GIF file without comments, foreign extensions, and anything behind its end."""
    return b"".join(read(data).pieces)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._control: bytes | None = None

    def read(self) -> Gif:
        head = self._take(13)
        width, height, flags = struct.unpack_from("<HHB", head, 6)
        palette = self._palette(flags)
        gif = Gif((width, height), palette, pieces=[b"GIF89a" + head[6:] + (palette or b"")])
        while (kind := self._take(1)[0]) != _TRAILER:
            if kind == _EXTENSION:
                self._extension(gif)
            elif kind == _IMAGE:
                self._image(gif)
            elif gif.parts:  # junk behind a frame ends the file, as it does in browsers
                break
            else:
                raise corrupt("A block of the GIF file is of no known kind: the file is damaged")
        if not gif.parts:
            raise corrupt("The GIF file has no picture data")
        gif.pieces.append(b";")
        return gif

    def _take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise truncated()
        self._at += count
        return piece

    def _palette(self, flags: int) -> bytes | None:
        return self._take(6 << (flags & 7)) if flags & 0x80 else None

    def _skip_blocks(self) -> None:
        data, at = self._data, self._at
        try:
            while data[at]:
                at += data[at] + 1
        except IndexError:
            raise truncated() from None
        self._at = at + 1

    def _extension(self, gif: Gif) -> None:
        start = self._at - 1
        label = self._take(1)[0]
        first = self._at
        self._skip_blocks()
        body = self._data[first + 1 : self._at]
        if label == _CONTROL and len(body) >= 5:
            self._control = body[:4]
        elif label == _APPLICATION and _LOOPING.match(body):
            duplicate_urls = int.from_bytes(body[13:15], "little")
            gif.plays = duplicate_urls + 1 if duplicate_urls else 0
            gif.pieces.append(self._data[start : self._at])

    def _image(self, gif: Gif) -> None:
        start = self._at - 1
        left, top, width, height, flags = struct.unpack("<HHHHB", self._take(9))
        palette = self._palette(flags)
        first = self._at
        self._take(1)
        self._skip_blocks()
        control = self._control or bytes(4)
        self._control = None
        if any(control):
            gif.pieces.append(b"\x21\xf9\x04" + control + b"\0")
        gif.pieces.append(self._data[start : self._at])
        if not width or not height:
            raise corrupt("A frame of the GIF file has no pixels")
        gif.parts.append(
            Part(
                *(left, top, width, height, palette, bool(flags & 0x40)),
                transparent=control[3] if control[0] & 1 else None,
                duration=10 * int.from_bytes(control[1:3], "little"),
                disposal=_disposal(control[0] >> 2 & 7),
                data=self._data[first : self._at],
            )
        )


def _disposal(method: int) -> Disposal:
    return {2: Disposal.BACKGROUND, 3: Disposal.PREVIOUS}.get(method, Disposal.NONE)
