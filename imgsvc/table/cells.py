"""Column names of the standard table, and the URLs of a cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise

from imgsvc.table_types import ImageCell
from imgsvc.urls import WHITE_SPACE

SERIAL_NUMBER = "S. No."
PRODUCT_NAME = "Product Name"
INPUT_IMAGE_URLS = "Input Image Urls"
OUTPUT_COLUMNS = ("Output Image Urls", "Request Id", "Status", "Error")
"""Columns that the status CSV adds. In an upload they are dropped; the next status adds them again."""

DELIMITERS = (",", ";", "\t", "|")

_HTTP = ("https://", "http://")
_SEPARATORS = WHITE_SPACE + ",;|"
_TYPOGRAPHIC_QUOTES = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a"
_QUOTES = _TYPOGRAPHIC_QUOTES + "'\""

_ANY = f"[{re.escape(_SEPARATORS)}]"
_SLASHES = r"(?>\\*)/(?>\\*)/"
"""Two slashes. JSON may write them with backslashes."""
_ADDRESS = rf"[A-Za-z](?>[A-Za-z0-9+.-]*):{_SLASHES}"
_OPENING = f"(?>[{_QUOTES}]*)"
# A run is matched from its start, not once from each of its characters. Its first item is a set, so
# that the search skips other characters fast.
_RUN = (
    rf"([\\{re.escape(_SEPARATORS)}](?:(?<=\\),|(?<!\\)(?<!\\,)(?<!{_ANY}{_ANY}))(?<!{_ANY}\\,)"
    rf"(?>(?:\\,|{_ANY})*))"
)
_SEPARATOR = re.compile(rf"{_RUN}(?={_OPENING}{_ADDRESS})")
_SEPARATOR_WITHOUT_SCHEME = re.compile(rf"{_RUN}(?={_OPENING}(?:{_ADDRESS}|{_SLASHES}[^\s/\\]))")

_START = re.compile(rf"({_OPENING})(?:({_SLASHES})|{_ADDRESS})")
"""The start of a URL: the quotes before it, and its slashes if it has no scheme."""
_LEADING = re.compile(rf"(?>(?:\\,|{_ANY})*)")

_LIST_START = re.compile(r"\s*\[\s*")
_LIST_ITEM = re.compile(r""""((?>(?:[^"\\]|\\.)*))"|'((?>(?:[^'\\]|\\.)*))'|null|None""", re.DOTALL)
_LIST_COMMA = re.compile(r"\s*,\s*")
_LIST_END = re.compile(r"\s*\]\s*")
_LIST_OR_FORMULA = re.compile(r"\s*(?:\[|'?=)")
_FORMULA = re.compile(
    r"""\s*'?=\s*@?(?>(?:_xl[a-z]+\.)*)(?:IMAGE|HYPERLINK)\s*\(\s*"([^"]*)"\s*(?:[,;].*)?\)\s*""",
    re.IGNORECASE | re.DOTALL,
)

_ESCAPED_CHARACTER = re.compile(
    r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})"
)
_BACKSLASHES = re.compile(r"""(?<!\\)(?>\\+)(?=[/,'"])""")
_AMPERSAND = re.compile("&(?:amp;)+")


def is_plain_url(text: str) -> bool:
    """Return whether a cell is one URL in its usual form, of which nothing is decoded or dropped.

    This is a fast test for most cells: `split_cell` returns it between two empty texts.
    """
    return (
        text.startswith(_HTTP)
        and text[-1].isalnum()
        and text.count("://") == 1
        and "\\" not in text
        and "&amp;" not in text
    )


def split_cell(text: str, limit: int = 0) -> ImageCell:
    """Return a cell of an image column split into text, URL, text, …, text. Joined, it is the cell.

    Separators (comma, semicolon, pipe, white space, line break) before a `scheme://` separate URLs,
    also before `//` if the first URL starts with it. A cell may be a list in JSON or Python form, or a
    formula `=IMAGE("url")` or `=HYPERLINK("url"…)`. Each URL is as written: `url_text` returns the URL
    itself. A full stop after the last URL is in the last text.

    URLs are not validated: text that is neither a separator nor a URL is part of the URL before it, or
    the first URL. An empty cell, or one of separators, has no URLs. With a `limit`, return at most
    `limit` + 1 URLs.
    """
    if is_plain_url(text):
        return ("", text, "")
    if text.startswith(_HTTP) and text[-1].isalnum():
        return ("", *_SEPARATOR.split(text, limit), "")
    spans = _list_spans(text, limit)
    if spans is None:
        formula = _FORMULA.fullmatch(text)
        spans = _plain_spans(text, *(formula.span(1) if formula else (0, len(text))), limit)
    if spans:
        begin, end = spans.pop()
        spans.append((begin, begin + _length_of_last(text[begin:end])))
    cuts = [0, *(cut for span in spans for cut in span), len(text)]
    return tuple(text[start:end] for start, end in pairwise(cuts))


def url_text(written: str) -> str:
    """Return the URL of a URL as written in a cell.

    Quotes around it are dropped; `//` becomes `https://`, `&amp;` becomes `&`, and the escapes of JSON
    and of commas are decoded. Text that is not a URL is only trimmed.
    """
    text = written.strip(WHITE_SPACE)
    if text.startswith(_HTTP) and text[-1].isalnum() and "\\" not in text and "&amp;" not in text:
        return text
    start = _START.match(text)
    if start is None:
        return text
    text = _ESCAPED_CHARACTER.sub(_unescaped, text[start.end(1) :])
    text = _AMPERSAND.sub("&", _BACKSLASHES.sub("", text))
    dropped = _SEPARATORS + _TYPOGRAPHIC_QUOTES + "\\"
    text = text.rstrip(dropped)
    if '"' in start[1] and not text.endswith('"'):
        return written.strip(WHITE_SPACE)
    for quote in "'\"":
        if quote in start[1]:
            dropped += quote
    quoted, text = text, text.rstrip(dropped)
    if text != quoted:  # a full stop before the closing quote
        text = text[: _length_of_last(text)]
    return f"https:{text}" if start[2] else text


def replace_urls(
    cell: ImageCell, outputs: Sequence[str | None], *, remove_missing: bool = False
) -> str:
    """Return a cell with each output in place of its URL and of the decoration around it.

    `None` keeps the URL as written. With `remove_missing` it removes the URL and one separator beside
    it; a cell of which no URL and no text remains is empty.
    """
    urls = cell[1::2]
    shown = [n for n, output in enumerate(outputs) if output is not None or not remove_missing]
    if not urls:
        return cell[0]
    if not shown:
        text = cell[0].rstrip(_SEPARATORS + "\\")
        return "" if _LIST_OR_FORMULA.match(text) else text
    if len(shown) < len(urls):
        cell = _with_equal_quotes(cell)
    pieces = [cell[0]]
    for n in shown:
        if n != shown[0]:
            pieces.append(cell[2 * n])
        pieces.append(outputs[n] or urls[n])
    end = cell[-1]
    if outputs[-1] is not None or remove_missing:
        rest = end.lstrip(_SEPARATORS + _TYPOGRAPHIC_QUOTES + ".")
        pieces.append("".join(c for c in end[: len(end) - len(rest)] if c in _SEPARATORS))
        end = rest
    return "".join([*pieces, end])


def _with_equal_quotes(cell: ImageCell) -> ImageCell:
    """Return a list in Python form with the same quotes around all URLs, so that any can be removed.

    Python writes `'` or `"`, depending on the URL. Other cells are unchanged.
    """
    quotes = "".join(cell[::2])
    if _LIST_START.match(cell[0]) and "'" in quotes and '"' in quotes:
        return tuple(piece if n % 2 else piece.replace("'", '"') for n, piece in enumerate(cell))
    return cell


def split_urls(text: str, limit: int = 0) -> list[str]:
    """Return the URLs of a cell. With a `limit`, return at most `limit` + 1 URLs."""
    if is_plain_url(text):
        return [text]
    return [url_text(written) for written in split_cell(text, limit)[1::2]]


def join_urls(urls: Iterable[str]) -> str:
    """Return a cell of URLs that come from `split_urls`, which splits it into the same URLs again."""
    return ",".join(urls)


def _plain_spans(text: str, begin: int, end: int, limit: int) -> list[tuple[int, int]]:
    """Return the positions of the URLs in a list with separators, which is a part of a cell."""
    end = begin + len(text[begin:end].rstrip(_SEPARATORS + "\\"))
    leading = _LEADING.match(text, begin, end)
    begin = leading.end() if leading else begin
    if begin == end:
        return []
    start = _START.match(text, begin, end)
    separator = _SEPARATOR_WITHOUT_SCHEME if start and start[2] else _SEPARATOR
    matches = separator.finditer(text, begin, end)
    cuts = [begin]
    for match in islice(matches, limit or None):
        cuts += match.span()
    return list(zip(cuts[::2], [*cuts[1::2], end], strict=True))


def _list_spans(text: str, limit: int) -> list[tuple[int, int]] | None:
    """Return the positions of the URLs in a list in JSON or Python form.

    Return None if the cell is not such a list. After `limit` + 1 URLs, further items are not split.
    """
    match = _LIST_START.match(text)
    if match is None:
        return None
    spans: list[tuple[int, int]] = []
    while item := _LIST_ITEM.match(text, match.end()):
        if item.lastindex and (not limit or len(spans) <= limit):
            spans += _plain_spans(text, *item.span(item.lastindex), limit)
        match = _LIST_COMMA.match(text, item.end())
        if match is None:
            match = item
            break
    if not _LIST_END.fullmatch(text, match.end()):
        return None
    if limit:
        del spans[limit + 1 :]
    return spans


def _length_of_last(written: str) -> int:
    """Return the length of the last URL of a cell without a final full stop and closing quotes.

    A full stop after a slash is a dot segment, and part of the URL.
    """
    if not _START.match(written):
        return len(written)
    end = len(written.rstrip(_SEPARATORS + _TYPOGRAPHIC_QUOTES + "."))
    if written[:end].endswith("/"):
        end += len(written[end:]) - len(written[end:].lstrip("."))
    return end


def _unescaped(match: re.Match[str]) -> str:
    """Return the character of a JSON escape, or the escape if the character is not part of a URL.

    A quote that does not follow a letter or digit is not part of a URL.
    """
    high, low, single = match.groups()
    character = (
        chr(int(single, 16)) if single else bytes.fromhex(f"{high}{low}").decode("utf-16-be")
    )
    quote = character in _QUOTES and not match.string[match.start() - 1].isalnum()
    if quote or not (character in "&=+'" or (character > "\x7f" and character.isprintable())):
        return match[0]
    return character
