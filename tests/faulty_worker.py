"""The function that workers run in tests: the bytes of an image are a script.

A script is `PATH action action …`: each attempt appends a line to PATH, then runs the actions in order.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from multiprocessing.connection import Connection
from pathlib import Path

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressedImage, CompressionSettings, ImageInfo

IMAGE_INFO = ImageInfo(1, 1, 1, 1, "jpeg", "jpeg", 90, 45, kept=False)


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.005)


def exit_halfway(pipe: Connection, message: bytes) -> None:
    os.write(pipe.fileno(), struct.pack("!i", len(message)) + message[:10])
    os._exit(3)


def run_action(action: str) -> bytes:  # noqa: PLR0912
    name, _, value = action.partition("=")
    match name:
        case "exit":
            os._exit(3)
        case "signal":
            os.kill(os.getpid(), signal.Signals[value])
        case "hang":
            time.sleep(1_000)
        case "hold":  # hang, and block all other threads of this process
            ctypes.PyDLL(None).sleep(1_000)
        case "eat":
            return bytes(bytearray(int(value)))[:1]
        case "print":
            os.write(2, value.encode())
        case "sleep":
            time.sleep(float(value))
        case "wait":
            wait_for(value)
        case "touch":
            Path(value).touch()
        case "bug":
            raise LookupError("unexpected")
        case "refuse":
            raise ImageError(ImageErrorCode.CORRUPT_IMAGE, "it is cut off")
        case "unpicklable":
            return lambda: None  # type: ignore[return-value]
        case "half":  # exit in the middle of sending the result
            Connection._send_bytes = exit_halfway  # type: ignore[attr-defined]
        case "large":
            return bytes(int(value))
        case "nice":
            score = Path("/proc/self/oom_score_adj")
            return f"{os.nice(0)} {score.read_text() if score.exists() else 0}".encode()
        case "pid":
            return str(os.getpid()).encode()
    return b"done"


def compress(data: bytes, settings: CompressionSettings, max_pixels: int) -> CompressedImage:
    path, *actions = data.decode().split()
    with Path(path).open("a") as file:
        file.write("attempt\n")
    result = b"done"
    for action in actions:
        if action.startswith("once="):  # the actions after this run only in the first attempt
            if Path(action[5:]).exists():
                break
            Path(action[5:]).touch()
        result = run_action(action)
    return CompressedImage(result, IMAGE_INFO)
