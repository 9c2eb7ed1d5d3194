"""Configuration of Sphinx, which builds the static site: see CONTRIBUTING.md."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

project = "imgsvc"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "imgsvc"
myst_heading_anchors = 3
nitpicky = True
suppress_warnings = ["myst.header"]  # a page may start below a note about its origin

NAVIGATION = """
```{toctree}
:hidden:
:caption: Tutorial
tutorial/first-catalogue
```
```{toctree}
:hidden:
:glob:
:caption: How to
how-to/*
```
```{toctree}
:hidden:
:glob:
:caption: Reference
reference/*
```
```{toctree}
:hidden:
:glob:
:caption: Explanation
explanation/*
explanation/decisions/*
```
"""
"""The navigation of the site, which pages read on GitHub do not need."""


def adapt_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the navigation to the first page. Replace links to files that are not part of the site."""
    folder = (Path(app.srcdir) / name).parent

    def plain(match: re.Match[str]) -> str:
        file = (folder / match[2]).resolve()
        if file.is_relative_to(app.srcdir):
            return match[0]
        return f"{match[1]} (`{file.relative_to(Path(app.srcdir).parent)}` in the repository)"

    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)\)", plain, source[0])
    if name == "index":
        source[0] += NAVIGATION


def setup(app: Sphinx) -> None:
    """Register the change of pages."""
    app.connect("source-read", adapt_page)
