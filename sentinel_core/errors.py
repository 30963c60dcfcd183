"""The exceptions that code below a servicer raises; each is one gRPC status.

Business code raises them and never sees a gRPC context: `interceptors.py` turns them into the
call's status, `status.py` into the status of one item of a batch.
"""

from __future__ import annotations

import logging
import uuid
from typing import ClassVar, Self

import grpc


class SentinelError(Exception):
    """An error with a gRPC code, a machine-readable reason and a message that says what to do.

    Attributes:
        code: The gRPC status code.
        reason: Name of an ErrorReason of the contract, without its prefix.
        message: What is wrong and what to do about it; no secrets, no internals.
        metadata: Short strings for programs, such as `{"limit": "64"}`.
        field: Path of the request's wrong field, for example `contents[3].image.data`. To set
            it later, use `at`.
        retry_after_s: When to try again, in seconds; None leaves it to the caller.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init_subclass__(cls, code: grpc.StatusCode) -> None:
        super().__init_subclass__()
        cls.code = code

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
        """Return a copy that names `field`. Code that raises an error may not know the path."""
        copy = type(self)(self.reason, self.message, field=field, retry_after_s=self.retry_after_s)
        copy.metadata = {key: value for key, value in self.metadata.items() if key != "field"}
        return copy


class InvalidArgument(SentinelError, code=grpc.StatusCode.INVALID_ARGUMENT):
    """The input is wrong in any state of the system."""


class NotFound(SentinelError, code=grpc.StatusCode.NOT_FOUND):
    """The request names something that does not exist."""


class AlreadyExists(SentinelError, code=grpc.StatusCode.ALREADY_EXISTS):
    """The request creates something that exists."""


class Unauthenticated(SentinelError, code=grpc.StatusCode.UNAUTHENTICATED):
    """The caller has not proven who it is."""


class PermissionDenied(SentinelError, code=grpc.StatusCode.PERMISSION_DENIED):
    """The input is well formed, but a rule of the operator forbids it."""


class FailedPrecondition(SentinelError, code=grpc.StatusCode.FAILED_PRECONDITION):
    """The system's state forbids it until somebody changes that state."""


class ResourceExhausted(SentinelError, code=grpc.StatusCode.RESOURCE_EXHAUSTED):
    """A limit is reached; retry after `retry_after_s`."""


class Unavailable(SentinelError, code=grpc.StatusCode.UNAVAILABLE):
    """A service that we need does not answer now; retry."""


class DeadlineExceeded(SentinelError, code=grpc.StatusCode.DEADLINE_EXCEEDED):
    """Time ran out."""


class Unimplemented(SentinelError, code=grpc.StatusCode.UNIMPLEMENTED):
    """This server does not offer the method."""


class Internal(SentinelError, code=grpc.StatusCode.INTERNAL):
    """A fault of ours; the message names no internals."""


def hide(
    error: BaseException,
    what: str,
    logger: logging.Logger,
    *,
    reason: str = "INTERNAL",
    **log_fields: object,
) -> Internal:
    """Log an unexpected error under a random id; return an error that reveals the id only.

    `what` tells log and caller what failed, such as "the model failed on a batch".
    """
    error_id = uuid.uuid4().hex
    logger.error(what, exc_info=error, extra={**log_fields, "error_id": error_id})
    return Internal(
        reason, f"{what}, error {error_id}; the server's log has the details", error_id=error_id
    )


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error of a task group: the first SentinelError, or else the first of all."""
    found: BaseException = group.subgroup(SentinelError) or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
