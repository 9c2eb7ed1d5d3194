"""The code that runs in a worker process.

The main process imports this module too, so it does not import Pillow.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import c_double
from dataclasses import dataclass
from typing import Any

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressedImage, WorkerSettings
from imgsvc.workers.confinement import confine
from imgsvc.workers.process_limits import (
    MemoryMeter,
    close_inherited_files,
    end_with_parent,
    ignore_group_signals,
    limit_memory,
    lower_priority,
    request_signal_at_parent_end,
)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_RETAINED_BYTES = 128 * 2**20
"""A worker that holds more memory than this after a batch returns memory to the system."""

Compress = Callable[[bytes, WorkerSettings, int], CompressedImage]


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """The configuration of a worker. `function` is the `module:name` of the function it runs.

    `confined` is false only for functions of tests that write files.
    """

    function: str
    max_pixels: int
    memory_bytes: int
    confined: bool = True


@dataclass(frozen=True, slots=True)
class UnexpectedFailure:
    """An unexpected exception of an image: the class name, and the traceback for the log."""

    name: str
    traceback: str


Result = CompressedImage | ImageError | UnexpectedFailure | None
"""The result of an image. None: the image was revoked before the worker started it."""
TimedResult = tuple[Result, float]
"""The result of an image, and the seconds that the worker needed."""


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
        self.memory = MemoryMeter()
        self.missing_layers: list[str] = []
        self.retained_bytes = min(_RETAINED_BYTES, setup.memory_bytes // 4)

    def compress_batch(
        self, first: int, images: Sequence[tuple[bytes, WorkerSettings]]
    ) -> list[TimedResult]:
        """Compress images in order. `first` is the position of the first image."""
        results: list[TimedResult] = []
        for position, (data, settings) in enumerate(images, first):
            if position < self.revoked.value:
                results.append((None, 0.0))
                continue
            self.position.value = position
            started = time.monotonic()
            result = self._compress_one(data, settings)
            results.append((result, time.monotonic() - started))
        self.position.value = 0
        if self.memory.resident() > self.retained_bytes:
            _release_memory()
        return results

    def _compress_one(self, data: bytes, settings: WorkerSettings) -> Result:
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
    ignore_group_signals()
    request_signal_at_parent_end()
    lower_priority()
    close_inherited_files()
    state = WorkerState(setup, position, revoked)
    warm_up = getattr(state.module, "warm_up", None)
    if warm_up is not None:
        warm_up()
    _tune_malloc()
    gc.freeze()
    limit_memory(setup.memory_bytes)
    if setup.confined:
        state.missing_layers = confine()
    end_with_parent()
    _state = state


def missing_layers() -> list[str]:
    """Return the layers of confinement that the kernel does not offer to this worker."""
    return _running_state().missing_layers


def compressed_images(
    first: int, images: Sequence[tuple[bytes, WorkerSettings]]
) -> list[TimedResult]:
    """Compress the images of a batch in order. `first` is the position of the first image."""
    return _running_state().compress_batch(first, images)


def _running_state() -> WorkerState:
    if _state is None:
        raise RuntimeError("call start() first")
    return _state


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


def _libc_call(name: str, *arguments: int) -> Any:
    """Call a function of the C library, if it has this function (musl and macOS lack some)."""
    with suppress(OSError, AttributeError):
        return getattr(ctypes.CDLL(None), name)(*arguments)
    return None
