"""Outcomes → rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgsvc.models import Finished


@dataclass(frozen=True, slots=True)
class FinishResult:
    """What a transaction over images has changed.

    `finished` are the requests that it finished, `touched` the keys of all that it changed, and
    `unused` the names of stored files that no row names, which are the caller's to delete.
    """

    finished: list[Finished] = field(default_factory=list)
    touched: list[int] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
