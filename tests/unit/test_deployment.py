"""The files for containers set the limits that the documents promise."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_compose_limits_memory_processes_and_temporary_files() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert re.search(r"^    mem_limit: \$\{IMGSVC_MEMORY:-4g\}$", text, re.MULTILINE)
    assert re.search(r"^    pids_limit: \d+$", text, re.MULTILINE)
    assert re.search(r'^    tmpfs: \["/tmp:size=\d+m"\]$', text, re.MULTILINE)
