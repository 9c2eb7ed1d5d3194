"""The results of the pool's jobs: outputs, errors, and images that workers crashed on."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable
from contextlib import suppress

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressedImage
from imgsvc.workers.worker_main import UnexpectedFailure
from imgsvc.workers.worker_process import CompressionJob

log = logging.getLogger(__name__)


def resolve(job: CompressionJob, result: CompressedImage | ImageError | UnexpectedFailure) -> None:
    """Set the output or the error of an image, unless its caller has cancelled it."""
    if job.done.done():
        return
    if isinstance(result, CompressedImage):
        job.done.set_result(result)
    elif isinstance(result, ImageError):
        job.done.set_exception(result)
    else:
        log.error(
            "compressing an image failed with an unexpected error: %s",
            result.name,
            extra={"traceback": result.traceback},
        )
        message = f"Internal error ({result.name}). See the service log."
        fail([job], ImageErrorCode.INTERNAL, message)


def fail(jobs: Iterable[CompressionJob], code: ImageErrorCode, message: str) -> None:
    """Fail images permanently."""
    for job in jobs:
        resolve(job, ImageError(code, message))


def quarantine(job: CompressionJob, code: int | None) -> None:
    """Fail an image permanently, because workers crashed on it."""
    times = max(job.record.crashes, job.record.unattributed)
    message = f"The worker crashed {times} times on this image ({exit_name(code)})."
    fail([job], ImageErrorCode.COMPRESS_CRASHED, message)


def timeout_message(seconds: float) -> str:
    """Return the message of an image that took longer than this."""
    unit = "second" if seconds == 1 else "seconds"
    return f"Compression took longer than {seconds:g} {unit} and was stopped."


def exit_name(code: int | None) -> str:
    """Return the signal's name or the exit code, as text."""
    with suppress(ValueError):
        if code is not None and code < 0:
            return signal.Signals(-code).name
    return "unknown exit code" if code is None else f"exit code {code}"
