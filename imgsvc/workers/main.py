"""What runs in a worker process. The main process imports this too, so Pillow is not imported here."""

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
OOM_SCORE = 800
"""If memory runs out, the kernel is to end a worker, never the main process."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_RETAINED_BYTES = 128 * 2**20
"""A worker that has kept more than this after its images gives the memory back."""

Compress = Callable[[bytes, CompressionSettings, int], CompressedImage]


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker is told when it starts. `function` is the dotted `module:name` of what it runs."""

    function: str
    max_pixels: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Bug:
    """An image met an error that nobody foresaw: its name, and the traceback for the log."""

    name: str
    traceback: str


Answer = CompressedImage | ImageError | Bug | None
"""What becomes of an image; None: it was called back before its turn."""


class WorkerState:
    """A worker's state: what it runs, and the two numbers it shares with the main process.

    `position` is the image at work (0: none); images below `revoked` are not to be begun any more.
    """

    def __init__(self, setup: WorkerSetup, position: c_double, revoked: c_double) -> None:
        module, _, name = setup.function.partition(":")
        self.module = importlib.import_module(module)
        self.compress: Compress = getattr(self.module, name)
        self.setup = setup
        self.position = position
        self.revoked = revoked
        self.retained_bytes = min(_RETAINED_BYTES, setup.memory_bytes // 4)

    def work(self, first: int, images: Sequence[tuple[bytes, CompressionSettings]]) -> list[Answer]:
        answers: list[Answer] = []
        for position, (data, settings) in enumerate(images, first):
            if position < self.revoked.value:
                answers.append(None)
                continue
            self.position.value = position
            answers.append(self._one(data, settings))
        self.position.value = 0
        if _memory_bytes(1) > self.retained_bytes:
            _give_memory_back()
        return answers

    def _one(self, data: bytes, settings: CompressionSettings) -> Answer:
        try:
            return self.compress(data, settings, self.setup.max_pixels)
        except ImageError as error:
            # A new one, without tracebacks: their frames hold the picture, and the list of answers.
            return ImageError(error.code, error.message)
        except MemoryError:
            return ImageError(
                ImageErrorCode.OUT_OF_MEMORY,
                f"compressing it needs more than the {self.setup.memory_bytes >> 20} MiB "
                "that a worker may use",
            )
        except Exception as error:  # noqa: BLE001 - told to the main process, which logs it
            return Bug(type(error).__name__, traceback.format_exc())


# The one global: an executor hands its initializer's outcome to no call but through the module.
_state: WorkerState | None = None


def start(setup: WorkerSetup, position: c_double, revoked: c_double) -> None:
    """Prepare this process: it is the executor's initializer."""
    global _state  # noqa: PLW0603
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # these go to the whole group; the main one decides
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
    """Answer, once `start` is through; the answer is the process's id."""
    return os.getpid()


def compressed_images(
    first: int, images: Sequence[tuple[bytes, CompressionSettings]]
) -> list[Answer]:
    """Compress a message's images in their order, `first` being the position of the first."""
    if _state is None:
        raise RuntimeError("start() comes first")
    return _state.work(first, images)


def _end_with_parent() -> None:
    """See to it that this process ends when the main one does, however it does."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="imgsvc-parent", daemon=True).start()
    # The thread needs the interpreter, which a hung decoder may hold: let the kernel send us SIGIO too,
    # whose default is to end the process.
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
    """Keep freed picture buffers instead of mapping and faulting them in anew for each picture."""
    _libc_call("mallopt", _M_MMAP_THRESHOLD, 1 << 30)
    _libc_call("mallopt", _M_TRIM_THRESHOLD, 1 << 29)
    _libc_call("mallopt", _M_ARENA_MAX, 1)
    image = sys.modules.get("PIL.Image")
    if image is not None:
        image.core.set_blocks_max(16)


def _give_memory_back() -> None:
    image = sys.modules.get("PIL.Image")
    if image is not None:
        image.core.clear_cache()
    _libc_call("malloc_trim", 0)


def _silence_libraries() -> None:
    """Keep what C libraries print of damaged pictures out of the service's log."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _limit_memory(more_bytes: int) -> None:
    """Let this process's address space grow by so much; beyond that Python raises MemoryError.

    What is mapped by now (libraries, the arena reserved for a thread) is no picture's.
    """
    mapped = _memory_bytes(0)
    if not mapped or not more_bytes:
        return
    import resource  # noqa: PLC0415 - Unix only

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + more_bytes
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _memory_bytes(column: int) -> int:
    """A column of /proc's statm, in bytes: 0 is the address space, 1 what is resident.

    0 where there is no /proc.
    """
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - for each message
            return int(file.read().split()[column]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _libc_call(name: str, *arguments: int) -> Any:
    """Call the C library's function where there is such a one (musl and macOS lack some)."""
    with suppress(OSError, AttributeError):
        return getattr(ctypes.CDLL(None), name)(*arguments)
    return None
