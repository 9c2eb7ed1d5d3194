"""Bytes → text, in the encodings that spreadsheet programs write."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable

from imgsvc.errors import FileErrorCode, Suggestion
from imgsvc.table.likely_encodings import likely_encodings
from imgsvc.table.windows_1252 import PlausibilityCheck

_Decode = Callable[[bytes, str, bool], tuple[str, int]]

HOW_TO_SAVE = (
    "Save your table as CSV (in Excel: Save As, CSV UTF-8) or as .xlsx, and upload that file."
)
_HOW_TO_SAVE_UTF8 = (
    "Save the whole file as UTF-8 (in Excel: Save As, CSV UTF-8) and upload it again."
)

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"pk\x03\x04", "a spreadsheet such as .xlsx or .ods (or a ZIP archive)"),
    (b"pk\x05\x06", "a ZIP archive"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an older spreadsheet such as .xls, or one with a password",
    ),
    (b"<?xml", "XML"),
    (b"{\\rtf", "a text document (RTF)"),
    (b"%pdf-", "a PDF"),
    (b"\x89png\r\n", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"gif8", "an image"),
    (b"\x1f\x8b", "compressed"),
    (b"bzh9", "compressed"),
    (b"\xfd7zxz\x00", "compressed"),
    (b"7z\xbc\xaf\x27\x1c", "compressed"),
    (b"rar!\x1a\x07", "compressed"),
    (b"\x28\xb5\x2f\xfd", "compressed"),
    (b"sqlite format 3\x00", "a database"),
)
"""First bytes of files that are not CSV, in lower case, and their kind."""

_WEB_PAGE = re.compile(
    rb"<(?:!doctyp|!--|(?:html|head|meta|title|style|body|table|div|center|p)(?![a-z0-9]))"
)
"""The start of a web page in lower case. Shops export such pages as .xls files."""

_SNIFFED_BYTES = 16
"""Number of bytes to read before the encoding is detected: the length of the longest signature."""
_EVIDENCE_BYTES = 2**14
"""With an option, number of bytes from the first one that is not ASCII on that must be UTF-8: a few
letters in another encoding are UTF-8 by chance."""
_CONTEXT_BYTES = 2**8
"""Bytes before implausible text in which the start of its cell is searched."""
_SAMPLE_BYTES = 2**12
"""Bytes from implausible text on that show likely encodings."""
_MAX_FINAL_MARKS = 2**12
"""Maximum number of NUL and Ctrl-Z at the end that are dropped. Old programs fill a disk block."""

_ASCII = bytes(range(128))
_NOT_FOR_FILES = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"}
"""Codecs of Python that are not encodings of files."""

_BYTE_ORDER_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # must precede UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_TEXT_DECODERS: dict[str, _Decode] = {
    "utf-8": codecs.utf_8_decode,
    "utf-16-le": codecs.utf_16_le_decode,
    "utf-16-be": codecs.utf_16_be_decode,
}


class DecodingError(Exception):
    """The bytes are not text in a supported encoding.

    `message` says what is wrong and what to do. `text` is the decoded text before the invalid bytes,
    `value` the invalid bytes in hexadecimal, `suggestions` are likely encodings.
    """

    def __init__(
        self,
        code: FileErrorCode,
        message: str,
        text: str = "",
        value: str | None = None,
        suggestions: Iterable[Suggestion] = (),
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.text = text
        self.value = value
        self.suggestions = tuple(suggestions)


def check_encoding(name: str) -> str:
    """Return Python's name of a text encoding that is a superset of ASCII.

    Raise `ValueError`, whose text is a sentence, for other names.
    """
    try:
        codec = codecs.lookup(name if name.isascii() and name.isprintable() else "")
        text = _ASCII + b"+AGE- ~{VPND~} \x1b$B"
        is_superset = codec.name not in _NOT_FOR_FILES and text.decode(codec.name) == text.decode()
    except LookupError:
        raise ValueError(
            f'There is no text encoding "{name[:40]}". Use a name that Python knows, e.g. cp1251, gbk '
            "or shift_jis."
        ) from None
    except ValueError:  # UnicodeError is one
        is_superset = False
    if not is_superset:
        raise ValueError(
            f'The text encoding "{name[:40]}" is not a superset of ASCII. UTF-16 is detected without '
            "the option; save files in other such encodings as UTF-8."
        )
    return "utf-8" if codec.name == "utf-8-sig" else codec.name


class Decoder:
    """Decodes a file piece by piece.

    A byte-order mark sets the encoding. Without one the file is UTF-16 if every other byte of its start
    is NUL, and else UTF-8. If it is not, it is in the `option`, a name that `check_encoding` returned.
    Without an option it is Windows-1252 if only ASCII precedes its first byte that is not valid UTF-8;
    it then must be plausible to its end.

    `encoding` is the name of the codec, as far as it is known. `feed` and `close` raise
    `DecodingError`, after which the decoder must not be used.
    """

    def __init__(self, option: str | None = None) -> None:
        self.encoding = "utf-8"
        self.has_mark = False
        self._option = option
        self._pending = b""
        self._context = b""
        self._step: Callable[[bytes, bool], str] = self._detect
        self._final_marks = _FinalMarks()

    def feed(self, data: bytes) -> str:
        """Return the text of this piece. An incomplete character is held back for the next piece."""
        return self._final_marks.hold_back(self._decode(data, final=False))

    def close(self) -> str:
        """Return the rest of the text, at the end of the file."""
        return self._final_marks.drop(self._decode(b"", final=True))

    def _decode(self, data: bytes, *, final: bool) -> str:
        if self._pending:
            data, self._pending = self._pending + data, b""
        try:
            return self._step(data, final)
        except DecodingError as error:
            error.text = self._final_marks.release() + error.text
            raise

    def _detect(self, data: bytes, final: bool) -> str:
        """Set the encoding by the file's first bytes.

        Raise `DecodingError` for another file type or an unsupported encoding.
        """
        if len(data) < _SNIFFED_BYTES and not final:
            self._pending = data
            return ""
        for mark, encoding in _BYTE_ORDER_MARKS:
            if data.startswith(mark):
                self.encoding, self.has_mark = encoding, True
                data = data[len(mark) :]
                break
        else:
            self.encoding = _unmarked_utf16(data[:_SNIFFED_BYTES]) or "utf-8"
        start = data[:_SNIFFED_BYTES].lower()
        _check_file_type(start if self.encoding == "utf-8" else start.replace(b"\x00", b""))
        if self.encoding not in _TEXT_DECODERS:
            raise DecodingError(
                FileErrorCode.BAD_ENCODING,
                f"The file's text encoding is not supported. {_HOW_TO_SAVE_UTF8}",
            )
        certain = self.has_mark or self.encoding != "utf-8" or self._option == "utf-8"
        self._step = self._decode_unicode if certain else self._decode_ascii
        return self._step(data, final)

    def _decode_ascii(self, data: bytes, final: bool) -> str:
        """Decode ASCII. The first other bytes set the encoding."""
        rest = data.lstrip(_ASCII) if not data.isascii() else b""
        ascii_bytes = data[: len(data) - len(rest)]
        self._context = (self._context + ascii_bytes[-_CONTEXT_BYTES:])[-_CONTEXT_BYTES:]
        text = ascii_bytes.decode("ascii")
        evidence = rest[: _EVIDENCE_BYTES if self._option else 4]
        try:
            valid = codecs.utf_8_decode(evidence, "strict", final and evidence == rest)[1]
            if not valid or (self._option and len(rest) < _EVIDENCE_BYTES and not final):
                self._pending = rest
                return text
            self._step = self._decode_unicode
        except UnicodeDecodeError as error:
            if self._option:
                self._start_option(self._option)
            elif error.start:
                self._step = self._decode_unicode
            else:
                self._start_windows_1252()
        try:
            return text + self._step(rest, final)
        except DecodingError as error:
            error.text = text + error.text
            raise

    def _decode_unicode(self, data: bytes, final: bool) -> str:
        try:
            text, used = _TEXT_DECODERS[self.encoding](data, "strict", final)
        except UnicodeDecodeError as error:
            raise _invalid_bytes(error, self.encoding) from None
        self._pending = data[used:]
        return text

    def _start_option(self, encoding: str) -> None:
        decoder = codecs.getincrementaldecoder(encoding)()

        def decode(data: bytes, final: bool) -> str:
            try:
                return decoder.decode(data, final)
            except UnicodeDecodeError as error:
                raise _invalid_bytes(error, encoding) from None

        self.encoding, self._step = encoding, decode

    def _start_windows_1252(self) -> None:
        self.encoding, self._step = "cp1252", self._decode_windows_1252
        self._plausibility = PlausibilityCheck(self._context.decode("ascii"))

    def _decode_windows_1252(self, data: bytes, final: bool) -> str:
        text = data.decode("cp1252", "surrogateescape")
        found = self._plausibility.find(text)
        seen = self._context + data
        if found is None:
            self._context = seen[-_CONTEXT_BYTES:]
            return text
        position = len(self._context) + found
        cell = 1 + max(seen.rfind(byte, 0, position) for byte in b',;"\t\r\n')
        self._plausible = text[: max(0, found)]
        self._implausible_at = position - cell
        self._step = self._collect_sample
        return self._step(seen[cell:], final)

    def _collect_sample(self, data: bytes, final: bool) -> str:
        """Hold implausible bytes back until the sample is large enough. Then raise `DecodingError`."""
        size = self._implausible_at + _SAMPLE_BYTES
        if len(data) < size and not final:
            self._pending = data
            return ""
        raise _implausible(data[:size], self._implausible_at, self._plausible)


class _FinalMarks:
    """Drops NUL and Ctrl-Z at the end of the text, which old programs write, with line ends after them.

    A text of nothing else is kept.
    """

    def __init__(self) -> None:
        self._held = ""
        self._too_many = False
        self._has_text = False

    def hold_back(self, text: str) -> str:
        """Return the text without these characters at its end, until other ones follow."""
        text, self._held = self._held + text, ""
        other = len(text.rstrip("\x00\x1a\r\n"))
        if other:
            self._too_many = False
        marks = [at for at in (text.find("\x00", other), text.find("\x1a", other)) if at >= 0]
        if marks and not self._too_many:
            first = min(marks)
            self._too_many = len(text) - first > _MAX_FINAL_MARKS
            if not self._too_many:
                text, self._held = text[:first], text[first:]
        self._has_text = self._has_text or text != ""
        return text

    def release(self) -> str:
        """Return the characters that were held back."""
        held, self._held = self._held, ""
        return held

    def drop(self, text: str) -> str:
        """Return the last text without these characters."""
        text = self.hold_back(text)
        return text if self._has_text else text + self.release()


def _check_file_type(start: bytes) -> None:
    """Raise `DecodingError` if the first bytes, in lower case, are those of another file type."""
    start = start.lstrip(b" \t\r\n")
    kind = "a web page" if _WEB_PAGE.match(start) else None
    for signature, its_kind in _SIGNATURES:
        if start.startswith(signature):
            kind = its_kind
    if kind:
        raise DecodingError(FileErrorCode.NOT_CSV, f"The file is {kind}, not CSV. {HOW_TO_SAVE}")


def _unmarked_utf16(start: bytes) -> str | None:
    """Return the codec of UTF-16 without a byte-order mark, or None for other text.

    In UTF-16, every other byte of ASCII characters is NUL. A quarter may be other characters.
    """
    first, second = start[0::2], start[1::2]
    if len(start) >= 4 and not first.count(0) and 4 * second.count(0) >= 3 * len(second):
        return "utf-16-le"
    if len(start) >= 4 and not second.count(0) and 4 * first.count(0) >= 3 * len(first):
        return "utf-16-be"
    return None


def _invalid_bytes(error: UnicodeDecodeError, encoding: str) -> DecodingError:
    """Return the error of bytes that are not valid, with the text before them."""
    text = error.object[: error.start].decode(encoding)
    value = error.object[error.start : error.end][:4].hex(" ").upper()
    subject = f"The bytes {value} are" if " " in value else f"The byte {value} is"
    name = {"utf-8": "UTF-8", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}.get(encoding, encoding)
    return DecodingError(
        FileErrorCode.BAD_ENCODING,
        f"{subject} not valid in {name}. {_HOW_TO_SAVE_UTF8}",
        text,
        value,
    )


def _implausible(sample: bytes, position: int, text: str) -> DecodingError:
    """Return the error of text that is neither UTF-8 nor Windows-1252, with its likely encodings."""
    likely = [Suggestion("encoding", *each) for each in likely_encodings(sample)]
    listed = ", ".join(f"encoding={codec} ({example})" for _, codec, example in likely)
    options = (
        f"the one that reads right: {listed}" if likely else "its encoding, e.g. encoding=cp1251"
    )
    return DecodingError(
        FileErrorCode.BAD_ENCODING,
        "The text is not UTF-8, and it is unlikely in Windows-1252. Set the option encoding to "
        f"{options}. Or: {_HOW_TO_SAVE_UTF8}",
        text,
        f"{sample[position]:02X}",
        likely,
    )
