"""Data types of uploads: their options and results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imgsvc.errors import FileError
from imgsvc.models import Request, RequestOptions
from imgsvc.table_types import InputTable, Product, TableOptions


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """The options of an upload.

    `requested` is the text of the options that the caller set. It identifies a repeated upload even if
    the service's default settings have changed since. `file_name` is the request's name unless
    `request_options` has one.
    """

    request_options: RequestOptions
    dry_run: bool = False
    requested: str = ""
    table: TableOptions = TableOptions()
    file_name: str | None = None

    @property
    def name(self) -> str | None:
        """The display name of the request."""
        return self.request_options.name or self.file_name

    def fingerprint(self, digest: bytes) -> str:
        """Return two hashes that identify the table's bytes and the options' values.

        The first hash is of the requested options, the second of the effective ones, which include the
        service's defaults. A repeated upload shares at least one hash with the first upload, even if
        the defaults have changed, or if it sets options explicitly that it left to the defaults before.
        """
        options = self.request_options
        effective = f"{options.settings} {options.webhook_url} {self.dry_run}"
        # Nothing is added for defaults, so that keys bound by version 1.0 stay valid.
        if self.table != TableOptions() or options.name is not None:
            effective += f" {self.table} {options.name}"
        if options.fresh:
            effective += " fresh"
        return " ".join(
            hashlib.sha256(digest + text.encode()).hexdigest()
            for text in (self.requested, effective)
        )


@dataclass(frozen=True, slots=True)
class RepeatOptions:
    """The options of the new request that differ from those of the repeated one. None: the same.

    `settings` are the changed fields of `CompressionSettings`, by name. `requested` is the text of the
    options that the caller set. It identifies a repeated API call.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    webhook_url: str | None = None
    name: str | None = None
    fresh: bool | None = None
    requested: str = ""

    def applied_to(self, options: RequestOptions) -> RequestOptions:
        """Return the options of the new request."""
        return RequestOptions(
            replace(options.settings, **self.settings),
            self.webhook_url or options.webhook_url,
            self.name or options.name,
            options.fresh if self.fresh is None else self.fresh,
        )

    def fingerprint(self, request_id: str) -> str:
        """Return a hash that identifies the repeated request and the options."""
        return hashlib.sha256(f"repeat {request_id} {self.requested}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class UploadResult:
    """The result of an upload. `request` is None for a dry run, which stores nothing.

    `errors` are the first 100 errors of the skipped rows, `error_count` is the number of all. A dry run
    has the first products in `preview`.
    """

    request: Request | None
    name: str | None
    products: int
    images: int
    table: InputTable
    skipped: int = 0
    errors: tuple[FileError, ...] = ()
    error_count: int = 0
    preview: tuple[Product, ...] = ()
    replayed: bool = False
