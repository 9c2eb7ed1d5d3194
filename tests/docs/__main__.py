"""Write the pages that are made from the code: `python3 run.py docs`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.docs.pages import generated_pages
from tests.origin import ROOT


async def main() -> None:
    """Write all generated files, and print the names of those that change."""
    with tempfile.TemporaryDirectory() as folder:
        pages = await generated_pages(Path(folder))
    for name, text in pages.items():
        file = ROOT / name
        if not file.exists() or file.read_text("utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
            print(f"{name} is new")


asyncio.run(main())
