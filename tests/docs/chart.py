"""The chart of the README: images per second of imgsvc and of other programs, as SVG."""

from __future__ import annotations

from html import escape

FIGURES = (
    ("imgsvc", 245),
    ("img2dataset", 149),
    ("minimal Python script", 140),
    ("sharp with undici", 98),
)
"""Images per second of the mixed corpus. Source: the table `mix` in tests/bench/README.md, one run.

img2dataset is without its start.
"""

LABEL_WIDTH, BAR_WIDTH, ROW_HEIGHT = 180, 360, 34
"""Sizes in the chart, in pixels."""


def draw_chart() -> str:
    """Return the chart as SVG. It is readable on a light and on a dark page."""
    most = max(figure for _, figure in FIGURES)
    width, height = LABEL_WIDTH + BAR_WIDTH + 60, ROW_HEIGHT * len(FIGURES) + 30
    names = ", ".join(f"{name} {figure}" for name, figure in FIGURES)
    style = (
        "text{font:14px system-ui,sans-serif;fill:#6b7280}.own{fill:#2563eb}.other{fill:#9ca3af}"
    )
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    label = f'role="img" aria-label="Images per second: {escape(names)}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {label}>',
        f"<style>{style}</style>",
        '<text x="0" y="16">images per second, two cores, a mixed catalogue</text>',
    ]
    for row, (name, figure) in enumerate(FIGURES):
        top, bar = 30 + ROW_HEIGHT * row, BAR_WIDTH * figure / most
        kind = "other" if row else "own"
        lines += [
            f'<text x="{LABEL_WIDTH - 10}" y="{top + 18}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{top}" width="{bar:.0f}" height="24" rx="4"/>',
            f'<text x="{LABEL_WIDTH + bar + 8:.0f}" y="{top + 18}">{figure}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
