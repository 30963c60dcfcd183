"""The exceptions that code below a servicer raises; each is one gRPC status.

Business code raises them and never sees a gRPC context: `interceptors/errors.py` turns them
into the call's status, `status.py` into the status of one item of a batch.

    SentinelError
    ├── InvalidArgument      the caller's input is wrong and stays wrong
    ├── NotFound             no such collection, item or model
    ├── AlreadyExists
    ├── PermissionDenied     a rule of the operator forbids it
    ├── FailedPrecondition   right in itself, but not in this state of the system
    ├── ResourceExhausted    come back after `retry_after_s`
    ├── Unavailable          somebody else, or the same one later, will answer
    ├── DeadlineExceeded
    └── Internal             a fault of ours
"""

from __future__ import annotations

from typing import ClassVar, Self

import grpc


class SentinelError(Exception):
    """An error with a gRPC code, a machine-readable reason and a message that says what to do.

    Attributes:
        code: The gRPC status code.
        reason: Name of an ErrorReason of the contract, without its prefix.
        message: What is wrong and what to do about it; no secrets, no internals.
        metadata: Short strings for programs, such as `{"limit": "64"}`.
        field: Path of the request's field at fault, for example `contents[3].image.data`.
        retry_after_s: When to try again, in seconds; None leaves it to the caller.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def at(self, field: str | None) -> Self:
        """Return an equal error about `field`, which the place that raised it may not know."""
        metadata = {key: value for key, value in self.metadata.items() if key != "field"}
        moved = type(self)(self.reason, self.message, retry_after_s=self.retry_after_s, **metadata)
        moved.field = field
        return moved


class InvalidArgument(SentinelError):
    """The input is wrong whatever the state of the system."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(SentinelError):
    """What the request names is not there."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(SentinelError):
    """What the request wants to make is there."""

    code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDenied(SentinelError):
    """The input is well formed, and a rule of the operator forbids it."""

    code = grpc.StatusCode.PERMISSION_DENIED


class FailedPrecondition(SentinelError):
    """The system's state forbids it until somebody changes that state."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhausted(SentinelError):
    """A bound is reached; retry after `retry_after_s`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(SentinelError):
    """Something needed does not answer just now; retry."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(SentinelError):
    """Time ran out."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Internal(SentinelError):
    """A fault of ours; the text names no internals."""

    code = grpc.StatusCode.INTERNAL
