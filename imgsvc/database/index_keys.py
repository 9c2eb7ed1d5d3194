"""Short numbers that stand for long texts in indexes."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b


def text_key(text: str) -> int:
    """Give a 64-bit number (signed, as SQLite's are) that stands for a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


@lru_cache(maxsize=4_096)
def host_key(host_url: str) -> int:
    """Give the number that stands for an origin, `scheme://host:port`."""
    return text_key(host_url)


def host_url_of(url: str) -> str:
    """Give the `scheme://host:port` of a URL in the form in which it is fetched."""
    scheme, _, rest = url.partition("://")
    end = next((i for i, c in enumerate(rest) if c in "/?#"), len(rest))
    host = rest[:end].lower()
    if ":" not in host.rpartition("]")[2]:
        host += ":443" if scheme == "https" else ":80"
    return f"{scheme}://{host}"


def host_name(host_url: str) -> str:
    """Give an origin's host as people write it: the port only where it is not the scheme's own."""
    scheme, _, rest = host_url.partition("://")
    return rest.removesuffix(":443" if scheme == "https" else ":80")
