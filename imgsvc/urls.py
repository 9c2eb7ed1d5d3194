"""URLs: judged by their form, and put on the wire exactly as they were given.

What is valid in a path or query goes out untouched: `%2F`, an empty `?`, dot segments and `//` stay,
because a signed URL breaks when anything is written differently. Only what no HTTP request can carry
is percent-encoded: blanks, what is not ASCII, a `%` that encodes nothing, and ``"<>\\^`{}``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

import idna

from imgsvc.errors import FileErrorCode
from imgsvc.models import ImageUrl

MAX_URL_LENGTH = 8_192
"""Characters of a URL as it was given."""

BLANKS = "\t\r\n \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\u200b\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""What is trimmed from a URL, and separates URLs: white space, as far as it is no control character,
and the invisible characters that come with a paste."""

_MAX_HOST_LENGTH = 253
_MAX_INTERNATIONAL_LABEL_LENGTH = 63 - len("xn--")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*+):(//)?")
_PARTS = re.compile(r"([^/?#]*+)([^#]*+)", re.DOTALL)
_NAME = re.compile(r"[a-z0-9_-]{1,63}+(?>(?:\.[a-z0-9_-]{1,63}+)*)\.?")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:\[\]]*)(?::([0-9]{0,9}))?")

# RFC 3986 asks for [, ] and | to be encoded as well; browsers send them as they are, and so must we.
_SENDABLE = r"[!$&-;=?-\[\]_a-z|~]"
_TARGET = re.compile(rf"/{_SENDABLE}*+(?>(?:%[0-9A-Fa-f]{{2}}{_SENDABLE}*+)*)")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_AS_SENT = tuple(
    chr(byte) if re.match(f"%|{_SENDABLE}", chr(byte)) else f"%{byte:02X}" for byte in range(256)
)


class UrlError(ValueError):
    """Text that is no URL to be fetched: a code, and a clause that says why and what to do."""

    def __init__(self, code: FileErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


def parse_url(text: str) -> ImageUrl:
    """Judge a URL as a user gave it, and put it into the form that goes on the wire.

    Raises `UrlError` INVALID_URL, UNSUPPORTED_SCHEME, TOO_LONG or CONTROL_CHARACTER.
    """
    given = text.strip(BLANKS)
    slash = given.find("/", 8)
    if 8 < slash < 300 and len(given) <= MAX_URL_LENGTH and _TARGET.fullmatch(given, slash):
        host_url = _host_url_as_given(given[:slash])
        if host_url is not None:
            return ImageUrl(given, given, host_url)
    if len(given) > MAX_URL_LENGTH:
        raise _too_long()
    if _SURROGATE.search(given):
        raise UrlError(FileErrorCode.INVALID_URL, "it has characters that are not Unicode text")
    return _parse(given)


def resolve_redirect(base_fetched: str, location: str) -> ImageUrl:
    """Follow a redirect's `Location` as exactly as a given URL is fetched.

    `base_fetched` is the URL that was fetched. Bytes of `location` that are not UTF-8 come as
    surrogate escapes and go out as they came. A relative path is merged with the base's as RFC 3986
    has it; all else stays as it is. Raises `UrlError`, as `parse_url` does.
    """
    location = location.strip(BLANKS)
    if len(location) > MAX_URL_LENGTH:
        raise _too_long()
    scheme = _SCHEME.match(location)
    if scheme is None:
        location = _absolute(base_fetched, location)
    url = _parse(location)
    return ImageUrl(url.fetched, url.fetched, url.host_url)


def page_origin(url: str) -> str:
    """Give the origin of a page at a URL, as browsers write it: no port that is the scheme's own.

    Raises `UrlError`.
    """
    scheme, _, rest = parse_url(url).fetched.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def redact(url: str) -> str:
    """Give a URL, or any text, as a log may show it: without user name, password, query, fragment."""
    shown = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, mark, rest = shown.partition("://")
    if not mark:
        return shown.rpartition("@")[2]
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _parse(given: str) -> ImageUrl:
    _check_characters(given)
    scheme, rest = _split_scheme(given)
    parts = _PARTS.match(rest)
    authority, target = parts.groups() if parts else (rest, "")
    host, port = _host_and_port(authority)
    if not target.startswith("/"):
        target = f"/{target}"
    shown_port = "" if port in {None, _DEFAULT_PORTS[scheme]} else f":{port}"
    fetched = f"{scheme}://{host}{shown_port}{_as_sent(target)}"
    return ImageUrl(given, fetched, f"{scheme}://{host}:{port or _DEFAULT_PORTS[scheme]}")


@lru_cache(maxsize=1024)
def _host_url_as_given(base: str) -> str | None:
    """Give the origin of a URL's `scheme://authority`, or None where that must be written anew."""
    try:
        url = _parse(base)
    except UrlError:
        return None
    return url.host_url if url.fetched == f"{base}/" else None


def _too_long() -> UrlError:
    return UrlError(
        FileErrorCode.TOO_LONG,
        f"it is longer than {MAX_URL_LENGTH:,} characters; use a shorter URL",
    )


def _check_characters(given: str) -> None:
    found = _CONTROL.search(given)
    if found is None:
        return
    if found[0] in "\t\r\n":
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "it has a line break or a tab in it; each URL must begin with http:// or https://",
        )
    raise UrlError(
        FileErrorCode.CONTROL_CHARACTER,
        f"it has the control character U+{ord(found[0]):04X} in it; remove that",
    )


def _split_scheme(given: str) -> tuple[str, str]:
    match = _SCHEME.match(given)
    scheme = match[1].lower() if match else ""
    if match and match[2] and scheme in _DEFAULT_PORTS:
        return scheme, given[match.end() :]
    if scheme in _DEFAULT_PORTS:
        raise UrlError(
            FileErrorCode.INVALID_URL,
            f"{scheme}: must be followed by two slashes: {scheme}://host/path",
        )
    if match and (match[2] or _is_scheme(scheme, given[match.end() :])):
        raise UrlError(
            FileErrorCode.UNSUPPORTED_SCHEME,
            f"only http:// and https:// are fetched, not {_short(scheme)}:",
        )
    if given[:1] in {'"', "'", "\u201c", "\u201e"}:
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "it begins with a quotation mark; one that opens a cell must be the cell's first "
            "character, with no blank before it, and URLs take none",
        )
    raise UrlError(FileErrorCode.INVALID_URL, "it must begin with http:// or https://")


def _is_scheme(word: str, rest: str) -> bool:
    """Tell `data:image/…` from `example.com:8080/…` and `C:\\…`, which are no URLs at all."""
    return len(word) > 1 and "." not in word and not rest[:1].isdigit()


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"


@lru_cache(maxsize=1024)
def _host_and_port(authority: str) -> tuple[str, int | None]:
    """Split and judge an authority; the host comes in the form that goes on the wire."""
    if "@" in authority:
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "it holds a user name or password, which would end up in logs and tables; "
            "use a URL without, a signed one for example",
        )
    match = _HOST_AND_PORT.fullmatch(authority)
    if match is None:
        raise UrlError(FileErrorCode.INVALID_URL, "its host name or port is not valid")
    host, digits = match[1], match[2]
    if not host:
        raise UrlError(FileErrorCode.INVALID_URL, "it has no host; write it as https://host/path")
    port = int(digits) if digits else None
    if port is not None and not 1 <= port <= 65_535:
        raise UrlError(FileErrorCode.INVALID_URL, "its port must be from 1 to 65535")
    return (_ipv6(host) if host.startswith("[") else _name(host)), port


def _ipv6(host: str) -> str:
    try:
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    except AddressValueError:
        raise UrlError(FileErrorCode.INVALID_URL, "its host is no IPv6 address") from None


def _name(host: str) -> str:
    """Give a host name in the form that the DNS knows. Underscores are not in the rules, but occur."""
    name = host.lower() if host.isascii() else _international(host)
    if len(name.removesuffix(".")) > _MAX_HOST_LENGTH or not _NAME.fullmatch(name):
        raise UrlError(FileErrorCode.INVALID_URL, "its host name is not valid")
    return name


def _international(host: str) -> str:
    """IDNA 2008 with the mapping of UTS 46, non-transitional, as browsers do it."""
    if len(host) > _MAX_HOST_LENGTH + 1:
        raise UrlError(FileErrorCode.INVALID_URL, "its host name is too long")
    try:
        mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
        labels = [
            label if label.isascii() else _encoded_label(label) for label in mapped.split(".")
        ]
    except UnicodeError:  # idna.IDNAError is one
        raise UrlError(
            FileErrorCode.INVALID_URL, "its host name is not a valid international name"
        ) from None
    return ".".join(labels).lower()


def _encoded_label(label: str) -> str:
    # The rules for some characters look at the whole label for each of them, however long it is.
    if len(label) > _MAX_INTERNATIONAL_LABEL_LENGTH:
        raise idna.IDNAError("label too long")
    return idna.alabel(label).decode("ascii")


def _as_sent(target: str) -> str:
    """Give a path and query, and percent-encode what cannot be sent. Bytes may come as surrogates."""
    if _TARGET.fullmatch(target):
        return target
    try:
        data = _STRAY_PERCENT.sub("%25", target).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UrlError(
            FileErrorCode.INVALID_URL, "it has characters that are not Unicode text"
        ) from None
    return "".join(map(_AS_SENT.__getitem__, data))


def _absolute(base: str, reference: str) -> str:
    """Resolve a reference that has no scheme against a URL in the form that goes on the wire."""
    reference = reference.partition("#")[0]
    scheme, _, rest = base.partition("://")
    parts = _PARTS.match(rest)
    authority, target = parts.groups() if parts else (rest, "")
    path, _, _ = target.partition("?")
    origin = f"{scheme}://{authority}"
    if reference.startswith("//"):
        return f"{scheme}:{reference}"
    if reference.startswith("/"):
        return f"{origin}{reference}"
    if not reference:
        return f"{origin}{target}"
    if reference.startswith("?"):
        return f"{origin}{path}{reference}"
    relative, mark, query = reference.partition("?")
    merged = f"{path.rpartition('/')[0]}/{relative}"
    return f"{origin}{_without_dot_segments(merged)}{mark}{query}"


def _without_dot_segments(path: str) -> str:
    """RFC 3986, 5.2.4, for a path that begins with a slash."""
    segments = path.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)
