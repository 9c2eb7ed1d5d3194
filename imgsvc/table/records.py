"""Text → records of cells, piece by piece."""

from __future__ import annotations

import csv
import io
import re
from enum import Enum, auto

from imgsvc.errors import FileErrorCode

MAX_RECORD_BYTES = 16 * 2**20
MAX_CELLS = 2**15
"""Cells of one record: twice as many as spreadsheets have, and few enough to look at at once."""

_QUOTED = re.compile(r'(?>[^"]*+(?:""[^"]*+)*)')


class Broken:
    """A record that cannot be read: why, and the number of the cell (from 0) where that showed.

    `binary` tells whether there were zero bytes in it.
    """

    __slots__ = ("binary", "cell", "code")

    def __init__(self, code: FileErrorCode, cell: int) -> None:
        self.code = code
        self.cell = cell
        self.binary = False


Record = list[str] | Broken


class _State(Enum):
    START = auto()
    """Before a cell's first character."""
    PLAIN = auto()
    """In a cell without quotes."""
    QUOTED = auto()
    """Between quotes."""
    QUOTE = auto()
    """After a quote that ended the cell, or is the first of two."""
    CLOSED = auto()
    """After the cell's closing quote and a blank."""


class Records:
    """Cuts text into records, as RFC 4180 has them, with any delimiter and any line ends.

    A blank line is a record too, `[]` or `[""]`. A record that is too long (`TOO_LONG`) or whose
    quotes are not paired (`UNCLOSED_QUOTE`) comes out as `Broken`, and reading goes on behind it.
    The text comes in pieces of at most 64 Ki characters.

    Whole records go through `str.split`, or the csv module where there are quotes. The states are for
    what these cannot do: records that arrive in parts, cells of any length, and quotes out of place.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        mark = re.escape(delimiter)
        # Not (…)*+: before 3.11.5 Python loses its place in a possessive group that backtracks.
        quoted = r'"(?>[^"]*+(?:""[^"]*+)*)"'
        plain = rf'[^"{mark}\r\n][^{mark}\r\n]*+'
        self._stop = re.compile(f"[{mark}\r\n]")
        self._run = re.compile(f"(?>(?:(?>(?:{quoted}|{plain})?){mark})+)")
        self._broken_run = re.compile(f"(?>(?:(?>(?:{quoted}[^{mark}\r\n]*+|{plain})?){mark})+)")
        self._after_cr = False
        self._begin_record()

    def _begin_record(self) -> None:
        self._state = _State.START
        self._cells: list[str] = []
        self._cell: io.StringIO | None = None
        self._size = 0
        self._ended = False
        self._binary = False
        self._broken: Broken | None = None

    @property
    def midway(self) -> bool:
        """Whether a record has begun and not ended."""
        return self._size > 0

    @property
    def cell(self) -> int:
        """The number of the cell (from 0) that is being read."""
        return self._broken.cell if self._broken else len(self._cells)

    def feed(self, text: str) -> list[Record]:
        """Give the records that end in this piece of text."""
        records: list[Record] = []
        at = 0
        if self._after_cr and text:
            self._after_cr = False
            at = int(text.startswith("\n"))
        if self.midway:
            at = self._step_through(text, at, records)
        end = 1 + max(text.rfind("\n"), text.rfind("\r"))
        if at < end:
            at += self._whole_records(text[at:end], records)
            self._after_cr = at == len(text) and text.endswith("\r")
        while at < len(text):
            at = self._step_through(text, at, records)
        return records

    def close(self) -> list[Record]:
        """Give the record that ended without a line end."""
        if not self.midway:
            return []
        if self._state is _State.QUOTED:
            self._broken = Broken(FileErrorCode.UNCLOSED_QUOTE, self.cell)
        return [self._end_record()]

    def _whole_records(self, lines: str, records: list[Record]) -> int:
        """Read records as far as they are whole; give the position of the first that is not."""
        if '"' not in lines:
            delimiter = self._delimiter
            same = lines.replace("\r\n", "\n").replace("\r", "\n")
            records += [line.split(delimiter) for line in same[:-1].split("\n")]
            return len(lines)
        source = io.StringIO(lines, newline="")
        reader = csv.reader(source, delimiter=self._delimiter, strict=True)
        done = 0
        try:
            for record in reader:
                records.append(record)
                done = reader.line_num
        except csv.Error:  # a quote out of place, or never closed; a cell too large for the module
            source.seek(0)
            for _ in range(done):
                source.readline()
            return source.tell()
        return len(lines)

    def _step_through(self, text: str, at: int, records: list[Record]) -> int:
        """Read on to the end of the record, or of the text; give the position behind it."""
        begin = at
        while at < len(text) and not self._ended:
            if self._state is _State.QUOTED:
                at = self._in_quotes(text, at)
            elif self._state is _State.PLAIN:
                at = self._in_cell(text, at)
            elif self._state is _State.START:
                at = self._at_start(text, at)
            else:
                at = self._behind_quote(text, at)
        taken = text[begin:at]
        self._size += len((taken.rstrip("\r\n") if self._ended else taken).encode())
        if self._size > MAX_RECORD_BYTES or len(self._cells) > MAX_CELLS:
            self._break(FileErrorCode.TOO_LONG)
        self._binary = self._binary or "\x00" in taken
        if self._ended:
            records.append(self._end_record())
        return at

    def _at_start(self, text: str, at: int) -> int:
        if self._broken:
            if run := self._broken_run.match(text, at):
                return run.end()
        elif run := self._run.match(text, at):
            self._cells += next(csv.reader([run[0]], delimiter=self._delimiter))[:-1]
            return run.end()
        if text[at] == '"':
            self._state = _State.QUOTED
            return at + 1
        self._state = _State.PLAIN
        return at

    def _in_cell(self, text: str, at: int) -> int:
        stop = self._stop.search(text, at)
        if stop is None:
            self._add(text[at:])
            return len(text)
        self._add(text[at : stop.start()])
        self._end_cell()
        at = stop.end()
        if stop[0] != self._delimiter:
            self._ended = True
            if stop[0] == "\r":
                self._after_cr = at == len(text)
                at += text.startswith("\n", at)
        return at

    def _in_quotes(self, text: str, at: int) -> int:
        end = at
        if inside := _QUOTED.match(text, at):
            self._add(inside[0].replace('""', '"'))
            end = inside.end()
        if end < len(text):
            self._state = _State.QUOTE
            end += 1
        return end

    def _behind_quote(self, text: str, at: int) -> int:
        character = text[at]
        if character == '"' and self._state is _State.QUOTE:
            self._add(character)
            self._state = _State.QUOTED
            return at + 1
        if self._stop.match(character):
            self._state = _State.PLAIN
            return at
        if character in " \t":
            self._state = _State.CLOSED
            return at + 1
        self._break(FileErrorCode.UNCLOSED_QUOTE)
        self._state = _State.PLAIN
        return at

    def _add(self, text: str) -> None:
        if self._broken is None:
            if self._cell is None:
                self._cell = io.StringIO(newline="")
            self._cell.write(text)

    def _end_cell(self) -> None:
        self._state = _State.START
        if self._broken is None:
            self._cells.append(self._cell.getvalue() if self._cell else "")
            self._cell = None

    def _break(self, code: FileErrorCode) -> None:
        self._broken = self._broken or Broken(code, self.cell)
        self._cells = []
        self._cell = None

    def _end_record(self) -> Record:
        if not self._ended:
            self._end_cell()
        if self._broken:
            self._broken.binary = self._binary
        record = self._broken or self._cells
        self._begin_record()
        return record
