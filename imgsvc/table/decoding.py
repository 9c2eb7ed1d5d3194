"""Bytes → text, in whichever of the encodings that spreadsheet programs write."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from imgsvc.errors import FileErrorCode

_Decode = Callable[[bytes, str, bool], tuple[str, int]]

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"pk\x03\x04", "a spreadsheet program's own format (or a ZIP archive)"),
    (b"pk\x05\x06", "a ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a spreadsheet program's own format"),
    (b"<?xml", "XML"),
    (b"<html", "a web page"),
    (b"<!doctype", "a web page"),
    (b"{\\rtf", "a text document"),
    (b"%pdf-", "a PDF"),
    (b"\x89png\r\n", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"gif8", "a picture"),
    (b"\x1f\x8b", "compressed"),
    (b"bzh9", "compressed"),
    (b"\xfd7zxz\x00", "compressed"),
    (b"7z\xbc\xaf\x27\x1c", "compressed"),
    (b"rar!\x1a\x07", "compressed"),
    (b"\x28\xb5\x2f\xfd", "compressed"),
    (b"sqlite format 3\x00", "a database"),
)
"""How files begin that are no CSV, in lower case, and what they are."""

_SNIFFED = 16
"""Bytes that are waited for before anything is decided; no entry above is longer."""

_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_DECODERS: dict[str, _Decode] = {
    "utf-8": codecs.utf_8_decode,
    "utf-16-le": codecs.utf_16_le_decode,
    "utf-16-be": codecs.utf_16_be_decode,
}


class DecodingError(Exception):
    """The bytes are no text that can be read: a code, what is wrong, and the text before it."""

    def __init__(self, code: FileErrorCode, message: str, text: str = "", value: str | None = None):
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.text = text
        self.value = value


class Decoder:
    """Decodes a file piece by piece.

    A byte-order mark decides. Without one the file is UTF-8 until the first byte that is not: if all
    before it was ASCII the file is Windows-1252. `feed` and `close` raise `DecodingError`, once.
    """

    def __init__(self) -> None:
        self._held = b""
        self._encoding: str | None = None
        self._marked = False
        self._ascii = True

    def feed(self, data: bytes) -> str:
        """Give the text of what has come, as far as it is whole."""
        return self._decode(self._held + data if self._held else data, final=False)

    def close(self) -> str:
        """Give the text that is left."""
        return self._decode(self._held, final=True)

    def _decode(self, data: bytes, *, final: bool) -> str:
        if self._encoding is None:
            if len(data) < _SNIFFED and not final:
                self._held = data
                return ""
            data = self._begin(data)
        if self._encoding == "cp1252":
            return self._windows(data)
        try:
            text, used = _DECODERS[self._encoding or "utf-8"](data, "strict", final)
        except UnicodeDecodeError as error:
            return self._not_decoded(data, error)
        self._held = data[used:]
        self._ascii = self._ascii and text.isascii()
        return text

    def _begin(self, data: bytes) -> bytes:
        """Look at how the file begins, and give what follows the byte-order mark."""
        start = data[:_SNIFFED].lower()
        for magic, kind in _MAGIC:
            if start.lstrip(b" \t\r\n").startswith(magic):
                raise DecodingError(
                    FileErrorCode.NOT_CSV,
                    f"The file is {kind}, not CSV. Save the table as CSV and upload that.",
                )
        for mark, encoding in _MARKS:
            if data.startswith(mark):
                self._encoding, self._marked = encoding, True
                data = data[len(mark) :]
                break
        else:
            self._encoding = "utf-8"
        if self._encoding not in _DECODERS or _looks_wide(data, marked=self._marked):
            raise DecodingError(
                FileErrorCode.BAD_ENCODING,
                "The file's encoding cannot be read. Save it as UTF-8 (CSV UTF-8).",
            )
        return data

    def _not_decoded(self, data: bytes, error: UnicodeDecodeError) -> str:
        text, _ = _DECODERS[self._encoding or "utf-8"](data[: error.start], "strict", True)
        if self._encoding == "utf-8" and not self._marked and self._ascii and text.isascii():
            self._encoding = "cp1252"
            return text + self._windows(data[error.start :], before=text)
        encoding = "UTF-8" if self._encoding == "utf-8" else "UTF-16"
        raise _bad_bytes(text, data[error.start : error.end], encoding)

    def _windows(self, data: bytes, before: str = "") -> str:
        self._held = b""
        try:
            return data.decode("cp1252")
        except UnicodeDecodeError as error:
            text = before + data[: error.start].decode("cp1252")
            raise _bad_bytes(text, data[error.start : error.end], "Windows-1252") from None


def _looks_wide(data: bytes, *, marked: bool) -> bool:
    """Tell UTF-16 without a mark by its ASCII characters: every other byte is zero."""
    if marked or len(data) < 4:
        return False
    zeros = [not byte for byte in data[:4]]
    return zeros in ([False, True, False, True], [True, False, True, False])


def _bad_bytes(text: str, data: bytes, encoding: str) -> DecodingError:
    value = data[:4].hex(" ").upper()
    return DecodingError(
        FileErrorCode.BAD_ENCODING,
        f"The byte {value} is not valid in {encoding}. Save the whole file as UTF-8 (CSV UTF-8).",
        text,
        value,
    )
