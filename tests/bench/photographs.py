"""The photographs of the corpus: those of scikit-image, and more from packages of other projects.

The others are downloaded once per machine into a temporary folder: wallpapers from packages of Debian
and Ubuntu, and the samples of scikit-learn.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests import sample_images

WALLPAPERS = {
    "lomiri-wallpapers-16.04": "usr/share/backgrounds/*.jpg",
    "mate-backgrounds": "usr/share/backgrounds/mate/nature/*.jpg",
}
"""Packages of Debian, and the photographs in each."""
SCIKIT_LEARN = ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg")


def photographs() -> list[Path]:
    """Return the files of all photographs, with the packages mixed.

    A package that cannot be downloaded is reported and left out.
    """
    packages = [
        [sample_images.source_path(name) for name in sample_images.PHOTOGRAPHS],
        _package("scikit-learn", _from_scikit_learn),
        *(_package(name, _from_debian) for name in WALLPAPERS),
    ]
    ranked = [(n / len(files), file) for files in packages for n, file in enumerate(files)]
    return [file for _, file in sorted(ranked)]


def _package(name: str, download: Callable[[str, Path], None]) -> list[Path]:
    """Return the photographs of a package. Download it unless an earlier run has."""
    root = Path(tempfile.gettempdir()) / "imgsvc-bench-photographs-1"
    root.mkdir(exist_ok=True)
    if not (root / name).exists():
        with tempfile.TemporaryDirectory(dir=root) as folder:
            files = Path(folder) / "files"
            files.mkdir()
            try:
                download(name, files)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"The corpus has no photographs from {name}: {error}")
                return []
            files.rename(root / name)
    return sorted((root / name).rglob("*.jpg"))


def _from_debian(name: str, folder: Path) -> None:
    # Only root can change to apt's own user, which cannot write to the folder.
    apt_get = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name]
    subprocess.run(apt_get, cwd=folder, check=True)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "all")], check=True)
    for file in (folder / "all").glob(WALLPAPERS[name]):
        file.rename(folder / file.name)
    package.unlink()
    shutil.rmtree(folder / "all")


def _from_scikit_learn(name: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", name, "-d", str(folder)]
    subprocess.run(pip, check=True)
    (package,) = folder.glob("*.whl")
    with zipfile.ZipFile(package) as archive:
        for member in SCIKIT_LEARN:
            (folder / Path(member).name).write_bytes(archive.read(member))
    package.unlink()
