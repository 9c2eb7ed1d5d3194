"""The code that runs in a worker process.

The main process imports this module too, so it does not import Pillow.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import c_double
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressedImage, CompressionSettings

NICENESS = 5
"""The nice value of workers: the main process gets the CPU first."""
OOM_SCORE = 800
"""`oom_score_adj` of workers: if memory runs out, the kernel ends a worker, not the main process."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_RETAINED_BYTES = 128 * 2**20
"""A worker that holds more memory than this after a batch returns memory to the system."""

Compress = Callable[[bytes, CompressionSettings, int], CompressedImage]


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """The configuration of a worker. `function` is the `module:name` of the function it runs."""

    function: str
    max_pixels: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class UnexpectedFailure:
    """An unexpected exception of an image: the class name, and the traceback for the log."""

    name: str
    traceback: str


Result = CompressedImage | ImageError | UnexpectedFailure | None
"""The result of an image. None: the image was revoked before the worker started it."""


class WorkerState:
    """A worker's state: the function it runs, and the two numbers it shares with the main process.

    `position` is the position of the current image (0: none). The worker skips images whose position
    is below `revoked`.
    """

    def __init__(self, setup: WorkerSetup, position: c_double, revoked: c_double) -> None:
        module, _, name = setup.function.partition(":")
        self.module = importlib.import_module(module)
        self.compress: Compress = getattr(self.module, name)
        self.setup = setup
        self.position = position
        self.revoked = revoked
        self.retained_bytes = min(_RETAINED_BYTES, setup.memory_bytes // 4)

    def compress_batch(
        self, first: int, images: Sequence[tuple[bytes, CompressionSettings]]
    ) -> list[Result]:
        """Compress images in order. `first` is the position of the first image."""
        results: list[Result] = []
        for position, (data, settings) in enumerate(images, first):
            if position < self.revoked.value:
                results.append(None)
                continue
            self.position.value = position
            results.append(self._compress_one(data, settings))
        self.position.value = 0
        if _memory_bytes(1) > self.retained_bytes:
            _release_memory()
        return results

    def _compress_one(self, data: bytes, settings: CompressionSettings) -> Result:
        try:
            return self.compress(data, settings, self.setup.max_pixels)
        except ImageError as error:
            # A copy without the traceback, whose frames hold the image and the list of results.
            return ImageError(error.code, error.message)
        except MemoryError:
            return ImageError(
                ImageErrorCode.OUT_OF_MEMORY,
                "The image needs more memory than a worker may use: "
                f"{self.setup.memory_bytes >> 20} MiB (compress.worker_memory_bytes).",
            )
        except Exception as error:  # noqa: BLE001 - the main process logs it
            return UnexpectedFailure(type(error).__name__, traceback.format_exc())


# Global, because an executor's initializer can pass nothing else to the calls.
_state: WorkerState | None = None


def start(setup: WorkerSetup, position: c_double, revoked: c_double) -> None:
    """Prepare this process. The executor runs this as its initializer."""
    global _state  # noqa: PLW0603
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the main process decides
    _end_with_parent()
    _lower_priority()
    state = WorkerState(setup, position, revoked)
    warm_up = getattr(state.module, "warm_up", None)
    if warm_up is not None:
        warm_up()
    _tune_malloc()
    gc.freeze()
    _limit_memory(setup.memory_bytes)
    _silence_libraries()
    _state = state


def ready() -> int:
    """Return the process id. The executor runs this after `start` has finished."""
    return os.getpid()


def compressed_images(
    first: int, images: Sequence[tuple[bytes, CompressionSettings]]
) -> list[Result]:
    """Compress the images of a batch in order. `first` is the position of the first image."""
    if _state is None:
        raise RuntimeError("call start() first")
    return _state.compress_batch(first, images)


def _end_with_parent() -> None:
    """End this process when the main process ends, for whatever reason."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="imgsvc-parent", daemon=True).start()
    # The thread needs the interpreter's lock, which a hung decoder may hold. So the kernel also sends
    # SIGIO, which ends the process by default.
    with suppress(OSError):
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _lower_priority() -> None:
    with suppress(OSError):
        os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _tune_malloc() -> None:
    """Keep freed image buffers, instead of returning and requesting the memory for each image."""
    _libc_call("mallopt", _M_MMAP_THRESHOLD, 1 << 30)
    _libc_call("mallopt", _M_TRIM_THRESHOLD, 1 << 29)
    _libc_call("mallopt", _M_ARENA_MAX, 1)
    image = sys.modules.get("PIL.Image")
    if image is not None:
        image.core.set_blocks_max(16)


def _release_memory() -> None:
    image = sys.modules.get("PIL.Image")
    if image is not None:
        image.core.clear_cache()
    _libc_call("malloc_trim", 0)


def _silence_libraries() -> None:
    """Discard stderr: C libraries print messages about damaged images, which would be in the log."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _limit_memory(more_bytes: int) -> None:
    """Limit the growth of this process's address space; beyond it Python raises MemoryError.

    Memory that is mapped already (libraries, the arena reserved for a thread) does not count.
    """
    mapped = _memory_bytes(0)
    if not mapped or not more_bytes:
        return
    import resource  # noqa: PLC0415 - Unix only

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + more_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _memory_bytes(column: int) -> int:
    """Return a column of /proc/self/statm in bytes: 0 is the address space, 1 the resident memory.

    Return 0 if there is no /proc.
    """
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - faster, and called for each batch
            return int(file.read().split()[column]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _libc_call(name: str, *arguments: int) -> Any:
    """Call a function of the C library, if it has this function (musl and macOS lack some)."""
    with suppress(OSError, AttributeError):
        return getattr(ctypes.CDLL(None), name)(*arguments)
    return None
