"""Every exception becomes one gRPC status; nothing unknown leaks to the caller."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import grpc

from sentinel_core.calls import Call
from sentinel_core.errors import Internal, SentinelError
from sentinel_core.status import to_status

logger = logging.getLogger(__name__)


async def abort(call: Call, context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    """End the call with the status of what it raised.

    Returns only if the status is set already; then raise `error` again.

    Raises:
        grpc.aio.AbortError: As gRPC wants it.
    """
    if isinstance(error, grpc.aio.AbortError):
        return
    if not isinstance(error, SentinelError):
        error = _hidden(call, error)
    call.reason = error.reason
    status = to_status(error)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString())
    ]
    if error.retry_after_s is not None:
        # gRPC's own retry policy waits this long before its next attempt.
        trailers.append(("grpc-retry-pushback-ms", str(int(error.retry_after_s * 1000))))
    await context.abort(error.code, status.message, trailing_metadata=tuple(trailers))


def _hidden(call: Call, error: Exception) -> Internal:
    error_id = uuid.uuid4().hex
    logger.error("call failed", exc_info=error, extra={"method": call.method, "error_id": error_id})
    hidden = Internal(
        "INTERNAL",
        f"internal error {error_id}; the server's log has the details",
        error_id=error_id,
    )
    hidden.__cause__ = error
    return hidden
