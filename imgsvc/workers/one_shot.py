"""Worker processes that run one generator function on one open file, and send what it yields.

Each file gets a new process with the memory limit of a worker and a limit of processor time. Files are
processed one at a time. The process sends a piece only when the one before was read.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from multiprocessing.process import BaseProcess
from typing import IO

from imgsvc.workers.confinement import confine
from imgsvc.workers.process_context import shield_children, worker_context
from imgsvc.workers.process_limits import (
    close_inherited_files,
    end_with_parent,
    ignore_group_signals,
    limit_memory,
    limit_processor_time,
    lower_priority,
    request_signal_at_parent_end,
)

MAX_FRAME_BYTES = 2**20
"""Maximum size of what the process sends at once."""
_HEAD = struct.Struct("!BI")
"""The head of a frame: its kind, and the size of its content."""

Generate = Callable[..., Iterator[bytes]]


class FrameKind(IntEnum):
    """What a frame is: a piece, the end, a lack of memory, or an unexpected exception."""

    PIECE = 1
    END = 2
    OUT_OF_MEMORY = 3
    FAILED = 4


class WorkerMemoryError(Exception):
    """The process needed more memory than it may use."""


class WorkerTimeError(Exception):
    """The process needed more processor time than it may use."""


class WorkerCrashError(Exception):
    """The process ended unexpectedly, or its function raised an unexpected exception."""


@dataclass(frozen=True, slots=True)
class OneShotLimits:
    """The limits of a process: growth of its memory in bytes, and its processor time in seconds.

    `confined` is false only for functions of tests that write files.
    """

    memory_bytes: int
    processor_seconds: float
    confined: bool = True


class OneShotRunner:
    """Runs generator functions in processes of their own, one after the other."""

    def __init__(self, limits: OneShotLimits) -> None:
        self._limits = limits
        self._context = worker_context()
        self._turn = asyncio.Lock()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="imgsvc-one-shot")

    @asynccontextmanager
    async def run(
        self, function: str, file: int, *arguments: object
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Run `function`, a `module:name`, on the open file with this descriptor.

        Provide an iterator of the pieces that `function(file, *arguments)` yields. It raises
        `WorkerMemoryError`, `WorkerTimeError` or `WorkerCrashError`. The process is killed at the end
        of the block.
        """
        async with self._turn:
            ours, theirs = socket.socketpair()
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_run, args=(theirs, function, self._limits, arguments), daemon=True
            )
            try:
                start = partial(_start, process, ours, theirs, file)
                await self._in_thread(start)
                reader, writer = await asyncio.open_connection(sock=ours, limit=2**16)
                try:
                    yield self._pieces(process, reader)
                finally:
                    writer.close()
            finally:
                ours.close()
                await self._in_thread(partial(_end, process))

    def close(self) -> None:
        """End the thread. No function may be running."""
        self._threads.shutdown()

    async def _pieces(
        self, process: BaseProcess, reader: asyncio.StreamReader
    ) -> AsyncIterator[bytes]:
        while True:
            try:
                kind, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
                if size > MAX_FRAME_BYTES:
                    raise WorkerCrashError(f"a frame of {size} bytes")
                content = await reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                code = await self._in_thread(partial(_join, process))
                if code == -signal.SIGXCPU:
                    raise WorkerTimeError from None
                raise WorkerCrashError(f"exit code {code}") from None
            if kind == FrameKind.PIECE:
                yield content
            elif kind == FrameKind.OUT_OF_MEMORY:
                raise WorkerMemoryError
            elif kind == FrameKind.FAILED:
                raise WorkerCrashError(content.decode(errors="replace"))
            else:
                return

    async def _in_thread(self, call: Callable[[], object]) -> object:
        """Run a call in the thread to its end, even if this task is cancelled."""
        task = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise


def _start(process: BaseProcess, ours: socket.socket, theirs: socket.socket, file: int) -> None:
    shield_children()
    with theirs:
        process.start()
    socket.send_fds(ours, [b"\0"], [file])


def _end(process: BaseProcess) -> None:
    if process.pid is not None:
        process.kill()
        process.join()
        process.close()


def _join(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


# --- in the process ------------------------------------------------------------------------------


def _run(
    pipe: socket.socket, function: str, limits: OneShotLimits, arguments: tuple[object, ...]
) -> None:
    ignore_group_signals()
    request_signal_at_parent_end()
    lower_priority()
    close_inherited_files()
    with suppress(ConnectionError):
        _, descriptors, _, _ = socket.recv_fds(pipe, 1, 1)
        module, _, name = function.partition(":")
        generate: Generate = getattr(importlib.import_module(module), name)
        limit_processor_time(limits.processor_seconds)
        limit_memory(limits.memory_bytes)
        if limits.confined:
            confine()
        end_with_parent()
        # A confined process may write to a socket, but not use the calls of sockets.
        with os.fdopen(descriptors[0], "rb") as file, os.fdopen(pipe.detach(), "wb") as out:
            _send(out, *_outcome(out, generate, file, arguments))


def _outcome(
    out: IO[bytes], generate: Generate, file: IO[bytes], arguments: tuple[object, ...]
) -> tuple[FrameKind, bytes]:
    """Send the pieces. Return the last frame."""
    try:
        for piece in generate(file, *arguments):
            _send(out, FrameKind.PIECE, piece)
    except MemoryError:
        return FrameKind.OUT_OF_MEMORY, b""
    except ConnectionError:
        raise
    except Exception:  # noqa: BLE001 - the main process logs it
        return FrameKind.FAILED, traceback.format_exc()[-10_000:].encode(errors="replace")
    return FrameKind.END, b""


def _send(out: IO[bytes], kind: FrameKind, content: bytes) -> None:
    out.write(_HEAD.pack(kind, len(content)) + content)
    out.flush()
