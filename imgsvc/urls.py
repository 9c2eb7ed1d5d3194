r"""URLs: validated by form, and sent exactly as provided.

Valid characters of a path or query are sent unchanged: `%2F`, an empty `?`, dot segments and `//`
stay, because any change of a signed URL invalidates its signature. Only characters that an HTTP request
cannot contain are percent-encoded: white space, non-ASCII characters, a `%` without two hexadecimal
digits, and ``"<>\^`{}``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from ipaddress import AddressValueError, IPv6Address, ip_address

import idna

from imgsvc.errors import FileErrorCode
from imgsvc.table_types import ImageUrl

MAX_URL_LENGTH = 8_192
"""Maximum length of a URL in characters, before percent-encoding."""

WHITE_SPACE = "\t\r\n \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\u200b\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""Characters that are trimmed from URLs and separate them.

These are tabs, line breaks, all white space that is not a control character, and the invisible
characters that pasted text often contains.
"""

_EXAMPLE = "www.shop.example/0.jpg"
_MAX_HOST_LENGTH = 253
_MAX_INTERNATIONAL_LABEL_LENGTH = 63 - len("xn--")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*+):(//)?")
_PARTS = re.compile(r"([^/?#]*+)([^#]*+)", re.DOTALL)
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}+(?>(?:\.[a-z0-9_-]{1,63}+)*)\.?")
_HOST_AND_PATH = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::[0-9]+)?/")
_SECOND_ADDRESS = re.compile(
    rf"""[{WHITE_SPACE}]["'\u2018-\u201f]?(?://)?(?>(?:(?>[^\W_](?>[\w-]*))\.)+)"""
    r"(?!(?:jpe?g|jfif|png|gif|webp|avif|hei[cf]|tiff?|bmp|svg|jxl)\b)"
    r"(?>(?:xn--[a-z0-9-]+|[^\W\d_]{2,}))(?::[0-9]{1,5})?/",
    re.IGNORECASE,
)
"""White space, a host name and a slash. A folder named like an image is no host name."""
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:\[\]]*)(?::([0-9]{0,9}))?")

# RFC 3986 requires [, ] and | to be encoded too, but browsers send them unchanged, so we do as well.
_SENDABLE = r"[!$&-;=?-\[\]_a-z|~]"
_TARGET = re.compile(rf"/{_SENDABLE}*+(?>(?:%[0-9A-Fa-f]{{2}}{_SENDABLE}*+)*)")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED_BYTES = tuple(
    chr(byte) if re.match(f"%|{_SENDABLE}", chr(byte)) else f"%{byte:02X}" for byte in range(256)
)


class UrlError(ValueError):
    """The text is not a valid URL.

    `message` is a predicate of which the URL is the subject, without a full stop: "has no host name".
    It says what is wrong and what to do.
    """

    def __init__(self, code: FileErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


def parse_url(text: str) -> ImageUrl:
    """Validate a user's URL. Return it together with the form that is sent.

    Raise `UrlError` INVALID_URL, UNSUPPORTED_SCHEME, TOO_LONG or CONTROL_CHARACTER.
    """
    text = text.strip(WHITE_SPACE)
    slash = text.find("/", 8)
    if 8 < slash < 300 and len(text) <= MAX_URL_LENGTH and _TARGET.fullmatch(text, slash):
        host_url = _host_url_if_normalised(text[:slash])
        if host_url is not None:
            return ImageUrl(text, text, host_url)
    if len(text) > MAX_URL_LENGTH:
        raise _too_long()
    if _SURROGATE.search(text):
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "contains characters that are not valid Unicode; type it again",
        )
    if _SCHEME.match(text) and _SECOND_ADDRESS.search(text):
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "looks like two addresses; the second lacks https://, so add it",
        )
    return _parse(text)


def resolve_redirect(base_url: str, location: str) -> ImageUrl:
    """Return the URL of a redirect's `Location`.

    `base_url` is the URL that was fetched. Bytes of `location` that are not UTF-8 must be surrogate
    escapes; they are sent unchanged. A relative path is merged with the base's path as defined by
    RFC 3986; everything else stays unchanged, as in `parse_url`. Raise `UrlError` as `parse_url` does.
    """
    location = location.strip(WHITE_SPACE)
    if len(location) > MAX_URL_LENGTH:
        raise _too_long()
    scheme = _SCHEME.match(location)
    if scheme is None:
        location = _resolve_reference(base_url, location)
    url = _parse(location)
    return ImageUrl(url.fetch_url, url.fetch_url, url.host_url)


def is_loopback(name: str) -> bool:
    """Return whether a host name or IP address is loopback."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        name = name.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")


def page_origin(url: str) -> str:
    """Return the web origin of a page as browsers write it: without the scheme's default port.

    Raise `UrlError`.
    """
    scheme, _, rest = parse_url(url).fetch_url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def host_url_of(url: str) -> str:
    """Return the `scheme://host:port` of a URL in its fetchable ASCII form."""
    scheme, _, rest = url.partition("://")
    end = next((i for i, c in enumerate(rest) if c in "/?#"), len(rest))
    host = rest[:end].lower()
    if ":" not in host.rpartition("]")[2]:
        host += ":443" if scheme == "https" else ":80"
    return f"{scheme}://{host}"


def host_name(host_url: str) -> str:
    """Return the host name of a `scheme://host:port`, with the port unless it is the default one."""
    scheme, _, rest = host_url.partition("://")
    return rest.removesuffix(":443" if scheme == "https" else ":80")


def host_urls(host: str) -> tuple[str, ...]:
    """Return the `scheme://host:port` of both schemes for a `host` or `host:port`. Raise `UrlError`."""
    if re.search(r"[/?#]", host):
        raise UrlError(FileErrorCode.INVALID_URL, "must be a host name, or host:port")
    return tuple(parse_url(f"{scheme}://{host}/").host_url for scheme in _DEFAULT_PORTS)


def redact(url: str) -> str:
    """Return a URL, or any text, for logs: without user name, password, query and fragment."""
    visible = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, mark, rest = visible.partition("://")
    if not mark:
        return visible.rpartition("@")[2]
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _parse(text: str) -> ImageUrl:
    _check_characters(text)
    scheme, rest = _split_scheme(text)
    parts = _PARTS.match(rest)
    authority, target = parts.groups() if parts else (rest, "")
    host, port = _host_and_port(authority)
    if not target.startswith("/"):
        target = f"/{target}"
    port_suffix = "" if port in {None, _DEFAULT_PORTS[scheme]} else f":{port}"
    fetch_url = f"{scheme}://{host}{port_suffix}{_percent_encoded(target)}"
    return ImageUrl(text, fetch_url, f"{scheme}://{host}:{port or _DEFAULT_PORTS[scheme]}")


@lru_cache(maxsize=1024)
def _host_url_if_normalised(base: str) -> str | None:
    """Return the host URL of `scheme://authority`, or None if it is invalid or has to be normalised."""
    try:
        url = _parse(base)
    except UrlError:
        return None
    return url.host_url if url.fetch_url == f"{base}/" else None


def _too_long() -> UrlError:
    return UrlError(
        FileErrorCode.TOO_LONG,
        f"is longer than {MAX_URL_LENGTH:,} characters; use a shorter one",
    )


def _check_characters(text: str) -> None:
    found = _CONTROL_CHARACTER.search(text)
    if found is None:
        return
    if found[0] in "\t\r\n":
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "contains a line break or a tab; remove it, or start each URL with http:// or https://",
        )
    raise UrlError(
        FileErrorCode.CONTROL_CHARACTER,
        f"contains the invisible control character U+{ord(found[0]):04X}; type the URL again",
    )


def _split_scheme(text: str) -> tuple[str, str]:
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if match and match[2] and scheme in _DEFAULT_PORTS:
        return scheme, text[match.end() :]
    if scheme in _DEFAULT_PORTS:
        raise UrlError(
            FileErrorCode.INVALID_URL,
            f"needs two slashes after {scheme}:, e.g. {scheme}://{_EXAMPLE}",
        )
    if match and (match[2] or _is_scheme(scheme, text[match.end() :])):
        raise UrlError(
            FileErrorCode.UNSUPPORTED_SCHEME,
            f"must start with http:// or https://, not {_shortened(scheme)}:",
        )
    if text[:1] in {'"', "'", "\u201c", "\u201e"}:
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "starts with a quotation mark; remove it, or, if it opens a quoted cell, remove the space "
            "before it",
        )
    if _HOST_AND_PATH.match(text):
        raise UrlError(
            FileErrorCode.INVALID_URL, f"needs https:// in front, e.g. https://{_EXAMPLE}"
        )
    raise UrlError(
        FileErrorCode.INVALID_URL, f"must be a complete web address, e.g. https://{_EXAMPLE}"
    )


def _is_scheme(word: str, rest: str) -> bool:
    r"""Return whether a word before a colon is a scheme, as in `data:image/…`.

    It is not in `example.com:8080/…` and `C:\…`.
    """
    return len(word) > 1 and "." not in word and not rest[:1].isdigit()


def _shortened(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"


@lru_cache(maxsize=1024)
def _host_and_port(authority: str) -> tuple[str, int | None]:
    """Return an authority's host, in the form that is sent, and port. Raise `UrlError`."""
    if "@" in authority:
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "contains a user name or password, which would appear in logs and tables; remove them, or "
            "use a signed URL",
        )
    match = _HOST_AND_PORT.fullmatch(authority)
    if match is None:
        raise UrlError(
            FileErrorCode.INVALID_URL,
            f"has an invalid host name or port; compare it with https://{_EXAMPLE}",
        )
    host, digits = match[1], match[2]
    if not host:
        raise UrlError(
            FileErrorCode.INVALID_URL, f"has no host name; a complete URL is https://{_EXAMPLE}"
        )
    port = int(digits) if digits else None
    if port is not None and not 1 <= port <= 65_535:
        raise UrlError(
            FileErrorCode.INVALID_URL, "has an invalid port; use a number from 1 to 65535"
        )
    return (_ipv6(host) if host.startswith("[") else _host_name(host)), port


def _ipv6(host: str) -> str:
    try:
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    except AddressValueError:
        raise UrlError(
            FileErrorCode.INVALID_URL, "has an invalid IPv6 address between [ and ]"
        ) from None


def _host_name(host: str) -> str:
    """Return a host name in the form of the DNS. Underscores are valid here: real hosts use them."""
    name = host.lower() if host.isascii() else _encode_international(host)
    if len(name.removesuffix(".")) > _MAX_HOST_LENGTH or not _HOST_NAME.fullmatch(name):
        raise UrlError(
            FileErrorCode.INVALID_URL,
            f"has an invalid host name; compare it with https://{_EXAMPLE}",
        )
    return name


def _encode_international(host: str) -> str:
    """Encode a host name by IDNA 2008 with the UTS 46 mapping, non-transitional, as browsers do."""
    if len(host) > _MAX_HOST_LENGTH + 1:
        raise UrlError(FileErrorCode.INVALID_URL, "has a host name that is too long")
    try:
        mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
        labels = [label if label.isascii() else _encode_label(label) for label in mapped.split(".")]
    except UnicodeError:  # idna.IDNAError is one
        raise UrlError(
            FileErrorCode.INVALID_URL, "has a host name that is not a valid international name"
        ) from None
    return ".".join(labels).lower()


def _encode_label(label: str) -> str:
    # Some of the rules scan the whole label once for each of its characters: quadratic time.
    if len(label) > _MAX_INTERNATIONAL_LABEL_LENGTH:
        raise idna.IDNAError("label too long")
    return idna.alabel(label).decode("ascii")


def _percent_encoded(target: str) -> str:
    """Return a path and query with the characters that cannot be sent percent-encoded.

    Surrogate escapes stand for bytes that are not UTF-8.
    """
    if _TARGET.fullmatch(target):
        return target
    try:
        data = _STRAY_PERCENT.sub("%25", target).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UrlError(
            FileErrorCode.INVALID_URL,
            "contains characters that are not valid Unicode; type it again",
        ) from None
    return "".join(map(_ENCODED_BYTES.__getitem__, data))


def url_key(url: str) -> bytes:
    """Return a hash of 128 bits that stands for a URL, in the form in which it is sent."""
    return blake2b(url.encode(), digest_size=16).digest()


def _resolve_reference(base: str, reference: str) -> str:
    """Return the absolute URL of a reference without a scheme.

    `base` is the URL that it is relative to, in the form that is sent.
    """
    reference = reference.partition("#")[0]
    reference_path, question_mark, reference_query = reference.partition("?")
    # Browsers read a backslash in a path as a slash.
    reference = reference_path.replace("\\", "/") + question_mark + reference_query
    scheme, _, rest = base.partition("://")
    parts = _PARTS.match(rest)
    authority, target = parts.groups() if parts else (rest, "")
    path, _, _ = target.partition("?")
    root = f"{scheme}://{authority}"
    if reference.startswith("//"):
        return f"{scheme}:{reference}"
    if reference.startswith("/"):
        return f"{root}{reference}"
    if not reference:
        return f"{root}{target}"
    if reference.startswith("?"):
        return f"{root}{path}{reference}"
    relative, mark, query = reference.partition("?")
    merged = f"{path.rpartition('/')[0]}/{relative}"
    return f"{root}{_without_dot_segments(merged)}{mark}{query}"


def _without_dot_segments(path: str) -> str:
    """Remove dot segments (RFC 3986, section 5.2.4) from a path that begins with a slash."""
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
