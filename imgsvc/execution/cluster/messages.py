"""The messages between the coordinator and a node: orders, and reports with events.

A batch travels as one `bytes` object, so that no library inspects its parts. It is a pickle: nodes and
the coordinator trust each other, by their certificates.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from imgsvc.config import CompressConfig, FetchConfig
from imgsvc.errors import ImageError
from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.models import Claim, Conditions, Validators

# --- orders: from the coordinator ---------------------------------------------------------------


class FetchOrder(NamedTuple):
    """Fetch the source of a claim, and keep it. `job` is a number that the coordinator uses once."""

    job: int
    claim: Claim
    conditions: Conditions | None


class CompressOrder(NamedTuple):
    """Compress a fetched source, and store the output under `token`."""

    job: int
    token: str
    settings: CompressionSettings
    owner: int


class DropOrder(NamedTuple):
    """Cancel a job, and drop its source."""

    job: int


class LeaveOrder(NamedTuple):
    """Leave the cluster: a node that is stopping has no jobs any more."""


Order = FetchOrder | CompressOrder | DropOrder | LeaveOrder

# --- events: from a node ------------------------------------------------------------------------


class FetchedEvent(NamedTuple):
    """The source of a job is fetched."""

    job: int
    digest: bytes
    size: int
    validators: Validators


class NotModifiedEvent(NamedTuple):
    """The source of a job is not modified. The job has ended."""

    job: int


class CompressedEvent(NamedTuple):
    """The output of a job is stored. The job has ended."""

    job: int
    info: ImageInfo


class FailedEvent(NamedTuple):
    """A job has failed."""

    job: int
    error: ImageError


class StorageEvent(NamedTuple):
    """A job has ended because the store fails. `full`: it has no free space."""

    job: int
    reason: str
    full: bool


class InterruptedEvent(NamedTuple):
    """A job has ended because the node stops."""

    job: int


NodeEvent = (
    FetchedEvent
    | NotModifiedEvent
    | CompressedEvent
    | FailedEvent
    | StorageEvent
    | InterruptedEvent
)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The state of a node. See `Executor` for the meaning of its fields.

    `problem` says why the node cannot store outputs. `leaving`: it takes no more jobs.
    """

    workers: int = 0
    busy: int = 0
    healthy: bool = True
    problem: str | None = None
    leaving: bool = False
    worker_seconds: dict[int, float] = field(default_factory=dict)
    missing_layers: tuple[str, ...] = ()


class Report(NamedTuple):
    """The events of a node since its last report, and its state."""

    status: NodeStatus
    events: Sequence[NodeEvent]


# --- joining ------------------------------------------------------------------------------------


class JoinRequest(NamedTuple):
    """A node asks to join. `versions`: see `versions.py`."""

    name: str
    versions: dict[str, str]


class Welcome(NamedTuple):
    """The settings that a node works with."""

    fetch: FetchConfig
    compress: CompressConfig
    bucket: str
    endpoint: str


class Refusal(NamedTuple):
    """The coordinator does not accept the node. `reason` is a sentence."""

    reason: str


M = TypeVar("M")


def encode(message: Any) -> bytes:
    """Return the bytes of a message."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def decode(data: bytes, kind: type[M]) -> M:
    """Return the message of these bytes. Raise TypeError if it is of another kind."""
    message = pickle.loads(data)  # noqa: S301  see the docstring of the module
    if not isinstance(message, kind):
        raise TypeError(f"expected a message of the kind {kind.__name__}")
    return message
