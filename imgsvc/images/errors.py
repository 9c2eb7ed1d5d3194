"""What can be wrong with a picture, said so that its reader knows what to do."""

from __future__ import annotations

from imgsvc.errors import ImageError, ImageErrorCode


def truncated() -> ImageError:
    return corrupt("The file ends before the picture does: it was cut short")


def corrupt(message: str) -> ImageError:
    return ImageError(ImageErrorCode.CORRUPT_IMAGE, message)


def damaged(kind: str) -> ImageError:
    return corrupt(f"The {kind.upper()} file is damaged or incomplete and cannot be decoded")


def unsupported(name: str, advice: str = "") -> ImageError:
    """The file is a picture in a format that the service does not read."""
    message = f"{name} is not among the formats that can be compressed"
    return ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{message}{advice and f'; {advice}'}")


def not_an_image(what: str) -> ImageError:
    return ImageError(ImageErrorCode.NOT_AN_IMAGE, what)


def out_of_memory() -> ImageError:
    return ImageError(
        ImageErrorCode.OUT_OF_MEMORY,
        "The picture needs more memory than one worker may use (compress.worker_memory_bytes)",
    )


def too_many_pixels(width: int, height: int, frames: int, limit: int) -> ImageError:
    size = f"{width:,} × {height:,} pixels"
    if frames > 1:
        size += f" in {frames:,} frames"
    return ImageError(
        ImageErrorCode.TOO_MANY_PIXELS,
        f"The picture has {size}; the limit is {limit:,} pixels (compress.max_pixels)",
    )
