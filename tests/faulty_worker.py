"""What workers run in the tests of the pool: an image's bytes are a script of words.

`PATH act act …`: a line is appended to PATH at each try, and then the acts are done in turn.
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


def die_halfway(pipe: Connection, answer: bytes) -> None:
    os.write(pipe.fileno(), struct.pack("!i", len(answer)) + answer[:10])
    os._exit(3)


def act(word: str) -> bytes:  # noqa: PLR0912
    name, _, value = word.partition("=")
    match name:
        case "exit":
            os._exit(3)
        case "signal":
            os.kill(os.getpid(), signal.Signals[value])
        case "hang":
            time.sleep(1_000)
        case "hold":  # hang, and let no other thread of this process run
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
            raise LookupError("nobody thought of this")
        case "refuse":
            raise ImageError(ImageErrorCode.CORRUPT_IMAGE, "it is cut off")
        case "secret":
            return lambda: None  # type: ignore[return-value]
        case "half":  # die in the middle of the answer
            Connection._send_bytes = die_halfway  # type: ignore[attr-defined]
        case "large":
            return bytes(int(value))
        case "nice":
            score = Path("/proc/self/oom_score_adj")
            return f"{os.nice(0)} {score.read_text() if score.exists() else 0}".encode()
        case "pid":
            return str(os.getpid()).encode()
    return b"done"


def compress(data: bytes, settings: CompressionSettings, max_pixels: int) -> CompressedImage:
    path, *words = data.decode().split()
    with Path(path).open("a") as file:
        file.write("tried\n")
    answer = b"done"
    for word in words:
        if word.startswith("once="):  # what follows is done at the first try alone
            if Path(word[5:]).exists():
                break
            Path(word[5:]).touch()
        answer = act(word)
    return CompressedImage(answer, IMAGE_INFO)
