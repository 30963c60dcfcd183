"""What pymilvus raises, as our errors."""

from __future__ import annotations

import logging
import uuid

import grpc
from pymilvus.exceptions import ConnectionConfigException, MilvusException

from sentinel_core.deadlines import Deadline
from sentinel_core.errors import (
    DeadlineExceeded,
    Internal,
    NotFound,
    SentinelError,
    Unavailable,
)

logger = logging.getLogger(__name__)

# Error codes of Milvus, seen with Milvus Lite 3.2.2 and server 2.3.5 through pymilvus 3.0.2.
_NO_COLLECTION = 100
_NOT_LOADED = 101
_UNAVAILABLE = {
    2,  # the connection is refused or lost
    503,  # the channel is not available
    _NOT_LOADED,  # after a restart of the server
    8,  # rate limit
}

FOREIGN = (MilvusException, grpc.RpcError)


def is_not_loaded(error: Exception) -> bool:
    """Tell whether the collection must be loaded before it answers."""
    return isinstance(error, MilvusException) and error.code == _NOT_LOADED


def converted(error: Exception, deadline: Deadline) -> SentinelError:
    """Return `error` as one of ours: Internal, and logged, when Milvus cannot do what we asked."""
    code: object = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", 0)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED or deadline.remaining() == 0:
        return DeadlineExceeded("OUT_OF_TIME", "Milvus did not answer in time", stage="milvus")
    if isinstance(error, ConnectionConfigException):
        return Unavailable(
            "STORE_UNAVAILABLE",
            "the Milvus Lite file cannot be opened; is another process using it, or its folder "
            "not writable?",
        )
    if code == _NO_COLLECTION:
        return NotFound("COLLECTION_NOT_FOUND", "the collection is gone; it was dropped meanwhile")
    if code in _UNAVAILABLE or isinstance(code, grpc.StatusCode):
        return unavailable("Milvus does not answer just now")
    error_id = uuid.uuid4().hex
    logger.error("milvus failed", exc_info=error, extra={"error_id": error_id})
    return Internal(
        "INTERNAL",
        f"Milvus failed, error {error_id}; the gateway's log has the details",
        error_id=error_id,
    )


def unavailable(what: str) -> Unavailable:
    """Return the error of a Milvus that cannot be reached."""
    return Unavailable("STORE_UNAVAILABLE", f"{what}; check that it runs, then retry")
