"""Text → records, piece by piece. A record is a list of cells."""

from __future__ import annotations

import csv
import io
import re
from enum import Enum, auto

from imgsvc.errors import FileErrorCode

MAX_RECORD_BYTES = 16 * 2**20
MAX_CELLS = 2**15
"""Maximum number of cells in a record: twice as many as spreadsheets have, and few enough to process
in one step."""

_QUOTED = re.compile(r'(?>[^"]*+(?:""[^"]*+)*)')


class InvalidRecord:
    """A record that cannot be parsed.

    `code` is the reason, and `cell_index` the number of the cell (from 0) in which it was found.
    `has_nul` is true if the record contains a NUL character.
    """

    __slots__ = ("cell_index", "code", "has_nul")

    def __init__(self, code: FileErrorCode, cell_index: int) -> None:
        self.code = code
        self.cell_index = cell_index
        self.has_nul = False


Record = list[str] | InvalidRecord


class _RecordState(Enum):
    START = auto()
    """Before the first character of a cell."""
    BLANK = auto()
    """After white space at the start of a cell."""
    PLAIN = auto()
    """In an unquoted cell."""
    QUOTED = auto()
    """In a quoted cell."""
    QUOTE = auto()
    """After a quote in a quoted cell: it closes the cell, or is the first of two."""
    CLOSED = auto()
    """After a closing quote and a space or tab."""


class RecordParser:
    """Parses text into records as defined by RFC 4180, with any delimiter and any line ends.

    White space around a quoted cell is dropped. White space of unquoted cells is kept.

    A blank line is a record too, `[]` or `[""]`. A record that is too long (`TOO_LONG`) or has unpaired
    quotes (`UNCLOSED_QUOTE`) becomes an `InvalidRecord`; parsing continues after it. Each piece of text
    has fewer than 128 Ki characters, the limit of the csv module.

    Complete records are parsed by `str.split`, or by the csv module if they have quotes. The state
    machine handles the other cases: records that arrive in parts, cells of any length, and misplaced
    quotes.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        escaped = re.escape(delimiter)
        # Not (…)*+: before 3.11.5, a possessive group that backtracks continues at a wrong position.
        quoted = r'"(?>[^"]*+(?:""[^"]*+)*)"'
        blank = " \t".replace(delimiter, "")
        plain = rf'(?![{blank}]*+")[^{escaped}\r\n]++'
        self._blank = re.compile(f"[{blank}]*+")
        self._blank_before_quote = re.compile(f'(?:^|[{escaped}\r\n])[{blank}]++"')
        # Cells from their start to their end. `\1` is what precedes the cell and its white space.
        self._cell_with_blanks = re.compile(
            rf"(^|[{escaped}\r\n])(?:[{blank}]*+({quoted}[^{escaped}\r\n]*+)|([^{escaped}\r\n]*+))"
        )
        self._cell_end = re.compile(f"[{escaped}\r\n]")
        self._cell_run = re.compile(f"(?>(?:(?>(?:{quoted}|{plain})?){escaped})+)")
        self._invalid_run = re.compile(
            f"(?>(?:(?>(?:{quoted}[^{escaped}\r\n]*+|{plain})?){escaped})+)"
        )
        self._after_cr = False
        self._start_record()

    def _start_record(self) -> None:
        self._state = _RecordState.START
        # Encoded: as text, one rare character makes all others of a cell take four bytes.
        self._cells: list[bytes] = []
        self._cell: bytearray | None = None
        self._size = 0
        self._ended = False
        self._has_nul = False
        self._invalid: InvalidRecord | None = None

    @property
    def in_record(self) -> bool:
        """Whether a record has begun and not ended."""
        return self._size > 0

    @property
    def buffered_bytes(self) -> int:
        """The size of the record that is being read, as far as it is kept."""
        return 0 if self._invalid else self._size

    @property
    def cell_index(self) -> int:
        """The number (from 0) of the cell that is being read."""
        return self._invalid.cell_index if self._invalid else len(self._cells)

    def feed(self, text: str) -> list[Record]:
        """Return the records that end in this piece of text."""
        records: list[Record] = []
        pos = 0
        if self._after_cr and text:
            self._after_cr = False
            pos = int(text.startswith("\n"))
        if self.in_record:
            pos = self._parse_record(text, pos, records)
        end = 1 + max(text.rfind("\n"), text.rfind("\r"))
        if pos < end:
            pos += self._parse_complete_records(text[pos:end], records)
            self._after_cr = pos == len(text) and text.endswith("\r")
        while pos < len(text):
            pos = self._parse_record(text, pos, records)
        return records

    def close(self) -> list[Record]:
        """Return the last record if it has no line end, at the end of the text."""
        if not self.in_record:
            return []
        if self._state is _RecordState.QUOTED:
            self._invalid = InvalidRecord(FileErrorCode.UNCLOSED_QUOTE, self.cell_index)
        return [self._end_record()]

    def _parse_complete_records(self, lines: str, records: list[Record]) -> int:
        """Append complete records to `records`. Return the position of the first one that is not.

        Misplaced quotes, unclosed quotes and cells too large for the csv module count as incomplete.
        """
        if '"' not in lines:
            delimiter = self._delimiter
            normalised = lines.replace("\r\n", "\n").replace("\r", "\n")
            records += [line.split(delimiter) for line in normalised[:-1].split("\n")]
            return len(lines)
        if (' "' in lines or '\t"' in lines) and self._blank_before_quote.search(lines):
            dense = self._cell_with_blanks.sub(r"\1\2\3", lines)
            found: list[Record] = []
            if self._parse_dense_records(dense, found) < len(dense):
                return 0
            records += found
            return len(lines)
        return self._parse_dense_records(lines, records)

    def _parse_dense_records(self, lines: str, records: list[Record]) -> int:
        """Do the same for records without white space before quotes."""
        source = io.StringIO(lines, newline="")
        reader = csv.reader(source, delimiter=self._delimiter, strict=True)
        done = 0
        try:
            for record in reader:
                records.append(record)
                done = reader.line_num
        except csv.Error:
            source.seek(0)
            for _ in range(done):
                source.readline()
            return source.tell()
        return len(lines)

    def _parse_record(self, text: str, pos: int, records: list[Record]) -> int:
        """Parse to the end of the record or of the text. Return the position after it."""
        begin = pos
        while pos < len(text) and not self._ended:
            if self._state is _RecordState.QUOTED:
                pos = self._in_quoted_cell(text, pos)
            elif self._state is _RecordState.PLAIN:
                pos = self._in_unquoted_cell(text, pos)
            elif self._state is _RecordState.START:
                pos = self._at_cell_start(text, pos)
            elif self._state is _RecordState.BLANK:
                pos = self._after_blank(text, pos)
            else:
                pos = self._after_quote(text, pos)
        parsed = text[begin:pos]
        self._size += len((parsed.rstrip("\r\n") if self._ended else parsed).encode())
        if self._size > MAX_RECORD_BYTES or len(self._cells) > MAX_CELLS:
            self._mark_invalid(FileErrorCode.TOO_LONG)
        self._has_nul = self._has_nul or "\x00" in parsed
        if self._ended:
            records.append(self._end_record())
        return pos

    def _at_cell_start(self, text: str, pos: int) -> int:
        if self._invalid:
            if run := self._invalid_run.match(text, pos):
                return run.end()
        elif run := self._cell_run.match(text, pos):
            cells = next(csv.reader([run[0]], delimiter=self._delimiter))
            self._cells += [cell.encode() for cell in cells[:-1]]
            return run.end()
        self._state = _RecordState.BLANK
        return pos

    def _after_blank(self, text: str, pos: int) -> int:
        """Add white space at the start of a cell. A quote after it drops it and opens the cell."""
        blank = self._blank.match(text, pos)
        end = blank.end() if blank else pos
        if end == len(text):
            self._add(text[pos:end])
        elif text[end] == '"':
            self._cell = None
            self._state = _RecordState.QUOTED
            end += 1
        else:
            self._add(text[pos:end])
            self._state = _RecordState.PLAIN
        return end

    def _in_unquoted_cell(self, text: str, pos: int) -> int:
        match = self._cell_end.search(text, pos)
        if match is None:
            self._add(text[pos:])
            return len(text)
        self._add(text[pos : match.start()])
        self._end_cell()
        pos = match.end()
        if match[0] != self._delimiter:
            self._ended = True
            if match[0] == "\r":
                self._after_cr = pos == len(text)
                pos += text.startswith("\n", pos)
        return pos

    def _in_quoted_cell(self, text: str, pos: int) -> int:
        end = pos
        if inside := _QUOTED.match(text, pos):
            self._add(inside[0].replace('""', '"'))
            end = inside.end()
        if end < len(text):
            self._state = _RecordState.QUOTE
            end += 1
        return end

    def _after_quote(self, text: str, pos: int) -> int:
        character = text[pos]
        if character == '"' and self._state is _RecordState.QUOTE:
            self._add(character)
            self._state = _RecordState.QUOTED
            return pos + 1
        if self._cell_end.match(character):
            self._state = _RecordState.PLAIN
            return pos
        if character in " \t":
            self._state = _RecordState.CLOSED
            return pos + 1
        self._mark_invalid(FileErrorCode.UNCLOSED_QUOTE)
        self._state = _RecordState.PLAIN
        return pos

    def _add(self, text: str) -> None:
        if self._invalid is None:
            if self._cell is None:
                self._cell = bytearray()
            self._cell += text.encode()

    def _end_cell(self) -> None:
        self._state = _RecordState.START
        if self._invalid is None:
            self._cells.append(bytes(self._cell or b""))
            self._cell = None

    def _mark_invalid(self, code: FileErrorCode) -> None:
        self._invalid = self._invalid or InvalidRecord(code, self.cell_index)
        self._cells = []
        self._cell = None

    def _end_record(self) -> Record:
        if not self._ended:
            self._end_cell()
        if self._invalid:
            self._invalid.has_nul = self._has_nul
        record = self._invalid or [cell.decode() for cell in self._cells]
        self._start_record()
        return record
