"""`imgsvc secret`: shows and sets the secret that output URLs are derived from."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path

from imgsvc.database import tokens
from imgsvc.database.checking import open_for_check
from imgsvc.database.connection import Database
from imgsvc.errors import StartupError
from imgsvc.service import DATABASE
from imgsvc.storage.lock import lock_data_dir

_SECRET = re.compile(rf"[0-9a-f]{{{2 * tokens.SECRET_BYTES}}}")


def read_secret(data_dir: Path) -> str:
    """Return the secret of the instance in hexadecimal. Raise `StartupError` if there is none."""
    try:
        with open_for_check(data_dir / DATABASE) as connection:
            return tokens.secret(connection).hex()
    except sqlite3.Error as error:
        raise StartupError(
            f"{data_dir} has no secret yet ({error}). Check --data-dir, or start the service once."
        ) from error


def write_secret(data_dir: Path, secret: str) -> None:
    """Set the secret of the instance. Create the data folder and its database if they do not exist.

    Raise `StartupError` if `secret` is invalid, or if the service is running.
    """
    if not _SECRET.fullmatch(secret):
        raise StartupError(
            f"A secret has {2 * tokens.SECRET_BYTES} hexadecimal digits, as `imgsvc secret` prints it."
        )
    with lock_data_dir(data_dir, DATABASE):
        asyncio.run(_write(data_dir / DATABASE, bytes.fromhex(secret)))


async def _write(path: Path, secret: bytes) -> None:
    database = await Database.open(path)
    try:
        await database.write(lambda c: tokens.set_secret(c, secret))
    finally:
        await database.close()
