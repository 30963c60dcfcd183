"""Convert errors to and from `google.rpc.Status`, their form on the wire."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2

from sentinel_core.calls import current_caller
from sentinel_core.errors import SentinelError

DOMAIN = "sentinel"

# A status is sent in a trailer, some parts twice and as base64. Above 8 KiB gRPC itself would
# turn the call into another error. A character is at most 4 bytes, or 12 when escaped.
_MAX_MESSAGE_CHARS = 400
_MAX_VALUE_CHARS = 100
# Of ASCII only, in errors of short messages.
_MAX_URI_CHARS = 1_000

_CODES: dict[grpc.StatusCode, int] = {
    code: code_pb2.Code.Value(code.name) for code in grpc.StatusCode
}


def to_status(error: SentinelError) -> status_pb2.Status:
    """Return `error` as a Status: an ErrorInfo, plus BadRequest and RetryInfo where they apply.

    Names in it are local to the current caller's tenant.
    """
    local = current_caller().localized
    metadata = {
        key: local(value)[: _MAX_URI_CHARS if key == "uri" else _MAX_VALUE_CHARS]
        for key, value in error.metadata.items()
    }
    if error.field is not None:
        metadata["field"] = error.field[:_MAX_VALUE_CHARS]
    details: list[object] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    message = local(error.message)[:_MAX_MESSAGE_CHARS]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=metadata["field"], description=message, reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    packed = []
    for detail in details:
        any_detail = Any()
        any_detail.Pack(detail)  # type: ignore[arg-type]
        packed.append(any_detail)
    return status_pb2.Status(code=_CODES[error.code], message=message, details=packed)


def from_status(status: status_pb2.Status) -> SentinelError:
    """Return the error that `to_status` packed; one without ErrorInfo gets reason UNKNOWN."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    name = code_pb2.Code.Name(status.code)
    error_class = _CLASSES.get(grpc.StatusCode[name], SentinelError)
    error = error_class(info.reason or "UNKNOWN", status.message, retry_after_s=retry_after_s)
    error.metadata = dict(info.metadata)
    return error


_CLASSES: dict[grpc.StatusCode, type[SentinelError]] = {
    cls.code: cls for cls in SentinelError.__subclasses__()
}
