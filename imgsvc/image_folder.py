"""The folder of readable image files that `imgsvc process` writes beside its CSV."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path
from urllib.parse import quote

from imgsvc.image_types import EXTENSIONS
from imgsvc.models import ImageRow
from imgsvc.storage.filesystem import output_path


class ImageFolder:
    """Stores the outputs of a data folder under readable names: `red-pumps-2.jpg`.

    On the same file system they are hard links, which use no extra space. Files of the same names are
    replaced.
    """

    def __init__(self, folder: Path, data_dir: Path, csv: Path) -> None:
        self._folder = folder
        self._data_dir = data_dir
        self._base = os.path.relpath(folder, csv.absolute().parent)
        self._tokens: dict[str, str] = {}

    def add(self, image: ImageRow, row: int) -> str:
        """Add the output of an image, and return its URL relative to the CSV. "" without an output.

        If another image has the same name, `row` is added to it.
        """
        if image.file is None:
            return ""
        token, _, extension = image.file.partition(".")
        slug = image.slug or token
        for name in (f"{slug}.{extension}", f"{slug}-row-{row}.{extension}", image.file):
            if self._tokens.setdefault(name.casefold(), token) == token:
                break
        self._store(output_path(self._data_dir, image.file), name)
        return quote(Path(self._base, name).as_posix())

    def _store(self, source: Path, name: str) -> None:
        target = self._folder / name
        if target.exists() and (
            target.samefile(source) or filecmp.cmp(target, source, shallow=False)
        ):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".{name}.partial"
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, partial)
        partial.chmod(0o644)
        partial.replace(target)

    def remove_others(self) -> None:
        """Remove the images that were not added. Other files stay."""
        endings = tuple(f".{extension}" for extension in EXTENSIONS.values())
        for file in self._folder.glob("*"):
            if file.name.endswith(endings) and file.name.casefold() not in self._tokens:
                file.unlink()
