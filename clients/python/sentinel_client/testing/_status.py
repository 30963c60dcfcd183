"""Send the client's own errors over the wire, as the gateway sends its errors."""

from __future__ import annotations

from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from sentinel_client._errors import DOMAIN, ConnectionFailed, SentinelError
from sentinel_client.testing import _responses


def to_status(error: SentinelError) -> status_pb2.Status:
    """Convert an error to a `google.rpc.Status`; the client's `from_status` reads it back."""
    metadata = dict(error.metadata)
    if error.field is not None:
        metadata["field"] = error.field
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message, reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(retry)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code.name), message=error.message[:400]
    )
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def abort(context: grpc.ServicerContext, error: SentinelError) -> NoReturn:
    """End a call with an error; a ConnectionFailed as gRPC itself ends a call, without details."""
    if not isinstance(error, ConnectionFailed):
        details = to_status(error).SerializeToString()
        context.set_trailing_metadata(
            (
                (_responses.REQUEST_ID_KEY, _responses.request_id(context)),
                ("grpc-status-details-bin", details),
            )
        )
    context.abort(error.code, error.message)
    raise AssertionError("abort has raised")
