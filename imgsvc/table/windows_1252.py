"""Windows-1252: whether text that was decoded as it is plausible."""

from __future__ import annotations

import re

_CAPITALS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒŸ"
_LETTERS = f"{_CAPITALS}{_CAPITALS.lower()}ß"
_BETWEEN_LETTERS = "’ªº"
"""Characters that may stand between two letters, as in `l’eau` and `1ªfila`."""
_SYMBOLS = "‘‚“”„‹›«»–—•…€£©®™°×½¼¾²³§¡¿"
"""Other characters, which touch a letter on at most one side."""

_IMPLAUSIBLE = re.compile(
    f"[^\\x00-\\x7f](?:(?<=[^{_LETTERS}{_BETWEEN_LETTERS}{_SYMBOLS}])"
    f"|(?<=[{_LETTERS}])[{_LETTERS}]{{2}}"
    f"|(?<=[A-Za-z{_LETTERS}][{_SYMBOLS}])(?=[A-Za-z{_LETTERS}]))"
)


class PlausibilityCheck:
    """Checks text piece by piece. Mistaken for Windows-1252, most other encodings are implausible.

    Text is plausible if it has only the usual letters of Western Europe, at most two of them in a row
    that are not ASCII, and symbols that are not inside words. Bytes without a character in Windows-1252
    must be surrogate escapes.
    """

    def __init__(self, before: str) -> None:
        self._before = before[-2:]

    def find(self, text: str) -> int | None:
        """Return the position of the first implausible character, or None.

        The position is negative if it is in an earlier piece: only this piece shows it.
        """
        joined = self._before + text
        match = _IMPLAUSIBLE.search(joined)
        if match:
            return match.start() - len(self._before)
        self._before = joined[-2:]
        return None
