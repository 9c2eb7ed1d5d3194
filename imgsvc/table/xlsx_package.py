"""The package of an .xlsx file: its parts, sheets, shared strings and number formats.

A package is a ZIP archive of XML parts (ECMA-376 Part 2). Parts are parsed as a stream, and a document
type declaration is refused, so that entities cannot grow.
"""

from __future__ import annotations

import posixpath
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO
from xml.parsers import expat
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from imgsvc.errors import FileErrorCode
from imgsvc.table.decoding import HOW_TO_SAVE
from imgsvc.table.records import MAX_RECORD_BYTES
from imgsvc.table.xlsx_values import BUILT_IN_FORMATS, DateKind, date_kind, unescape

READ_BYTES = 2**16
"""Bytes of a part that are parsed in one step."""
_ENCRYPTED_FLAG = 0x1
_KINDS = (
    ("xl/workbook.bin", "a binary Excel workbook (.xlsb)"),
    ("content.xml", "an OpenDocument file such as .ods"),
    ("index/document.iwa", "a Numbers spreadsheet"),
    ("index.zip", "a Numbers spreadsheet"),
    ("word/document.xml", "a Word document"),
    ("ppt/presentation.xml", "a PowerPoint presentation"),
)
"""Parts that identify other files that are ZIP archives."""

Attributes = dict[str, str]


class XlsxError(Exception):
    """The file cannot be read. A `code` of None means that it is larger than a limit.

    `message` says what is wrong and what to do, `row` is the number of the row that is concerned.
    """

    def __init__(self, code: FileErrorCode | None, message: str, row: int | None = None) -> None:
        super().__init__(code, message, row)
        self.code = code
        self.message = message
        self.row = row


def damaged(reason: str) -> XlsxError:
    """Return the error of a damaged file."""
    return XlsxError(FileErrorCode.NOT_CSV, f"The .xlsx file is damaged: {reason}. {HOW_TO_SAVE}")


def too_long(row: int | None) -> XlsxError:
    """Return the error of a row that is too long."""
    return XlsxError(
        FileErrorCode.TOO_LONG,
        f"A row has more than {MAX_RECORD_BYTES >> 20} MiB of text. Shorten its cells.",
        row,
    )


class Package:
    """The parts of an .xlsx file. Their names ignore case. Raise `XlsxError` if it is another file."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._zip = ZipFile(file)
        parts = self._zip.infolist()
        # zipfile reads no more bytes of a part than its directory states.
        if sum(part.file_size for part in parts) > max_bytes:
            raise XlsxError(
                None,
                f"The .xlsx file is larger than {max_bytes >> 20:,} MiB when it is unpacked (4 × "
                "server.max_upload_bytes). Split it into several files.",
            )
        self._parts = {_part_name("/", part.filename): part for part in parts}
        self.main = self._find_main()

    def _find_main(self) -> str:
        """Return the name of the workbook's part."""
        targets = self.relations("").values()
        found = [part for kind, part in targets if kind.endswith("/officeDocument")]
        name = found[0] if found else "xl/workbook.xml"
        if name in self._parts and name.endswith(".xml") and not name.startswith(("word/", "ppt/")):
            return name
        kinds = [kind for part, kind in _KINDS if part in self._parts]
        kind = kinds[0] if kinds else "a ZIP archive without a worksheet"
        raise XlsxError(FileErrorCode.NOT_CSV, f"The file is {kind}. {HOW_TO_SAVE}")

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def open(self, name: str) -> IO[bytes]:
        """Open a part for reading."""
        part = self._parts.get(name)
        if part is None:
            raise damaged(f"the part {name[:100]} is missing")
        _check_readable(part)
        return self._zip.open(part)

    def relations(self, name: str) -> dict[str, tuple[str, str]]:
        """Return the relations of a part: by id, the type and the name of the other part."""
        folder, base = posixpath.split(name)
        relations_part = posixpath.join(folder, "_rels", f"{base}.rels")
        found: dict[str, tuple[str, str]] = {}

        def start(element: str, attributes: Attributes) -> None:
            if element == "Relationship" and attributes.get("TargetMode") != "External":
                target = _part_name(folder, attributes.get("Target", ""))
                found[attributes.get("Id", "")] = (attributes.get("Type", ""), target)

        if relations_part in self._parts:
            self.parse(relations_part, start)
        return found

    def parse(
        self,
        name: str,
        start: Callable[[str, Attributes], None],
        end: Callable[[str], None] = lambda _: None,
        text: Callable[[str], None] | None = None,
    ) -> None:
        """Parse a whole part. The callables receive what `pieces` says."""
        for _ in self.pieces(name, start, end, text):
            pass

    def pieces(
        self,
        name: str,
        start: Callable[[str, Attributes], None],
        end: Callable[[str], None],
        text: Callable[[str], None] | None = None,
    ) -> Iterator[None]:
        """Parse a part in steps. Between two steps the caller takes what the callables collected.

        The root element is not passed to them, and its namespace prefix is removed from names.
        """

        def refuse(*_: object) -> None:
            raise damaged("it has a document type declaration")

        def start_root(element: str, _: Attributes) -> None:
            prefix = element[: element.rfind(":") + 1]
            if prefix:
                parser.StartElementHandler = lambda e, a: start(e.removeprefix(prefix), a)
                parser.EndElementHandler = lambda e: end(e.removeprefix(prefix))
            else:
                parser.StartElementHandler, parser.EndElementHandler = start, end

        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = refuse
        parser.StartElementHandler = start_root
        parser.CharacterDataHandler = text
        with self.open(name) as part:
            try:
                while data := part.read(READ_BYTES):
                    parser.Parse(data)
                    yield
                parser.Parse(b"", True)  # noqa: FBT003 - it has no name
            except expat.ExpatError as error:
                if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]:
                    raise MemoryError from None
                raise damaged(f"{name[:100]} is not valid XML ({error})") from None
            except LookupError as error:  # an unknown encoding
                raise damaged(f"{name[:100]}: {error}") from None
        yield


def _part_name(folder: str, target: str) -> str:
    """Return the name of a part, in lower case and without a first slash."""
    path = posixpath.join("/", folder, target.replace("\\", "/"))
    return posixpath.normpath(path).lstrip("/").lower()


def _check_readable(part: ZipInfo) -> None:
    if part.flag_bits & _ENCRYPTED_FLAG:
        raise XlsxError(
            FileErrorCode.NOT_CSV,
            f"The file is protected by a password. Remove it. {HOW_TO_SAVE}",
        )
    if part.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        raise damaged("it uses a compression method that .xlsx does not have")


# --- the workbook's parts ------------------------------------------------------------------------


class TextCollector:
    """Collects the text of one string: of its `t` elements, without phonetic guides."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._in_text = False
        self._in_guide = False

    def start(self, element: str) -> None:
        """Record the start of an element."""
        if element == "rPh":
            self._in_guide = True
        elif element == "t":
            self._in_text = not self._in_guide

    def end(self, element: str) -> None:
        """Record the end of an element."""
        if element == "rPh":
            self._in_guide = False
        elif element == "t":
            self._in_text = False

    def text(self, text: str) -> None:
        """Record text."""
        if self._in_text:
            self._size += len(text)
            if self._size > MAX_RECORD_BYTES:
                raise too_long(None)
            self._parts.append(text)

    def take(self) -> str:
        """Return the string, and start the next one."""
        value = unescape("".join(self._parts))
        self._parts.clear()
        self._size = 0
        return value


class SharedStrings:
    """The strings that cells refer to by number.

    They are in one buffer, so a string needs its bytes in UTF-8 and eight more.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._ends = array("Q", [0])

    def append(self, text: str) -> None:
        """Add a string."""
        self._buffer += text.encode()
        self._ends.append(len(self._buffer))

    def index(self, text: str) -> int:
        """Return the number in `text`. Raise `XlsxError` if there is no string with this number."""
        text = text.strip()
        index = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
        if not 0 <= index < len(self._ends) - 1:
            raise damaged(f"shared string {text[:20]!r} is missing")
        return index

    def get(self, index: int) -> str:
        """Return the string with this number."""
        return self._buffer[self._ends[index] : self._ends[index + 1]].decode()


@dataclass(frozen=True, slots=True)
class Workbook:
    """A workbook without its cells.

    `sheets` are the parts of its visible worksheets, in order. `date_kinds` are the date formats of the
    cell styles. `from_1904` is whether days count from 1904.
    """

    sheets: tuple[str, ...]
    strings: SharedStrings
    date_kinds: tuple[DateKind | None, ...]
    from_1904: bool


def read_workbook(package: Package) -> Workbook:
    """Return the workbook of a package. Raise `XlsxError` if it has no worksheet."""
    relations = package.relations(package.main)
    by_kind = {kind.rpartition("/")[2]: part for kind, part in relations.values()}
    sheets: list[tuple[str, bool]] = []
    from_1904 = False

    def start(element: str, attributes: Attributes) -> None:
        nonlocal from_1904
        if element == "sheet":
            ids = [value for name, value in attributes.items() if name.endswith(":id")]
            kind, part = relations.get(ids[0] if ids else "", ("", ""))
            if kind.endswith("/worksheet"):
                sheets.append((part, attributes.get("state", "visible") == "visible"))
        elif element == "workbookPr":
            from_1904 = attributes.get("date1904") in {"1", "true"}

    package.parse(package.main, start)
    if not sheets:
        raise damaged("it has no worksheet")
    visible = tuple(part for part, is_visible in sheets if is_visible)
    return Workbook(
        visible or (sheets[0][0],),
        _read_strings(package, by_kind.get("sharedStrings")),
        _read_date_kinds(package, by_kind.get("styles")),
        from_1904,
    )


def _read_strings(package: Package, part: str | None) -> SharedStrings:
    strings = SharedStrings()
    if part is None or part not in package:
        return strings
    collector = TextCollector()

    def end(element: str) -> None:
        collector.end(element)
        if element == "si":
            strings.append(collector.take())

    package.parse(part, lambda element, _: collector.start(element), end, collector.text)
    return strings


def _read_date_kinds(package: Package, part: str | None) -> tuple[DateKind | None, ...]:
    """Return the date format of each cell style."""
    kinds: dict[str, DateKind | None] = {str(n): kind for n, kind in BUILT_IN_FORMATS.items()}
    styles: list[DateKind | None] = []
    in_cell_styles = False

    def start(element: str, attributes: Attributes) -> None:
        nonlocal in_cell_styles
        if element == "numFmt":
            kinds[attributes.get("numFmtId", "")] = date_kind(attributes.get("formatCode", ""))
        elif element == "cellXfs":
            in_cell_styles = True
        elif element == "xf" and in_cell_styles:
            styles.append(kinds.get(attributes.get("numFmtId", "")))

    def end(element: str) -> None:
        nonlocal in_cell_styles
        if element == "cellXfs":
            in_cell_styles = False

    if part is not None and part in package:
        package.parse(part, start, end)
    return tuple(styles)
