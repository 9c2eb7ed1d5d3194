"""Short integers that stand for long texts in indexes."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from imgsvc.urls import host_url_of


def text_key(text: str) -> int:
    """Return a hash of a text as a signed 64-bit integer, SQLite's integer type."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


@lru_cache(maxsize=4_096)
def host_key(host_url: str) -> int:
    """Return the integer that stands for a host, `scheme://host:port`."""
    return text_key(host_url)


def receiver_key(url: str) -> int:
    """Return the integer that stands for the receiver of a webhook URL: its scheme, host and port."""
    scheme, _, rest = url.partition("://")
    return host_key(host_url_of(f"{scheme.lower()}://{rest}"))
