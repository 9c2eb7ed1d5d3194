"""Errors of this machine that pass, such as a lack of file descriptors.

They say nothing about an image, its host or one file. So they cost waiting, and never an attempt.
"""

from __future__ import annotations

import errno

from imgsvc.errors import DependencyError

_ERRNOS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EIO, errno.EROFS}
)
"""No file descriptors, no memory, a disk that fails or that the system has made read-only."""

MACHINE_ERROR_EVENT = "this machine lacks file descriptors or memory, or its disk fails; waiting"
"""The event to log for an error of the machine. Many may occur at once."""


class MachineError(DependencyError):
    """The machine lacks a resource, or its disk fails. A later attempt may succeed."""


def is_machine_error(error: BaseException) -> bool:
    """Return whether an error comes from this machine and passes.

    Look at the causes too: libraries wrap errors of the system.
    """
    if isinstance(error, MachineError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    # aiohttp keeps the error of the system in an attribute.
    cause = getattr(error, "os_error", None) or error.__cause__
    return isinstance(cause, BaseException) and is_machine_error(cause)
