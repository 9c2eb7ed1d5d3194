"""The likely encodings of text that is neither UTF-8 nor Windows-1252."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MAX_LIKELY = 5
"""Maximum number of encodings to suggest."""
_MIN_SCORE = 0.55
"""Lowest score of a likely encoding. Random letters of an alphabet have about 0.6."""
_MAX_EXAMPLE_LENGTH = 24

# Letters in lower case, the frequent ones before the bar.
_CYRILLIC = "оеаинтсрвлкмдпуыяьбзчг|йхжшюцщэфъёіїєґў"
_GREEK = "αοιετσνηυρπκμλςωάίόέήύώ|δγχθφβξζψϊϋΐΰ"
_WESTERN = "éèàäöüßñçóáíêåøæã|úôâëïîìòùûõœýðþšžÿ"
_CENTRAL_EUROPEAN = "áéíóěřčšžýůąęłśżőüö|úćńźďňťűäôľđßâăîşţ"
_TURKISH = "ıişğüçö|âîû"
_BALTIC = "āšėžąčēūųįīõäöü|ģķļņęźżńśłó"
_HEBREW = "יוהלאתרמבשנ|חדקםפטעסכצזגןךףץ"
_ARABIC = "المينرتبوةسدعفحقكه|شجصطخضذزثظغءأإآئؤىپچژگ"
_THAI = "นรากอเงมยลวดทสตะปบคหแจพช่้ั็ีิืุูำไใโ|ซฟผถขธณพศญภฮฉฆฐษฌฎฏฑฒฬ์ๅๆฯฃฅฤฦึ"

_ALPHABETS: tuple[tuple[str, str], ...] = (
    ("cp1252", _WESTERN),
    ("mac_roman", _WESTERN),
    ("cp1251", _CYRILLIC),
    ("cp1253", _GREEK),
    ("cp1250", _CENTRAL_EUROPEAN),
    ("cp1254", _TURKISH),
    ("cp1257", _BALTIC),
    ("cp1255", _HEBREW),
    ("cp1256", _ARABIC),
    ("cp874", _THAI),
    ("koi8_r", _CYRILLIC),
    ("cp866", _CYRILLIC),
    ("cp850", _WESTERN),
    ("cp852", _CENTRAL_EUROPEAN),
)
_LATIN = {_WESTERN, _CENTRAL_EUROPEAN, _TURKISH, _BALTIC}

_KANA_AND_KANJI = (*range(0x82, 0x84), *range(0x88, 0x99))
_IDEOGRAPHIC: tuple[tuple[tuple[str, ...], frozenset[int]], ...] = (
    (("gbk", "gb18030"), frozenset(range(0xB0, 0xD8))),
    (("shift_jis", "cp932"), frozenset(_KANA_AND_KANJI)),
    (("big5", "cp950"), frozenset(range(0xA4, 0xC7))),
    (("euc_jp",), frozenset((0xA4, 0xA5, *range(0xB0, 0xD0)))),
    (("euc_kr", "cp949"), frozenset(range(0xB0, 0xC9))),
)
"""Codecs, the first of which that decodes the text is suggested, and the first bytes of the usual
characters: these standards have the rare ones in a part of their own."""

_WORD = re.compile(r"[^\x00-\x7f]+")
_FIRST_CELL = re.compile(r'[^,;|"\t\r\n]*[^\x00-\x7f,;|"\t\r\n][^,;|"\t\r\n]*')
_LETTER = re.compile(r"[A-Za-z]")


def likely_encodings(data: bytes) -> list[tuple[str, str]]:
    """Return the likely codecs of text, and its first non-ASCII cell in each, the likeliest first.

    If none is likely, return Windows-1252, unless bytes of the text are not in it.
    The text must begin with a whole character. An incomplete one at its end is ignored.
    """
    scores: list[tuple[float, str, str]] = []
    for codec, alphabet in _ALPHABETS:
        if text := _decoded(data, codec):
            scores.append((_alphabet_score(text, alphabet), codec, text))
    for codecs, usual in _IDEOGRAPHIC:
        for codec in codecs:
            if text := _decoded(data, codec):
                scores.append((_ideographic_score(text, codec, usual), codec, text))
                break
    scores.sort(key=lambda item: -item[0])  # stable: of equal ones the first of the tables
    likely = [item for item in scores if item[0] >= _MIN_SCORE][:MAX_LIKELY]
    if not likely:
        likely = [item for item in scores if item[1] == "cp1252"]
    return [(codec, _example(text)) for _, codec, text in likely]


def _decoded(data: bytes, codec: str) -> str | None:
    """Return data as text, or None if it is not in this encoding."""
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        if error.start < max(1, len(data) - 3):
            return None
        return data[: error.start].decode(codec)


def _example(text: str) -> str:
    match = _FIRST_CELL.search(text)
    found = "".join(c for c in match[0] if c.isprintable()).strip() if match else ""
    return found if len(found) <= _MAX_EXAMPLE_LENGTH else f"{found[: _MAX_EXAMPLE_LENGTH - 1]}…"


def _words(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each run of non-ASCII characters, and whether it touches an ASCII letter."""
    for match in _WORD.finditer(text):
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        yield match[0], bool(_LETTER.match(before) or _LETTER.match(after))


_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    alphabet: {
        **dict.fromkeys(alphabet.partition("|")[0], 1.0),
        **dict.fromkeys(alphabet.partition("|")[2], 0.6),
    }
    for _, alphabet in _ALPHABETS
}
_NEUTRAL = set("\xa0‘’‚“”„‹›«»–—…•°©®™€£×½¼¾²³§№¡¿ªº·±´")
"""Characters of text in any alphabet."""


def _alphabet_score(text: str, alphabet: str) -> float:
    """Return the mean weight of the non-ASCII letters, from -1 to 1.

    Latin words mix with ASCII letters and have few others in a row; words of another alphabet do not
    mix. No word has a capital after a small letter.
    """
    weights, latin = _WEIGHTS[alphabet], alphabet in _LATIN
    total, count = 0.0, 0
    for word, touches_ascii in _words(text):
        previous, run = "", 0
        for character in word:
            if character in _NEUTRAL:
                run = 0
                previous = character
                continue
            run += 1
            weight = weights.get(character.lower(), -1.0)
            mixed_case = previous.islower() and character.isupper()
            if mixed_case or (run > 2 if latin else touches_ascii):
                weight = -1.0
            total += weight
            count += 1
            previous = character
    return total / count if count else _MIN_SCORE


def _ideographic_score(text: str, codec: str, usual: frozenset[int]) -> float:
    """Return the share of usual characters. A single one beside a Latin letter counts as unusual."""
    good = count = 0
    for word, touches_ascii in _words(text):
        for character in word:
            if character.isalnum():
                count += 1
                lead = character.encode(codec)[0]
                good += lead in usual and not (touches_ascii and len(word) == 1)
    return good / count if count else 0.0
