"""The errors of image files, with messages for shop owners."""

from __future__ import annotations

from imgsvc.errors import ImageError, ImageErrorCode


def truncated() -> ImageError:
    """Return a `corrupt_image` error for a file that ends too early."""
    return corrupt("The image file is incomplete: data is missing at its end.")


def corrupt(message: str) -> ImageError:
    """Return a `corrupt_image` error."""
    return ImageError(ImageErrorCode.CORRUPT_IMAGE, message)


def damaged(format_name: str) -> ImageError:
    """Return a `corrupt_image` error for a file of a known format that cannot be decoded."""
    return corrupt(f"The {format_name.upper()} file is damaged or incomplete.")


def unsupported(subject: str, advice: str = "") -> ImageError:
    """Return an `unsupported_format` error: `subject` (such as "SVG files") cannot be compressed."""
    message = f"{subject} cannot be compressed."
    return ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{message}{advice and f' {advice}'}")


def does_not_fit(format_title: str, width: int, height: int, max_side: int) -> ImageError:
    """Return an `unsupported_format` error for an image that the requested format cannot hold."""
    if max(width, height) > max_side:
        reason = (
            f"The image has {width:,} × {height:,} pixels. {format_title} allows at most "
            f"{max_side:,} pixels a side. Choose another format, or set a smaller maximum size"
        )
    else:
        reason = f"The animation is longer than {format_title} allows. Choose another format for it"
    return ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{reason}.")


def not_an_image(message: str) -> ImageError:
    """Return a `not_an_image` error."""
    return ImageError(ImageErrorCode.NOT_AN_IMAGE, message)


def out_of_memory() -> ImageError:
    """Return an `out_of_memory` error for an image that exceeds a worker's memory limit."""
    return ImageError(
        ImageErrorCode.OUT_OF_MEMORY,
        "The image needs more memory than a worker may use (compress.worker_memory_bytes).",
    )


def too_many_parts(parts: str, limit: int) -> ImageError:
    """Return a `too_many_pixels` error for a file with more parts, such as frames, than the limit.

    The code is the same, because each of them costs as much time as pixels do.
    """
    return ImageError(
        ImageErrorCode.TOO_MANY_PIXELS, f"The image has too many {parts}. The limit is {limit:,}."
    )


def too_many_pixels(width: int, height: int, frames: int, limit: int) -> ImageError:
    """Return a `too_many_pixels` error that states the size and the limit."""
    size = f"{width:,} × {height:,} pixels"
    if frames > 1:
        size += f" in {frames:,} frames"
    return ImageError(
        ImageErrorCode.TOO_MANY_PIXELS,
        f"The image has {size}. The limit is {limit:,} pixels (compress.max_pixels).",
    )
