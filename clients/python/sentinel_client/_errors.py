"""The exceptions of the client.

    SentinelError
    ├── InvalidArgument      the request is invalid in every state of the system
    ├── NotFound             no such collection, item or model
    ├── AlreadyExists
    ├── FailedPrecondition   the request is valid, but not in this state of the system
    ├── PermissionDenied     the caller is not allowed, or is not authenticated
    ├── ResourceExhausted    a limit is reached; retry after `retry_after`
    ├── Unavailable          a server is unavailable for now; retry
    │   └── ConnectionFailed     no server answers at the address
    ├── DeadlineExceeded     the timeout passed
    └── Internal             the server failed
        └── ResultTruncated      a stream of hits ended before its summary

Wrong use of the client itself, such as two kinds of query at once, is a TypeError or ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from sentinel_client._proxy import host_of, proxy_of

DOMAIN = "sentinel"
_DETAILS_KEY = "grpc-status-details-bin"
_BY_CODE: dict[grpc.StatusCode, type[SentinelError]] = {}
# A server may notice the end of a deadline slightly earlier than the client.
_DEADLINE_SLACK_S = 0.1


class SentinelError(Exception):
    """A failed call, or one failed item of a batch.

    Attributes:
        code: The gRPC status code.
        reason: Machine-readable reason: a name of the contract's ErrorReason, UNREACHABLE,
            FILE_UNREADABLE, NOT_UNICODE (a text that UTF-8 cannot hold), RESULT_TRUNCATED, or
            UNKNOWN if the error is not from Sentinel (a proxy, gRPC).
        message: What is wrong and what to do about it.
        metadata: Short strings for programs, such as `{"limit": "64"}`.
        retry_after: Seconds to wait before a retry; None if the server gave none.
        field: Path of the request's field with the error, or None.
        request_id: The call's `x-request-id`, which is in the servers' logs too.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    def __init_subclass__(cls, code: grpc.StatusCode | None = None) -> None:
        super().__init_subclass__()
        if code is not None:
            cls.code = code
            _BY_CODE[code] = cls

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.field = field
        self.request_id = ""

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]"

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own repeats only `args`; a process pool would hang on the result.
        return type(self), (self.reason, self.message), self.__dict__

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed when repeated."""
        # Without a RetryInfo, RESOURCE_EXHAUSTED is a limit (message size), not a queue.
        return isinstance(self, Unavailable) or (
            isinstance(self, ResourceExhausted) and self.retry_after is not None
        )


class InvalidArgument(SentinelError, code=grpc.StatusCode.INVALID_ARGUMENT):
    """The request is invalid in every state of the system."""


class NotFound(SentinelError, code=grpc.StatusCode.NOT_FOUND):
    """The collection, item or model does not exist."""


class AlreadyExists(SentinelError, code=grpc.StatusCode.ALREADY_EXISTS):
    """The collection to create exists."""


class FailedPrecondition(SentinelError, code=grpc.StatusCode.FAILED_PRECONDITION):
    """The system's state does not allow the call until somebody changes that state."""


class PermissionDenied(SentinelError, code=grpc.StatusCode.PERMISSION_DENIED):
    """The caller is not allowed to do this, or is not authenticated."""


class ResourceExhausted(SentinelError, code=grpc.StatusCode.RESOURCE_EXHAUSTED):
    """A limit is reached; with `retry_after`, only for now."""


class Unavailable(SentinelError, code=grpc.StatusCode.UNAVAILABLE):
    """A server that the call needs is unavailable for now."""


class ConnectionFailed(Unavailable):
    """No server answers at the address, or the connection broke. Reason: UNREACHABLE."""


class DeadlineExceeded(SentinelError, TimeoutError, code=grpc.StatusCode.DEADLINE_EXCEEDED):
    """The timeout passed. Reason: OUT_OF_TIME."""


class Internal(SentinelError, code=grpc.StatusCode.INTERNAL):
    """The server failed; look for `metadata["error_id"]` in its log."""


class ResultTruncated(Internal):
    """A stream of hits ended without its summary, so hits may be missing."""


_BY_CODE[grpc.StatusCode.OUT_OF_RANGE] = InvalidArgument
_BY_CODE[grpc.StatusCode.UNAUTHENTICATED] = PermissionDenied


def from_status(status: status_pb2.Status) -> SentinelError:
    """Convert a `google.rpc.Status`."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    request = error_details_pb2.BadRequest()
    retry_after = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(request.DESCRIPTOR):
            detail.Unpack(request)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    ours = info.domain == DOMAIN
    code = grpc.StatusCode[code_pb2.Code.Name(status.code)]
    error = _BY_CODE.get(code, SentinelError)(
        info.reason if ours else "UNKNOWN",
        status.message or code.name,
        metadata=dict(info.metadata) if ours else None,
        retry_after=retry_after,
        field=request.field_violations[0].field if request.field_violations else None,
    )
    error.code = code
    return error


def from_rpc_error(
    error: grpc.aio.AioRpcError, *, address: str, request_id: str, remaining: float | None = None
) -> SentinelError:
    """Convert an error of grpc.aio; `remaining` is what is left of the deadline in seconds."""
    converted = _from_details(error) or _without_details(error, address, remaining)
    converted.request_id = request_id
    return converted


def _from_details(error: grpc.aio.AioRpcError) -> SentinelError | None:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return None
            # Details with another code than the call's are not about this failure.
            if status.code == error.code().value[0]:
                return from_status(status)
    return None


def _without_details(
    error: grpc.aio.AioRpcError, address: str, remaining: float | None
) -> SentinelError:
    """Convert an error of gRPC itself or of a proxy."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.CANCELLED:  # not by us: grpc.aio raises CancelledError for that
        if remaining is not None and remaining <= _DEADLINE_SLACK_S:
            code = grpc.StatusCode.DEADLINE_EXCEEDED  # a busy server ends an expired call so
        else:
            return ConnectionFailed(
                "UNREACHABLE",
                f"{address} cancelled the call; try again",
                metadata={"address": address, "details": details},
            )
    if code is grpc.StatusCode.UNAVAILABLE:
        cause = details.rsplit(": ", 1)[-1] or "no details"
        return ConnectionFailed(
            "UNREACHABLE",
            f"no gateway answers at {address} ({cause}){_by_proxy(address)}",
            metadata={"address": address, "details": details},
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            "OUT_OF_TIME",
            f"{address} did not answer in time; use a longer timeout{_by_proxy(address)}",
        )
    return from_status(status_pb2.Status(code=code.value[0], message=details))


def _by_proxy(address: str) -> str:
    """Return what to know about the proxy on the way to an address, if there is one."""
    proxy = proxy_of(address)
    if not proxy:
        return ""
    return (
        f"; the call went by the proxy of {proxy}: add {host_of(address)} to no_proxy to avoid it"
    )
