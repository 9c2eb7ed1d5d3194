"""Functions that worker processes run on a file in tests."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def lines(file: IO[bytes], prefix: bytes) -> Iterator[bytes]:
    for line in file:
        yield prefix + line


def process_id(file: IO[bytes]) -> Iterator[bytes]:
    yield str(os.getpid()).encode()


def count(file: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield a megabyte again and again. Record in a file how many were yielded."""
    for number in range(1_000):
        Path(path).write_text(str(number))
        yield bytes(2**20)


def too_large(file: IO[bytes]) -> Iterator[bytes]:
    yield bytes(2**20 + 1)


def eat(file: IO[bytes]) -> Iterator[bytes]:
    """Use 16 MiB more for each piece."""
    kept = []
    while True:
        kept.append(bytearray(2**24))
        yield b"more"


def spin(file: IO[bytes]) -> Iterator[bytes]:
    yield b"first"
    while True:
        pass


def hold(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the process id, then block all threads of this process."""
    yield str(os.getpid()).encode()
    ctypes.PyDLL(None).sleep(1_000)


def sleep(file: IO[bytes]) -> Iterator[bytes]:
    yield str(os.getpid()).encode()
    time.sleep(1_000)


def crash(file: IO[bytes]) -> Iterator[bytes]:
    yield b"first"
    os.kill(os.getpid(), signal.SIGSEGV)


def bug(file: IO[bytes]) -> Iterator[bytes]:
    yield b"first"
    raise LookupError("unexpected")


def exit_at_once(file: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    os._exit(3)
