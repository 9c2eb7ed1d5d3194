"""The versions that all nodes of a cluster must share, because outputs and messages depend on them."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import PackageNotFoundError, version

from imgsvc import __version__
from imgsvc.errors import StartupError

SHARED_PACKAGES = ("pillow", "pillow-heif", "distributed", "obstore")
_CODECS = (
    "import json; from PIL import features; "
    "print(json.dumps({name: str(features.version(name)) for name in "
    "('jpg', 'libjpeg_turbo', 'zlib', 'webp', 'avif', 'littlecms2')}))"
)


async def own_versions() -> dict[str, str]:
    """Return the versions of this machine, by name. Pillow is loaded in a process of its own."""
    found = {"imgsvc": __version__}
    for package in SHARED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", _CODECS, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise StartupError("Pillow cannot be loaded. Install the dependencies of imgsvc again.")
    codecs: dict[str, str] = json.loads(output)
    return found | {f"codec {name}": text for name, text in codecs.items()}


def differences(coordinator: dict[str, str], node: dict[str, str]) -> str:
    """Return how the versions of a node differ from the coordinator's, as a clause. "": they do not."""
    return ", ".join(
        f"{name} {coordinator.get(name, 'none')}, the node has {node.get(name, 'none')}"
        for name in sorted(coordinator.keys() | node.keys())
        if coordinator.get(name) != node.get(name)
    )
