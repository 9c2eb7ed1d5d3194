"""Read ICC profiles as strictly as browsers do (ICC.1:2022; the rules are those of skcms).

Chromium ignores an invalid profile in most formats, but does not show an AVIF that contains one.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache

from PIL import ImageCms

from imgsvc.images.icc import Hdr, HdrTransfer

_HEADER_BYTES, _ENTRY_BYTES = 132, 12
"""Sizes of the header with the number of tags, and of one entry of the table of tags."""

_MAX_VERSION = 4
_MAX_TAGS = 100
"""Maximum number of tags, as in LittleCMS. Tags may share their bytes, so few bytes can hold many."""
_MAX_TEXTS = 1_000
"""Maximum number of translations of a text."""
_D50 = (0.9642, 1.0, 0.8249)
_D50_TOLERANCE = 0.01
_CURVE_TAGS, _COLORANT_TAGS = (b"rTRC", b"gTRC", b"bTRC"), (b"rXYZ", b"gXYZ", b"bXYZ")
_MAX_CHANNELS = 4
"""Most input channels of a conversion table that browsers read."""

_CODE_POINTS = {*range(1, 19), 22} - {3}
"""Primaries and transfers of ITU-T H.273."""

_PARAMETERS = (1, 3, 4, 5, 7)
"""Number of parameters by function type of a parametric curve."""


class ProfileError(ValueError):
    """A part of a profile is invalid."""


def colour_space(icc: bytes | None) -> bytes | None:
    """Return the colour space in the header of a profile, or None if that is not a valid header."""
    if icc is None or len(icc) < _HEADER_BYTES - 4 or icc[36:40] != b"acsp":
        return None
    return icc[16:20]


@lru_cache(maxsize=64)
def is_valid(icc: bytes) -> bool:
    """Return whether all that a reader needs of the profile is valid, for us and for LittleCMS."""
    try:
        _check(icc)
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = "L" if colour_space(icc) == b"GRAY" else "RGB"
        ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ProfileError, struct.error, ImageCms.PyCMSError, OSError):
        return False
    return True


@lru_cache(maxsize=64)
def hdr(icc: bytes | None) -> Hdr | None:
    """Return the colours of a profile of high dynamic range (its tag `cicp`), or None."""
    if icc is None or b"cicp" not in icc:
        return None
    try:
        tags = _tags(icc)
        body = tags.get(b"cicp", b"")
        if colour_space(icc) != b"RGB " or not body.startswith(b"cicp") or len(body) < 12:
            return None
        transfer = HdrTransfer(body[9])
    except (ProfileError, ValueError, struct.error):
        return None
    luminance = tags.get(b"lumi", b"")
    peak = struct.unpack_from(">i", luminance, 12)[0] >> 16 if len(luminance) >= 20 else 0
    return Hdr(body[8], transfer, max(peak, 0))


def _check(icc: bytes) -> None:
    """Raise `ProfileError` if browsers cannot use the profile."""
    tags = _tags(icc)
    space, connection = icc[16:20], icc[20:24]
    illuminant = struct.unpack_from(">3i", icc, 68)
    _require(
        icc[8] <= _MAX_VERSION
        and space in {b"RGB ", b"GRAY", b"CMYK"}
        and connection in {b"XYZ ", b"Lab "}
        and all(
            abs(value / 65_536 - wanted) <= _D50_TOLERANCE
            for value, wanted in zip(illuminant, _D50, strict=True)
        )
    )
    is_usable = False
    if space == b"GRAY" and b"kTRC" in tags:
        _check_curve(tags[b"kTRC"])
        is_usable = connection == b"XYZ "
    elif all(tag in tags for tag in _CURVE_TAGS):
        for tag in _CURVE_TAGS:
            _check_curve(tags[tag])
        is_usable = all(tag in tags for tag in _COLORANT_TAGS)
    if all(tag in tags for tag in _COLORANT_TAGS):
        for tag in _COLORANT_TAGS:
            _require(tags[tag].startswith(b"XYZ ") and len(tags[tag]) >= 20)
    for first, second in ((b"A2B0", b"A2B1"), (b"B2A0", b"B2A1")):
        table = tags.get(first, tags.get(second))
        if table is not None:
            _check_table(table, is_forward=first == b"A2B0")
            is_usable = is_usable or first == b"A2B0"
    _require(is_usable)
    for name, tag in tags.items():
        _check_type(name, tag)


def _check_type(name: bytes, tag: bytes) -> None:
    """Check the tags that describe a profile or all its colours. Raise `ProfileError`."""
    kind = tag[:4]
    if name == b"chad":
        _require(kind == b"sf32" and len(tag) >= 44)
    elif name in {b"wtpt", b"bkpt", b"lumi"}:
        _require(kind == b"XYZ " and len(tag) >= 20)
    elif name == b"cicp":
        _require(kind == b"cicp" and len(tag) >= 12)
        _require(tag[8] in _CODE_POINTS and tag[9] in _CODE_POINTS)
    elif kind == b"desc":
        _require(12 + struct.unpack_from(">I", tag, 8)[0] <= len(tag))
    elif kind == b"mluc":
        count, size = struct.unpack_from(">II", tag, 8)
        _require(size == 12 and count <= _MAX_TEXTS and 16 + count * size <= len(tag))
        for number in range(count):
            length, start = struct.unpack_from(">II", tag, 20 + number * size)
            _require(start + length <= len(tag))


def _require(condition: bool) -> None:
    if not condition:
        raise ProfileError


def _tags(icc: bytes) -> dict[bytes, bytes]:
    """Return the tags of a profile, the first of each name. Raise `ProfileError`."""
    _require(len(icc) >= _HEADER_BYTES and icc[36:40] == b"acsp")
    size, count = struct.unpack_from(">I", icc)[0], struct.unpack_from(">I", icc, 128)[0]
    _require(count <= _MAX_TAGS and _HEADER_BYTES + count * _ENTRY_BYTES <= size <= len(icc))
    tags: dict[bytes, bytes] = {}
    contents: dict[tuple[int, int], bytes] = {}
    for number in range(count):
        name, start, length = struct.unpack_from(
            ">4sII", icc, _HEADER_BYTES + number * _ENTRY_BYTES
        )
        _require(length >= 4 and start + length <= size)
        if (start, length) not in contents:
            contents[start, length] = icc[start : start + length]
            _require(sum(map(len, contents.values())) <= 2 * size)
        tags.setdefault(name, contents[start, length])
    return tags


def _check_curve(tag: bytes, start: int = 0) -> int:
    """Check the curve at `start` of a tag, and return its size. Raise `ProfileError`."""
    kind: bytes
    count: int
    kind, count = struct.unpack_from(">4s4xI", tag, start)
    if kind == b"curv":
        size = 12 + 2 * count
    else:
        function = count >> 16
        _require(kind == b"para" and function < len(_PARAMETERS))
        number = _PARAMETERS[function]
        size = 12 + 4 * number
        _require(start + size <= len(tag))
        values = [value / 65_536 for value in struct.unpack_from(f">{number}i", tag, start + 12)]
        _check_parameters(values)
    _require(start + size <= len(tag))
    return size


def _check_parameters(values: list[float]) -> None:
    """Check that a parametric curve (g, a, b, c, d …) is defined everywhere from 0 to 1."""
    gamma, factor, offset, slope, limit, *_ = [*values, 1.0, 0.0, 0.0, 0.0][: max(5, len(values))]
    if len(values) == 1:
        factor, offset, slope, limit = 1.0, 0.0, 0.0, 0.0
    elif len(values) in {3, 4}:
        _require(factor != 0)
        slope, limit = 0.0, -offset / factor
    _require(factor >= 0 and slope >= 0 and limit >= 0 and gamma >= 0)
    _require(factor * limit + offset >= -1e-4)


def _check_table(tag: bytes, *, is_forward: bool) -> None:
    """Check a conversion table of one of the four types. Raise `ProfileError`."""
    kind = tag[:4]
    inputs, outputs = tag[8], tag[9]
    channels, others = (inputs, outputs) if is_forward else (outputs, inputs)
    _require(1 <= channels <= _MAX_CHANNELS and others == 3)
    if kind in {b"mft1", b"mft2"}:
        grid = tag[10]
        entries = grid**inputs * outputs
        if kind == b"mft1":
            size = 48 + 256 * (inputs + outputs) + entries
        else:
            before, after = struct.unpack_from(">HH", tag, 48)
            _require(2 <= before <= 4_096 and 2 <= after <= 4_096)
            size = 52 + 2 * (before * inputs + after * outputs + entries)
        _require(grid > 1 and size <= len(tag))
        return
    _require(kind == (b"mAB " if is_forward else b"mBA "))
    offsets = struct.unpack_from(">5I", tag, 12)
    b_curves, matrix, m_curves, table, a_curves = offsets
    device = channels
    _require(b_curves > 0)
    _check_curves(tag, b_curves, 3)
    if matrix or m_curves:
        _require(matrix > 0 and m_curves > 0 and matrix + 48 <= len(tag))
        _check_curves(tag, m_curves, 3)
    if table or a_curves:
        _require(table > 0 and a_curves > 0)
        _check_curves(tag, a_curves, device)
        grid_points = tag[table : table + inputs]
        entries = outputs
        for points in grid_points:
            entries *= points
        _require(min(grid_points) > 1 and tag[table + 16 : table + 17] in {b"\1", b"\2"})
        _require(table + 20 + entries * tag[table + 16] <= len(tag))
    else:
        _require(channels == 3)


def _check_curves(tag: bytes, start: int, count: int) -> None:
    for _ in range(count):
        start += -(-_check_curve(tag, start) // 4) * 4
