"""Classifies the errors of a bucket: an outage, which ends, or a refusal of one object."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from imgsvc.storage.base import StorageUnavailableError

BUCKET_ERRORS = (BaseError, OSError)
"""What obstore raises. A missing object is a `FileNotFoundError`."""
CONFLICTS = (AlreadyExistsError, PreconditionError)
"""Raised for a conditional PUT whose condition does not hold."""
_STATUS = re.compile(r"status code: (\d{3})")
_REFUSALS = {400, 405, 411, 413, 414, 422, 501}
"""Statuses with which a bucket refuses one object. Any can also mean a wrong configuration."""


@dataclass(frozen=True, slots=True)
class BucketFailure:
    """Why a call of the bucket failed. `reason` is a clause that stays the same during an outage.

    `refused`: it may be because of this object. `permanent`: it needs a change by the operator.
    """

    reason: str
    refused: bool = False
    permanent: bool = False


class BucketError(StorageUnavailableError):
    """A call of the bucket failed. The message is the failure's reason."""

    def __init__(self, failure: BucketFailure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def classify(error: Exception) -> BucketFailure:
    """Return why a call of obstore failed."""
    text = str(error)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return BucketFailure(f"the bucket denies access ({_code(text)})", permanent=True)
    if is_missing_bucket(error):
        return BucketFailure("the bucket does not exist", permanent=True)
    if "incorrectly configured region" in text:
        return BucketFailure("the bucket is in another region", permanent=True)
    if (match := _STATUS.search(text)) is None:
        return BucketFailure("the bucket does not respond")
    status = int(match[1])
    reason = f"the bucket responds {status} {_code(text)}"
    return BucketFailure(reason, refused=status in _REFUSALS)


def is_missing_bucket(error: Exception) -> bool:
    """Return whether an error means that the bucket is missing, rather than the object."""
    names = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
    return any(name in str(error) for name in names)


def is_range_error(error: Exception) -> bool:
    """Return whether an error may mean that a range starts after the last byte of the object."""
    return "status code: 416" in str(error) or "Invalid range" in str(error)


def is_missing_object(error: Exception) -> bool:
    """Return whether an error means that the object is missing."""
    return isinstance(error, FileNotFoundError) and not is_missing_bucket(error)


def _code(text: str) -> str:
    """Return the error code in a response of the bucket, or the phrase of its status."""
    if code := re.search(r"<Code>(\w{1,64})</Code>", text):
        return code[1]
    match = _STATUS.search(text)
    return HTTPStatus(int(match[1])).phrase if match and match[1] in _PHRASES else "no reason"


_PHRASES = {str(status.value) for status in HTTPStatus}
