"""Encodings of uploaded tables: detected, set by an option, or refused with likely ones."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.table.decoding import Decoder, DecodingError, check_encoding

ROW = "Mug,https://cdn.example/a/1.jpg\r\n"


def decode(data: bytes, option: str | None = None, size: int = 7) -> tuple[str, str]:
    """Return the text and its codec. Decode in pieces of `size` bytes."""
    decoder = Decoder(option)
    text = "".join(decoder.feed(data[at : at + size]) for at in range(0, len(data), size))
    return text + decoder.close(), decoder.encoding


def refusal(data: bytes, option: str | None = None, size: int = 7) -> tuple[str, DecodingError]:
    """Return the text before the invalid bytes, and their error."""
    decoder = Decoder(option)
    text = ""
    try:
        for at in range(0, len(data), size):
            text += decoder.feed(data[at : at + size])
        text += decoder.close()
    except DecodingError as error:
        return text + error.text, error
    pytest.fail(f"{text!r} is read as {decoder.encoding}")


WESTERN_NAMES = [
    *("Théâtre d’été", "Œuvre créée à Noël", "L’île aux cœurs", "Garçon naïf", "L’Haÿ-les-Roses"),
    *("Größe: 12 × 30 cm", "Übergrößen für Füße", "„Äpfel“ – süß", "Weißer Käse", "STRASSE ÖL ÄÖ"),
    *("Señor Ñandú", "¿Qué? ¡Olé!", "1ª fila, 2º piso", "Pingüino", "Corazón de melón"),
    *("Pão de açúcar", "Avô e avó", "Maçãs à mão", "ÓCULOS DE AÇÃO", "Nº 5"),
    *("Rødgrød med fløde", "Æbleskiver på Ærø", "Blåbærsyltetøy", "Smörgåsbord på Öland"),
    *("Hyvää yötä", "Älä työnnä", "Tyttö ja pöytä", "Città e perché", "È già più buono"),
    *("Zoë’s café", "Coördinatie één", "Eénentwintig reünies", "Rúm og dúkur"),
    *("Preis 5 €", "£3 Mug", "Mug™ ®", "20 °C • ½ Liter", "m² und m³", "«Le vin»", "Acme©", "etc…"),
    *("5 – 10", "Schwarz – weiß", "—", "‘quoted’ ‹word›", "ÿ"),
]


@pytest.mark.parametrize("name", WESTERN_NAMES)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_names_of_western_europe_are_read_as_windows_1252(name: str, size: int) -> None:
    text = f"{ROW}{name},x\r\n{name}"
    assert decode(text.encode("cp1252"), size=size) == (text, "cp1252")


@pytest.mark.parametrize(
    "name",
    [
        *("ðe", "Þe", "ý", "Ž", "š", "ƒ", "µ", "5\xa0€", "·", "a´", "¢", "¶"),
        *("äöü", "aÄÖÜ", "ÿéè", "ßßß", "éœé"),
        *("a–b", "ä—b", "a•b", "a©b", "a½l", "a«b", "“a”b", "a€ä", "x…y", "a×b", "a‘b"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_implausible_windows_1252_is_refused_after_the_text_before_it(name: str, size: int) -> None:
    before = f"{ROW * 50}Tür,x\r\n"
    for after in "", ROW * 300:
        text, error = refusal((before + name + after).encode("cp1252"), size=size)
        assert text.startswith(before)
        assert len(text) <= len(before) + 3
        assert "encoding=" in error.message


def test_bytes_without_a_windows_1252_character_are_refused() -> None:
    for byte in b"\x81\x8d\x8f\x90\x9d":
        text, error = refusal(b"T\xfcr," + bytes([byte]))
        assert (text, error.value) == ("Tür,", f"{byte:02X}")


SAMPLES = [
    ("cp1251", "Кружка"),
    ("cp1251", "Стул деревянный, белый"),
    ("cp1251", "ТАРЕЛКА"),
    ("cp1251", "чай"),
    ("cp1253", "Κούπα"),
    ("cp1253", "ΦΛΙΤΖΑΝΙ"),
    ("cp1253", "Καρέκλα ξύλινη"),
    ("gbk", "马克杯"),
    ("gbk", "不锈钢保温杯"),
    ("gbk", "椅子"),
    ("gb18030", "红色杯子㐂"),
    ("shift_jis", "マグカップ"),
    ("shift_jis", "陶器の皿"),
    ("shift_jis", "赤い靴"),
    ("cp932", "カップ①"),
    ("euc_jp", "マグカップ"),
    ("big5", "馬克杯"),
    ("euc_kr", "머그컵"),
    ("mac_roman", "Théâtre"),
    ("mac_roman", "Größe"),
    ("cp1250", "Žluťoučký kůň"),
    ("cp1250", "Krzesło dębowe"),
    ("cp1254", "Kırmızı kupa"),
    ("cp1255", "כיסא אדום"),
    ("cp1256", "كرسي احمر"),
    ("cp874", "เก้าอี้"),
    ("koi8_r", "Кружка"),
    ("cp866", "Кружка"),
    ("cp850", "Größe"),
    ("cp1252", "Sveinn Guðmundsson"),
]


@pytest.mark.parametrize(("encoding", "name"), SAMPLES)
def test_other_encodings_are_refused_with_likely_codecs(encoding: str, name: str) -> None:
    table = f"Name,Images\r\n{ROW}{name},https://cdn.example/a/1.jpg\r\n{ROW}"
    messages = set()
    for size in 1, 7, 10_000:
        text, error = refusal(table.encode(encoding), size=size)
        assert text.startswith(f"Name,Images\r\n{ROW}")
        messages.add(error.message)
    assert len(messages) == 1
    assert f"encoding={encoding} ({name.partition(',')[0]})" in messages.pop()
    assert decode(table.encode(encoding), check_encoding(encoding)) == (
        table,
        check_encoding(encoding),
    )


def test_option_does_not_apply_to_unicode() -> None:
    text = f"{ROW}Größe,Кружка"
    for encoding in "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be":
        assert decode(text.encode(encoding), "cp1251")[0] == text
    assert decode(ROW.encode(), "shift_jis") == (ROW, "utf-8")


def test_option_applies_to_text_that_is_utf_8_by_chance_at_first() -> None:
    text = f"{ROW}Рќ,{ROW}Кружка,"
    data = text.encode("cp1251")
    assert (
        data[len(ROW) :].startswith("Ѓ".encode("cp1251")) or data[len(ROW) : len(ROW) + 2].decode()
    )
    assert decode(data, "cp1251") == (text, "cp1251")


def test_invalid_bytes_are_refused_with_the_set_encoding() -> None:
    text, error = refusal("Тест,".encode("cp1251") + b"\x98", "cp1251")
    assert (text, error.value) == ("Тест,", "98")
    assert error.message.startswith("The byte 98 is not valid in cp1251.")
    text, error = refusal("赤い".encode("shift_jis") + b"\x85", "shift_jis", 1)
    assert (text, error.value) == ("赤い", "85")
    assert refusal(b"Gr\xf6\xdfe", "utf-8")[0] == "Gr"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_decoder_has_codec_and_mark(encoding: str) -> None:
    decoder = Decoder()
    decoder.feed(ROW.encode(encoding))
    assert decoder.has_mark == (encoding in {"utf-16", "utf-8-sig"})
    assert decoder.encoding == {"utf-16": "utf-16-le", "utf-8-sig": "utf-8"}.get(encoding, encoding)


@pytest.mark.parametrize("end", ["\0", "\x1a", "\x1a\0\0", "\x1a\r\n", "\0" * 4000])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16-le"])
def test_final_nul_and_control_z_are_dropped(end: str, encoding: str) -> None:
    text = f"{ROW}Größe,x\r\n"
    assert decode((text + end).encode(encoding))[0] == text
    assert decode((text + end + "y").encode(encoding))[0] == text + end + "y"


def test_text_of_only_nul_and_too_many_final_ones_are_kept() -> None:
    assert decode(b"\0")[0] == "\0"
    for size in 1000, 10_000:
        assert decode(ROW.encode() + bytes(5000), size=size)[0] == ROW + "\0" * 5000


@pytest.mark.parametrize(
    "start",
    ["<table><tr>", "\r\n <HTML xmlns:x='y'>", "<!DOCTYPE html>", "<meta charset=x>", "<!-- x -->"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_web_page_is_not_csv(start: str, encoding: str) -> None:
    with pytest.raises(DecodingError, match="The file is a web page, not CSV"):
        decode(f"{start}<td>Product Name</td>".encode(encoding))


def test_header_that_begins_with_less_than_is_text() -> None:
    assert decode(b"<product>,x\r\n" * 2)[0] == "<product>,x\r\n" * 2


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        *(("CP1251", "cp1251"), ("windows-1251", "cp1251"), ("Shift_JIS", "shift_jis")),
        *(("gb2312", "gb2312"), ("utf8", "utf-8"), ("utf-8-sig", "utf-8"), ("ascii", "ascii")),
        *(("latin-1", "iso8859-1"), ("mac_roman", "mac-roman"), ("koi8-r", "koi8-r")),
    ],
)
def test_check_encoding_returns_the_name_of_the_codec(name: str, canonical: str) -> None:
    assert check_encoding(name) == canonical
    assert check_encoding(canonical) == canonical


@pytest.mark.parametrize(
    "name",
    [
        *("utf-16", "utf-32", "utf-7", "cp037", "iso2022_jp", "hz", "punycode", "idna"),
        *("unicode_escape", "raw_unicode_escape", "undefined", "rot13", "hex", "base64", "zip"),
        *("", "no-such", "cp1251\0", "../x", "os.path", "x" * 10_000, "ü", "shift_jis_2004"),
    ],
)
def test_check_encoding_refuses_other_names_with_a_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"^T.*text encoding \".*\.$") as raised:
        check_encoding(name)
    assert type(raised.value) is ValueError
    assert len(str(raised.value)) < 250


@given(
    st.lists(
        st.sampled_from(
            [b"abc,", b"\r\n", b"\xe9", b"\x96", b"\xc3\xa9", b"\x83\x7d", b"\0", b"\x1a"]
        )
        | st.binary(max_size=3),
        max_size=20,
    ).map(b"".join),
    st.sampled_from([None, "cp1251", "shift_jis", "gb18030", "utf-8"]),
)
def test_result_does_not_depend_on_pieces(data: bytes, option: str | None) -> None:
    results = set()
    for size in 1, 3, 100:
        decoder = Decoder(option)
        text, error = "", None
        try:
            for at in range(0, len(data), size):
                text += decoder.feed(data[at : at + size])
            text += decoder.close()
        except DecodingError as raised:
            text, error = text + raised.text, (raised.message, raised.value)
            # The text may end with characters that only later ones make implausible.
            text = text.rstrip("".join({c for c in text[-2:] if not c.isascii()}))
        results.add((text, error, decoder.encoding))
    assert len(results) == 1


@given(st.text(st.characters(exclude_characters="\0\x1a", codec="utf-8")))
def test_utf_8_is_decoded_value_for_value(text: str) -> None:
    text = f"x{text}."
    expected = text.encode().removeprefix(codecs.BOM_UTF8).decode()
    assert decode(text.encode())[0] == decode(text.encode(), "cp1251")[0] == expected
