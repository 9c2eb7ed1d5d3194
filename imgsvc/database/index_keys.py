"""Short integers that stand for long texts in indexes, and the host part of URLs."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b


def text_key(text: str) -> int:
    """Return a hash of a text as a signed 64-bit integer, SQLite's integer type."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


@lru_cache(maxsize=4_096)
def host_key(host_url: str) -> int:
    """Return the integer that stands for a host, `scheme://host:port`."""
    return text_key(host_url)


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
