"""Unpacks the data folders of earlier releases, which `make_data_folder` created.

Their URLs use addresses of networks that are reserved for documentation. The origin of
tests/origin.py serves these hosts as the proxy of the service, so the URLs need no port.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.origin import Origin, Reply

FOLDER = Path(__file__).parent
DATABASE = "imgsvc.db"
EXPECTED = "expected.json"
PUBLIC_URL = "http://images.example"


@dataclass(frozen=True)
class DataFolder:
    """A copy of a data folder, and the responses of the release that wrote it."""

    path: Path
    expected: dict[str, Any]

    @property
    def database(self) -> Path:
        return self.path / DATABASE

    def files(self) -> set[str]:
        """Return the paths of all files below `outputs`, relative to the folder."""
        return files_in(self.path)


def unpack(version: str, path: Path) -> DataFolder:
    """Copy the data folder of that release to `path`, which must not exist."""
    source = FOLDER / version
    shutil.copytree(source / "data", path)
    for packed in path.glob(f"{DATABASE}*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    # Git does not store empty folders.
    (path / "outputs" / "tmp").mkdir(exist_ok=True)
    return DataFolder(path, json.loads((source / EXPECTED).read_text()))


def settings_for(origin: Origin) -> dict[str, dict[str, Any]]:
    """Return the settings with which a service fetches every URL in the folder from `origin`."""
    return {
        "server": {"public_url": PUBLIC_URL},
        "fetch": {
            "proxy": origin.base,
            "allowed_networks": ["198.51.100.0/24", "203.0.113.0/24"],
        },
    }


def serve_sources(origin: Origin, sources: dict[str, str]) -> None:
    """Make `origin` serve for each URL the photo that `sources` maps it to."""
    for url, photo in sources.items():
        origin.script(url, Reply(photo=photo))


def files_in(path: Path) -> set[str]:
    """Return the paths of all files below `outputs` of a data folder, relative to the folder."""
    return {str(p.relative_to(path)) for p in (path / "outputs").rglob("*") if p.is_file()}


def contains_text(database: Path, text: str) -> bool:
    """Return whether any cell of any table contains this text, in any schema."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return any(
            isinstance(cell, str) and text in cell
            for (table,) in tables.fetchall()
            for row in connection.execute(f'SELECT * FROM "{table}"')
            for cell in row
        )
