"""URLs: validation, the form that is sent, agreement with the client library, and redirects."""

from __future__ import annotations

import re

import idna
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from imgsvc.urls import (
    UrlError,
    is_loopback,
    page_origin,
    parse_url,
    redact,
    resolve_redirect,
)

# --- the form that is sent ---------------------------------------------------------------------

UNTOUCHED = [
    "/a.jpg",
    "/",
    "/a?",
    "/?",
    "/?x",
    "/a/../b/./c",
    "//a//b/",
    "/%7Euser/%2F%2f?sig=a%2Fb%27%7e'(1)&x=+%20&y=a;b",
    "/w_100,h_100/sharpen(1,0,false)/a.jpg",
    "/a??b?",
    "/!$&'()*+,;=:@-._~/a?!$&'()*+,;=:@-._~/?",
    "/a[1].jpg?x[]=1&y=a|b",
    "/%C3%A9%ff",
    "/a@b:c//d",
]


@pytest.mark.parametrize("target", UNTOUCHED)
def test_parse_url_keeps_valid_characters_unchanged(target: str) -> None:
    url = parse_url(f"https://cdn.example.com{target}")
    assert url.text == url.fetch_url == f"https://cdn.example.com{target}"
    assert parse_url(f"HTTPS://cdn.example.com{target}").fetch_url == url.fetch_url


@pytest.mark.parametrize(
    ("text", "fetch_url"),
    [
        ("http://h/my photo.jpg", "http://h/my%20photo.jpg"),
        ("http://h/ä/日.jpg?q=ü", "http://h/%C3%A4/%E6%97%A5.jpg?q=%C3%BC"),
        ("http://h/100%.jpg", "http://h/100%25.jpg"),
        ("http://h/%zz%4%41%", "http://h/%25zz%254%41%25"),
        ("http://h/%E4 ä", "http://h/%E4%20%C3%A4"),
        ('http://h/"<>\\^`{}', "http://h/%22%3C%3E%5C%5E%60%7B%7D"),
        ("http://h/a#top", "http://h/a"),
        ("http://h/a?b#c?d", "http://h/a?b"),
        ("http://h#x", "http://h/"),
        ("http://h", "http://h/"),
        ("http://h?q", "http://h/?q"),
        ("http://h/\U0001f600", "http://h/%F0%9F%98%80"),
        ("http://h/a\u00a0b", "http://h/a%C2%A0b"),
    ],
)
def test_parse_url_percent_encodes_characters_that_cannot_be_sent(
    text: str, fetch_url: str
) -> None:
    url = parse_url(text)
    assert (url.text, url.fetch_url) == (text, fetch_url)


@pytest.mark.parametrize("blank", [" ", "\t", "\r\n", "\u00a0", "\u3000", "\u200b", "\ufeff"])
def test_parse_url_trims_white_space(blank: str) -> None:
    assert parse_url(f"{blank}http://h/a{blank}").text == "http://h/a"


@pytest.mark.parametrize(
    ("text", "fetch_url", "host_url"),
    [
        ("HTTPS://Example.COM/A", "https://example.com/A", "https://example.com:443"),
        ("http://h:80/a", "http://h/a", "http://h:80"),
        ("https://h:443/a", "https://h/a", "https://h:443"),
        ("https://h:80/a", "https://h:80/a", "https://h:80"),
        ("http://h:08080/a", "http://h:8080/a", "http://h:8080"),
        ("http://h:/a", "http://h/a", "http://h:80"),
        ("http://a_b.-c-.d.:1/", "http://a_b.-c-.d.:1/", "http://a_b.-c-.d.:1"),
        ("http://127.0.0.1:65535/", "http://127.0.0.1:65535/", "http://127.0.0.1:65535"),
        ("http://[::1]/a", "http://[::1]/a", "http://[::1]:80"),
        ("http://[0:0:0:0:0:0:0:A]:8/a", "http://[::a]:8/a", "http://[::a]:8"),
        ("http://Bücher.de/ä", "http://xn--bcher-kva.de/%C3%A4", "http://xn--bcher-kva.de:80"),
        ("http://faß.de/", "http://xn--fa-hia.de/", "http://xn--fa-hia.de:80"),
        ("http://日本語。jp/", "http://xn--wgv71a119e.jp/", "http://xn--wgv71a119e.jp:80"),
        ("http://ü_x.a_b.de/", None, None),
        ("http://ü.a_b.de/", "http://xn--tda.a_b.de/", "http://xn--tda.a_b.de:80"),
        ("http://①②⑦.0.0.1/", "http://127.0.0.1/", "http://127.0.0.1:80"),
        ("http://2130706433/", "http://2130706433/", "http://2130706433:80"),
    ],
)
def test_parse_url_normalises_hosts_and_ports(
    text: str, fetch_url: str | None, host_url: str | None
) -> None:
    if fetch_url is None:
        with pytest.raises(UrlError):
            parse_url(text)
        return
    url = parse_url(text)
    assert (url.text, url.fetch_url, url.host_url) == (text, fetch_url, host_url)


# --- invalid URLs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_url"),
        ("photo.jpg", "invalid_url"),
        ("www.example.com/a.jpg", "invalid_url"),
        ("//example.com/a.jpg", "invalid_url"),
        ("example.com:8080/a.jpg", "invalid_url"),
        ("localhost:8080/a.jpg", "invalid_url"),
        ("C:\\a.jpg", "invalid_url"),
        ("http:/h/a", "invalid_url"),
        ("https:h/a", "invalid_url"),
        ("http://", "invalid_url"),
        ("http:///a", "invalid_url"),
        ("http://:80/a", "invalid_url"),
        ("http://?a", "invalid_url"),
        ("http://h:0/", "invalid_url"),
        ("http://h:65536/", "invalid_url"),
        ("http://h:99999999999999/", "invalid_url"),
        ("http://h:8o/", "invalid_url"),
        ("http://h:٣/", "invalid_url"),
        ("http://h:1:2/", "invalid_url"),
        ("http://user@h/", "invalid_url"),
        ("http://user:pass@h/", "invalid_url"),
        ("http://@h/", "invalid_url"),
        ("http://a\\@b/", "invalid_url"),
        ("http://a\\b/", "invalid_url"),
        ("http://a b/", "invalid_url"),
        ("http://a%62/", "invalid_url"),
        ("http://a..b/", "invalid_url"),
        ("http://.a/", "invalid_url"),
        ("http://./", "invalid_url"),
        (f"http://{'a' * 64}.de/", "invalid_url"),
        (f"http://{'a.' * 128}/", "invalid_url"),
        (f"http://{'ä' * 8000}/", "invalid_url"),
        ("http://\u00ad/", "invalid_url"),
        ("http://a\u2044b/", "invalid_url"),
        ("http://[::1/", "invalid_url"),
        ("http://::1/", "invalid_url"),
        ("http://[]/", "invalid_url"),
        ("http://[1.2.3.4]/", "invalid_url"),
        ("http://[fe80::1%25eth0]/", "invalid_url"),
        ("http://[fe80::1%eth0]/", "invalid_url"),
        ("http://[v1.a]/", "invalid_url"),
        ("http://[::1]a/", "invalid_url"),
        ("http://h/a\nb", "invalid_url"),
        ("http://h/a\tb", "invalid_url"),
        ("http://h\r\nX: y/", "invalid_url"),
        ('"http://h/a"', "invalid_url"),
        ("http://h/\ud800", "invalid_url"),
        ("ftp://h/a", "unsupported_scheme"),
        ("FILE:///etc/passwd", "unsupported_scheme"),
        ("s3://bucket/key", "unsupported_scheme"),
        ("data:image/png;base64,AAAA", "unsupported_scheme"),
        ("javascript:alert(1)", "unsupported_scheme"),
        ("http://h/a\x00b", "control_character"),
        ("http://h/a\x7f", "control_character"),
        ("http://h/a\x85b", "control_character"),
        (f"http://h/{'a' * 8184}", "too_long"),
        (f"http://h/{'ä' * 9_000_000}", "too_long"),
    ],
)
def test_parse_url_rejects_invalid_urls_with_a_code(text: str, code: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse_url(text)
    assert caught.value.code == code
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("start", ["", "a"])
def test_parse_url_accepts_all_international_labels_that_can_be_encoded(start: str) -> None:
    """The check of a label's length must not reject labels that can be encoded."""
    encodable_lengths = [n for n in range(80) if is_encodable(start + n * "ä")]
    assert max(encodable_lengths) > 50
    for n in range(1, 80):
        if n in encodable_lengths:
            assert parse_url(f"http://{start}{n * 'ä'}.de").text
        else:
            with pytest.raises(UrlError, match="not a valid international name"):
                parse_url(f"http://{start}{n * 'ä'}.de")


def is_encodable(label: str) -> bool:
    try:
        return bool(idna.alabel(label))
    except idna.IDNAError:
        return False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://user:pass@h/", "contains a user name or password"),
        ("www.shop.example/0.jpg", "needs https:// in front, e.g. https://www.shop.example/0.jpg"),
        ("shop.example:8080/0.jpg", "needs https:// in front"),
        ("0.jpg", "must be a complete web address, e.g. https://www.shop.example/0.jpg"),
        ("//shop.example/0.jpg", "must be a complete web address"),
        ("https:/shop.example/0.jpg", "needs two slashes after https:"),
        ("ftp://shop.example/0.jpg", "must start with http:// or https://, not ftp:"),
        ("https://a/1.jpg, www.shop.example/2.jpg", "looks like two addresses; the second lacks"),
        ("https://a/1.jpg\nshop.example:80/2.jpg", "looks like two addresses"),
        ("https://a/1.jpg //bücher.example/2.jpg", "looks like two addresses"),
        ("https://a/1.jpg;\u00a0\u201cxn--a.xn--p1ai/2.jpg", "looks like two addresses"),
    ],
)
def test_url_error_message_says_what_to_do(text: str, message: str) -> None:
    with pytest.raises(UrlError, match=f"^{re.escape(message)}"):
        parse_url(text)


@pytest.mark.parametrize(
    "path",
    [
        "my photo, the best.jpg",
        "my photo.jpg/w_100/x",
        "version 1.2/a.jpg",
        "a photos/b.jpg",
        "a/b.example/c d.jpg",
        "a www.shop.example",
        "a .example/b",
    ],
)
def test_parse_url_accepts_white_space_that_no_second_address_follows(path: str) -> None:
    assert parse_url(f"https://cdn.example/{path}").text.endswith(path)
    location = resolve_redirect("https://cdn.example/", f"/{path} www.shop.example/b.jpg")
    assert location.fetch_url.endswith("%20www.shop.example/b.jpg")


def test_parse_url_accepts_a_url_of_the_maximum_length() -> None:
    longest = f"http://h/{'ä' * 8183}"
    assert len(parse_url(f" {longest} ").text) == 8192


# --- agreement with the client library -------------------------------------------------------------

URLISH = st.text(
    st.one_of(
        st.sampled_from("/?#@:\\[]%.,;-_ ab0１。ßü\t\n\x00\u200b|^`{}<>\"'"),
        st.characters(codec="utf-8"),
    ),
    max_size=40,
)


@given(st.sampled_from(["http://", "https://", "HTTP://h", "http://[::1]", ""]), URLISH)
@example("http://", "a\\@b/")
@example("http://", "xn--0/")
@example("http://", "xn--a-ecp.ru/")
@example("http://", "h//../a?#")
@example("http://h", "?")
def test_client_library_parses_urls_like_parse_url(start: str, rest: str) -> None:
    try:
        url = parse_url(start + rest)
    except UrlError:
        return
    assert url.fetch_url.isascii()
    assert url.fetch_url.isprintable()
    assert " " not in url.fetch_url
    host, parsed = URL(url.host_url, encoded=True), URL(url.fetch_url, encoded=True)
    assert (parsed.scheme, parsed.raw_host, parsed.port) == (host.scheme, host.raw_host, host.port)
    assert (parsed.raw_user, parsed.raw_password, parsed.raw_fragment) == (None, None, "")
    target = url.fetch_url.split("/", 3)[3]
    assert parsed.raw_path_qs == f"/{target}" or target.endswith("?")
    reparsed = parse_url(url.fetch_url)
    assert (reparsed.fetch_url, reparsed.host_url) == (url.fetch_url, url.host_url)


# --- redirects -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "fetch_url"),
    [
        ("https://b/x", "https://b/x"),
        ("HTTPS://B:443/%7e/../x?", "https://b/%7e/../x?"),
        ("//b/x", "http://b/x"),
        ("/x/../%2F//y?a%7Eb", "http://h:81/x/../%2F//y?a%7Eb"),
        ("/x?", "http://h:81/x?"),
        ("x", "http://h:81/p/q/x"),
        ("./x", "http://h:81/p/q/x"),
        ("../x?y=../z", "http://h:81/p/x?y=../z"),
        ("../../../x", "http://h:81/x"),
        ("..", "http://h:81/p/"),
        (".", "http://h:81/p/q/"),
        ("?new", "http://h:81/p/q/r.jpg?new"),
        ("?", "http://h:81/p/q/r.jpg?"),
        ("#frag", "http://h:81/p/q/r.jpg?old"),
        ("/x#frag", "http://h:81/x"),
        (" /x y ", "http://h:81/x%20y"),
        ("/é", "http://h:81/%C3%A9"),
        ("/\udce9\udcff", "http://h:81/%E9%FF"),
        ("x/http://b", "http://h:81/p/q/x/http://b"),
        ("http://bücher.de/", "http://xn--bcher-kva.de/"),
    ],
)
def test_resolve_redirect_resolves_locations(location: str, fetch_url: str) -> None:
    assert resolve_redirect("http://h:81/p/q/r.jpg?old", location).fetch_url == fetch_url


def test_resolve_redirect_resolves_against_a_url_without_a_path() -> None:
    assert resolve_redirect("http://h/", "x").fetch_url == "http://h/x"
    assert resolve_redirect("http://h/?q", "../x").fetch_url == "http://h/x"


@pytest.mark.parametrize(
    "location",
    [
        "ftp://b/",
        "data:x",
        "http://",
        "http:x",
        "http://u@b/",
        "//u:p@b/",
        "/a\x00",
        "/" + "a" * 8192,
    ],
)
def test_resolve_redirect_rejects_invalid_locations(location: str) -> None:
    with pytest.raises(UrlError):
        resolve_redirect("http://h/", location)


@given(st.text(st.characters(), max_size=30))
def test_resolve_redirect_returns_a_url_or_raises_for_any_location(location: str) -> None:
    try:
        url = resolve_redirect("http://h:81/p/q/r.jpg?old", location)
    except UrlError:
        return
    assert URL(url.fetch_url, encoded=True).raw_host == URL(url.host_url, encoded=True).raw_host
    assert url.fetch_url.isascii()


# --- origins and logs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://h.example/a/b?c", "https://h.example"),
        ("HTTPS://H.example:443", "https://h.example"),
        ("http://h.example:443/", "http://h.example:443"),
        ("http://[::0:1]:80", "http://[::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_page_origin_is_written_as_browsers_do(url: str, origin: str) -> None:
    assert page_origin(url) == origin


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://user:pass@h:1/a/b?sig=secret#x", "https://h:1/a/b"),
        ("https://h/a@b", "https://h/a@b"),
        ("https://h?u:p@x", "https://h"),
        ("user:pass@h", "h"),
        ("", ""),
    ],
)
def test_redact_removes_credentials_query_and_fragment(url: str, redacted: str) -> None:
    assert redact(url) == redacted


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("mylocalhost", False),
        ("localhost.example", False),
    ],
)
def test_is_loopback_knows_addresses_and_names(name: str, expected: bool) -> None:
    assert is_loopback(name) is expected
