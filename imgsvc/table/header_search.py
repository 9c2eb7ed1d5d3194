"""The first records of a table: which of them is the header, and the delimiter of its cells."""

from __future__ import annotations

import io
from collections.abc import Sequence

from imgsvc.table.cells import DELIMITERS
from imgsvc.table.columns import is_blank, is_separator_line, known_roles, rank_header
from imgsvc.table.layouts import AMAZON, recognise
from imgsvc.table.records import InvalidRecord, Record, RecordParser
from imgsvc.table_types import ColumnRole, TableOptions

MAX_HEADER_ROW = 10
"""The last row in which the header is searched."""
MAX_LENGTH_ABOVE = 2**20
"""Maximum number of characters in the rows above the header."""
MAX_DETECTION_LENGTH = 2**20
"""Characters of a file after which the delimiter is guessed from the text so far."""


class HeaderSearch:
    """Collects the first records of a table until it is known which of them is the header.

    `records` are those that are not blank, with their numbers. `is_too_long` is whether the rows above
    the header are longer than `MAX_LENGTH_ABOVE`; then only the first record is kept. `length` is the
    number of their characters.
    """

    def __init__(self, options: TableOptions) -> None:
        self._options = options
        self.records: list[tuple[int, list[str]]] = []
        self.is_too_long = False
        self.length = 0
        self._index: int | None = None
        self._rank = 0
        self._expects_field_names = False

    @property
    def index(self) -> int:
        """The index in `records` of the header, as far as is known."""
        return self._index or 0

    @property
    def rank(self) -> int:
        """How well that record serves as the header, as `rank_header` returns it."""
        return self._rank

    def add(self, row: int, cells: list[str]) -> bool:
        """Add a record that is not blank. Return whether the header is known."""
        rank = rank_header(cells, self._options)
        if self.length > MAX_LENGTH_ABOVE:
            self.is_too_long = rank == 2
            return self.is_too_long or row >= MAX_HEADER_ROW
        self.records.append((row, cells))
        self.length += sum(map(len, cells))
        if self._expects_field_names:
            if row == self.records[-2][0] + 1 and recognise(cells) == AMAZON:
                self._index = len(self.records) - 1
            return True
        if rank > self._rank:
            self._rank, self._index = rank, len(self.records) - 1
        if rank == 2 and recognise(cells) == AMAZON:
            self._expects_field_names = True  # this row may have the labels, the next one the names
            return False
        if self.length > MAX_LENGTH_ABOVE and not self._rank:
            del self.records[1:]
        return (
            rank == 2
            or row >= MAX_HEADER_ROW
            or (self.length > MAX_LENGTH_ABOVE and self._rank > 0)
        )


class DelimiterDetector:
    """Finds the delimiter with which the table has the best header.

    The text is parsed with all delimiters in parallel, because the end of a quoted cell depends on the
    delimiter.
    """

    def __init__(self, options: TableOptions) -> None:
        self._options = options
        self._text = io.StringIO(newline="")
        self._parsers = {delimiter: RecordParser(delimiter) for delimiter in DELIMITERS}
        self._searches = {delimiter: HeaderSearch(options) for delimiter in DELIMITERS}
        self._rows = dict.fromkeys(DELIMITERS, 0)
        self._scores: dict[str, tuple[bool, int, int, int]] = {}
        self._certain = False
        self.skipped = 0
        """The number of blank records before `text`."""

    @property
    def row(self) -> int:
        """The number of the record that is being read."""
        return self._rows[DELIMITERS[0]] + 1

    @property
    def text(self) -> str:
        """The text that was fed. Blank records before the header may be left out."""
        return self._text.getvalue()

    @property
    def buffered_bytes(self) -> int:
        """The memory of the text and of the records of all parsers, about."""
        return self._text.tell() * (2 + len(self._parsers))

    def feed(self, text: str) -> str | None:
        """Add more text. Return the delimiter, or None if it is not known yet."""
        self._text.write(text)
        for delimiter, parser in self._parsers.items():
            if delimiter not in self._scores:
                self._add(delimiter, parser.feed(text))
        if (
            self._certain
            or len(self._scores) == len(self._parsers)
            or self._text.tell() > MAX_DETECTION_LENGTH
        ):
            return self._best()
        if (
            not self._scores
            and not any(search.records for search in self._searches.values())
            and text[-1:] != "\r"
            and not any(p.in_record for p in self._parsers.values())
        ):
            self._text = io.StringIO(newline="")
            self.skipped = self._rows[DELIMITERS[0]]
        return None

    def close(self) -> str:
        """Return the most likely delimiter, at the end of the text."""
        for delimiter, parser in self._parsers.items():
            if delimiter not in self._scores:
                self._add(delimiter, parser.close())
        return self._best()

    def _add(self, delimiter: str, records: Sequence[Record]) -> None:
        """Search the header in these records. Score the delimiter when it is found."""
        search = self._searches[delimiter]
        for record in records:
            if isinstance(record, InvalidRecord):
                self._scores[delimiter] = self._score(search, record.cell_index)
                return
            self._rows[delimiter] += 1
            if is_blank(record):
                continue
            if is_separator_line(record):
                self._scores[delimiter] = (True, 0, 0, 1)
                self._certain = True
                return
            if search.add(self._rows[delimiter], record):
                score = self._scores[delimiter] = self._score(search, 0)
                roles = known_roles(search.records[search.index][1], self._options)
                self._certain = self._certain or (
                    score[1] == 2 and roles >= {ColumnRole.NAME, ColumnRole.IMAGE}
                )
                return

    def _score(self, search: HeaderSearch, cell_index: int) -> tuple[bool, int, int, int]:
        """Return how well a delimiter fits.

        A score is: whether there is a line `sep=;`, the header's rank, the number of its known columns,
        the number of its delimiters.
        """
        if not search.records:
            return False, 0, 0, cell_index
        _, cells = search.records[search.index]
        return False, search.rank, len(known_roles(cells, self._options)), len(cells) - 1

    def _best(self) -> str:
        def score(delimiter: str) -> tuple[bool, int, int, int]:
            parser = self._parsers[delimiter]
            return self._scores.get(delimiter) or self._score(
                self._searches[delimiter], parser.cell_index
            )

        return max(DELIMITERS, key=score)
