"""Measure which lines of imgsvc the tests run: a plugin of pytest.

`run.py test` loads it if all suites run, because the coverage of one suite says little. pytest loads
it before it imports the package. Services and workers that tests start are measured too, unless they
are killed. `[tool.coverage.run]` in pyproject.toml has the settings.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import coverage
import pytest
from coverage.exceptions import CoverageWarning

ROOT = Path(__file__).parents[1]
LISTED_FILES = 10
"""Number of files in the report: those with the lowest share."""

_folder = Path(tempfile.mkdtemp(prefix="imgsvc-coverage-"))
_coverage = coverage.Coverage(
    data_file=str(_folder / "data"), config_file=str(ROOT / "pyproject.toml")
)
_coverage.set_option("run:source_dirs", [str(ROOT / "imgsvc")])
if sys.version_info >= (3, 12):
    _coverage.set_option("run:core", "sysmon")  # a line costs time only when it runs first
_coverage.start()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the share of lines that ran: in all files, and in the files with the lowest share."""
    _coverage.stop()
    if terminalreporter.config.option.collectonly:
        return
    _coverage.save()
    with warnings.catch_warnings():
        # A process that a test has killed may leave an empty file.
        warnings.simplefilter("ignore", CoverageWarning)
        _coverage.combine()
    report = _folder / "report.json"
    _coverage.json_report(outfile=str(report))
    result = json.loads(report.read_text())
    total = result["totals"]
    terminalreporter.section(
        f"coverage of imgsvc: {total['percent_covered']:.1f}% of {total['num_statements']} lines"
    )
    shares = [(each["summary"]["percent_covered"], name) for name, each in result["files"].items()]
    for share, name in sorted(shares)[:LISTED_FILES]:
        terminalreporter.line(f"{share:6.1f}%  {name}")


def pytest_unconfigure() -> None:
    """Delete the data."""
    shutil.rmtree(_folder, ignore_errors=True)
