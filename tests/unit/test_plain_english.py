"""The texts of the project are plain English: a list of words and patterns that none of them has.

The list grows when a reader stumbles: add the pattern here, and fix what the test then finds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BANNED = (
    r"mend(s|ed|ing)?",
    r"whoever",
    r"whatever becomes of",
    r"anew",
    r"parted( by)?",
    r"for good",
    r"st(and|ands|anding|ood) still",
    r"what (waits|comes|there is|there are|is left)",
    r"who (asks|reads|watches|waits|comes|calls)",
    r"lets? go of",
    r"(is|are|was|were|be) told",
    r"keeps? house|housekeeping",
    r"none of the service's",
    r"as (it|they) (was|were)",
    r"gives? up|gave up|given up|giving up",
    r"puts? back|putting back",
    r"of its doing|your doing",
    r"blam(e|es|ed|ing)|convict(s|ed)?|innocent|culprit|strikes?",
    r"siblings?|crowded|twins?",
    r"flights?|lands?|landed|landing",
    r"bury|buried|humble|hungry|patience",
    r"doomed|strangers?|unwashed|by its looks",
    r"pictures?",
    r"faults?",
    r"rooms?",
    r"wishes",
    r"tries that|a further try|not worth a try",
    r"judged?|hangs? up|hung up|vouch(es)?|dead origins?|faulty",
    r"in vain|at hand|in sight|for whoever|on its way|once more|nobody",
    r"throws? \w+ away|may well|does not fit|comes? back|holds? up|goes on|goes out|taken up",
    r"c[ao]me to nothing|will not do|that there (is|are)|cut short|under way|trying again",
    r"hinders?|lend|lent|manned|error of ours|sets out|gets on|came out|brought to|has gone",
    r"by way of|near by|lest|for want of|told apart|whence|hence|thereby|upon|shall|ought",
    r"somebody|everybody|so many|no nearer|the whole way|throwaway|foretell|time-outs?",
)
"""Words and phrases that are not plain, or not the project's term for the thing."""

ALLOWED = (
    r"in[-_ ]flight",
    r"<picture|</picture",
    r"Picture",  # a column's name in spreadsheets
    r"landed cost",
    r"segmentation fault|page faults?",
)
"""Standard terms that a banned word is part of."""

SKIPPED = {
    "tests/unit/test_plain_english.py",
    # Applied migrations are history.
    "imgsvc/database/migrations/0001_initial.sql",
    "imgsvc/database/migrations/0002_places.sql",
    "imgsvc/database/migrations/0003_standard_names.sql",
}

FIRST_WORDS = {"Give", "Gives", "Tell", "Tells", "Note", "Notes", "Let", "Lets", "Say", "Says"}
"""Verbs for which docstrings have the standard ones: return, report, record, allow."""

SUFFIXES = {".py", ".md", ".toml", ".js", ".mjs", ".html", ".css", ".sql", ".yaml", ".service"}


def texts() -> Iterator[Path]:
    """Yield every text file of the project, but not of its tests' data."""
    for folder in (ROOT / "imgsvc", ROOT / "tests", ROOT / "packaging", ROOT / "docs"):
        yield from (f for f in sorted(folder.rglob("*")) if f.suffix in SUFFIXES)
    yield from (f for f in sorted(ROOT.iterdir()) if f.suffix in SUFFIXES or f.name == "Dockerfile")


FILES = [f for f in texts() if str(f.relative_to(ROOT)) not in SKIPPED and f.is_file()]
MODULES = [f for f in FILES if f.suffix == ".py"]

_BANNED = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
_ALLOWED = re.compile("|".join(ALLOWED))


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_text_has_no_banned_words(file: Path) -> None:
    found = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        match = _BANNED.search(_ALLOWED.sub("", line))
        if match:
            found.append(f"{name_of(file)}:{number}: {match[0]!r} in: {line.strip()}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_docstring_starts_with_standard_verb_and_is_no_question(file: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if first.partition(" ")[0] in FIRST_WORDS or "?" in first:
                found.append(f"{name_of(file)}:{getattr(node, 'lineno', 1)}: {first}")
    assert not found, "\n".join(found)
