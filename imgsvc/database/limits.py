"""The limits of the database that are not settings: waits, and sizes of transactions and pages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """The limits of the connections, the stores and the queries."""

    busy_seconds: float = 1.0
    """How long SQLite itself waits for a lock of another process. This blocks a connection's thread."""
    locked_seconds: float = 60.0
    """How long a read or write waits in total for a lock of another process before it fails."""
    hosts_per_claim: int = 250
    """Maximum number of hosts that one claim scans (a few ms). The next claim continues there."""
    receivers_per_read: int = 1_000
    """Maximum number of receivers of webhooks that one read scans: about 10 ms."""
    duplicates_per_transaction: int = 2_000
    """Maximum number of images with one URL that are claimed, or finished, in one transaction."""
    bulk_slice: int = 2_000
    """Maximum number of images that a bulk update changes in one transaction: about 20 ms."""
    page_images: int = 5_000
    """A page of products ends early at this number of images, to bound its memory."""
    page_characters: int = 2_000_000
    """A page of products ends early at this number of characters of text, to bound its memory."""
