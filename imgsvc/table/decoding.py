"""Bytes → text, in the encodings that spreadsheet programs write."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from imgsvc.errors import FileErrorCode

_Decode = Callable[[bytes, str, bool], tuple[str, int]]

HOW_TO_SAVE_CSV = "Save your table as CSV (in Excel: Save As, CSV UTF-8) and upload that file."
_HOW_TO_SAVE_UTF8 = (
    "Save the whole file as UTF-8 (in Excel: Save As, CSV UTF-8) and upload it again."
)

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"pk\x03\x04", "a spreadsheet such as .xlsx or .ods (or a ZIP archive)"),
    (b"pk\x05\x06", "a ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an older spreadsheet such as .xls"),
    (b"<?xml", "XML"),
    (b"<html", "a web page"),
    (b"<!doctype", "a web page"),
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

_SNIFFED_BYTES = 16
"""Number of bytes to read before the encoding is detected: the length of the longest signature."""

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


_INTERNAL_CODECS = frozenset({"raw-unicode-escape", "charmap"})
"""Python's codecs that no file has."""
_ASCII_TEXT = "\t\n\r" + "".join(map(chr, range(32, 127)))


def text_encoding(name: str) -> str:
    """Return the name of Python's text codec `name`. Raise ValueError if it does not contain ASCII."""
    try:
        codec = codecs.lookup(name).name.removesuffix("-sig")
        text = _ASCII_TEXT.encode("ascii")
        contains_ascii = (_ASCII_TEXT.encode(codec), text.decode(codec)) == (text, _ASCII_TEXT)
        if contains_ascii and codec not in _INTERNAL_CODECS:
            return codec
    except (LookupError, ValueError):
        pass
    raise ValueError("must be the name of a text encoding that contains ASCII, such as cp1251")


class DecodingError(Exception):
    """The bytes are not text in a supported encoding.

    `message` says what is wrong and what to do. `text` is the decoded text before the invalid bytes,
    `value` the invalid bytes in hexadecimal.
    """

    def __init__(
        self, code: FileErrorCode, message: str, text: str = "", value: str | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.text = text
        self.value = value


class Decoder:
    """Decodes a file piece by piece.

    A byte-order mark sets the encoding. Without one the file is UTF-8. If the first byte that is not
    valid UTF-8 follows only ASCII, the file is Windows-1252 instead. `feed` and `close` raise
    `DecodingError`, after which the decoder must not be used.
    """

    def __init__(self) -> None:
        self._pending = b""
        self._encoding: str | None = None
        self._has_mark = False
        self._only_ascii = True

    @property
    def encoding(self) -> str:
        """The file's encoding, a Python codec. It may change until the file ends."""
        return self._encoding or "utf-8"

    @property
    def has_mark(self) -> bool:
        """Whether the file begins with a byte-order mark."""
        return self._has_mark

    def feed(self, data: bytes) -> str:
        """Return the text of this piece. An incomplete character is held back for the next piece."""
        return self._decode(self._pending + data if self._pending else data, final=False)

    def close(self) -> str:
        """Return the rest of the text, at the end of the file."""
        return self._decode(self._pending, final=True)

    def _decode(self, data: bytes, *, final: bool) -> str:
        if self._encoding is None:
            if len(data) < _SNIFFED_BYTES and not final:
                self._pending = data
                return ""
            data = self._detect_encoding(data)
        if self._encoding == "cp1252":
            return self._decode_windows_1252(data)
        try:
            text, used = _TEXT_DECODERS[self._encoding or "utf-8"](data, "strict", final)
        except UnicodeDecodeError as error:
            return self._decode_as_fallback(data, error)
        self._pending = data[used:]
        self._only_ascii = self._only_ascii and text.isascii()
        return text

    def _detect_encoding(self, data: bytes) -> bytes:
        """Set the encoding by the file's first bytes, and return the data without a byte-order mark.

        Raise `DecodingError` for another file type or an unsupported encoding.
        """
        start = data[:_SNIFFED_BYTES].lower()
        for signature, kind in _SIGNATURES:
            if start.lstrip(b" \t\r\n").startswith(signature):
                raise DecodingError(
                    FileErrorCode.NOT_CSV, f"The file is {kind}, not CSV. {HOW_TO_SAVE_CSV}"
                )
        for mark, encoding in _BYTE_ORDER_MARKS:
            if data.startswith(mark):
                self._encoding, self._has_mark = encoding, True
                data = data[len(mark) :]
                break
        else:
            self._encoding = "utf-8"
        if self._encoding not in _TEXT_DECODERS or _looks_like_utf16(data, marked=self._has_mark):
            raise DecodingError(
                FileErrorCode.BAD_ENCODING,
                f"The file's text encoding is not supported. {_HOW_TO_SAVE_UTF8}",
            )
        return data

    def _decode_as_fallback(self, data: bytes, error: UnicodeDecodeError) -> str:
        """Return the text as Windows-1252 if the file may be; else raise `DecodingError`."""
        decode = _TEXT_DECODERS[self._encoding or "utf-8"]
        text, _ = decode(data[: error.start], "strict", True)  # noqa: FBT003 - a function in C
        if self._encoding == "utf-8" and not self._has_mark and self._only_ascii and text.isascii():
            self._encoding = "cp1252"
            return text + self._decode_windows_1252(data[error.start :], before=text)
        encoding = "UTF-8" if self._encoding == "utf-8" else "UTF-16"
        raise _invalid_bytes(text, data[error.start : error.end], encoding)

    def _decode_windows_1252(self, data: bytes, before: str = "") -> str:
        self._pending = b""
        try:
            return data.decode("cp1252")
        except UnicodeDecodeError as error:
            text = before + data[: error.start].decode("cp1252")
            raise _invalid_bytes(text, data[error.start : error.end], "Windows-1252") from None


def _looks_like_utf16(data: bytes, *, marked: bool) -> bool:
    """Return whether data without a byte-order mark is UTF-16.

    In UTF-16, every other byte of ASCII characters is zero.
    """
    if marked or len(data) < 4:
        return False
    zeros = [not byte for byte in data[:4]]
    return zeros in ([False, True, False, True], [True, False, True, False])


def _invalid_bytes(text: str, data: bytes, encoding: str) -> DecodingError:
    value = data[:4].hex(" ").upper()
    subject = f"The bytes {value} are" if " " in value else f"The byte {value} is"
    return DecodingError(
        FileErrorCode.BAD_ENCODING,
        f"{subject} not valid in {encoding}. {_HOW_TO_SAVE_UTF8}",
        text,
        value,
    )
