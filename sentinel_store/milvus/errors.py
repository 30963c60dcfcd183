"""Convert errors of pymilvus to ours."""

from __future__ import annotations

import logging

import grpc
from pymilvus.exceptions import ConnectionConfigException, MilvusException

from sentinel_core.calls import Deadline
from sentinel_core.errors import (
    DeadlineExceeded,
    NotFound,
    SentinelError,
    Unavailable,
    hide,
)

logger = logging.getLogger(__name__)

# Error codes of Milvus, as Milvus Lite 3.2.2 and server 2.3.5 send them through pymilvus 3.0.2.
_NO_COLLECTION = 100
_NOT_LOADED = 101
_REFUSED = {
    1100,  # an invalid parameter
    65535,  # most refusals of server 2.3
}
_UNAVAILABLE = {
    2,  # the connection is refused or lost
    503,  # the channel is not available
    _NOT_LOADED,  # after a restart of the server
    8,  # rate limit
    9,  # writes are denied, for lack of space (_FULL) or because they come too fast
}
# Texts of a full server ("quota exceeded[reason=disk quota exceeded, …]", code 9; 2.3 to 2.6 also
# have codes 3 and 7), and texts of the operating system, which Lite and servers pass on.
_FULL = (
    "memory quota exceeded",
    "disk quota exceeded",
    "no space left on device",
    "file too large",
)
_FULL_CODES = {
    3,  # the memory limit
    7,  # the disk limit
}

_DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}

# Errors of a failed RPC, called in a thread or on an event loop.
_RPC_ERRORS = (grpc.Call, grpc.aio.AioRpcError)

FOREIGN = (MilvusException, grpc.RpcError)


def is_not_loaded(error: Exception) -> bool:
    """Tell whether the collection must be loaded before it answers."""
    return isinstance(error, MilvusException) and error.code == _NOT_LOADED


def is_refusal(error: Exception) -> bool:
    """Tell whether Milvus understood the call and does not support it."""
    return isinstance(error, MilvusException) and error.code in _REFUSED


def is_no_answer(error: Exception) -> bool:
    """Tell whether Milvus did not answer, so that `error` says nothing about what it supports."""
    if isinstance(error, grpc.RpcError):
        return bool(error.code() is not grpc.StatusCode.UNIMPLEMENTED)
    return getattr(error, "code", 0) in _UNAVAILABLE


def converted(error: Exception, deadline: Deadline) -> SentinelError:
    """Return `error` as one of ours; an unknown one is logged and becomes Internal."""
    code: object = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", 0)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED or deadline.remaining() == 0:
        return out_of_time()
    if code == _NO_COLLECTION:
        return NotFound("COLLECTION_NOT_FOUND", "the collection was dropped meanwhile")
    why = _why_unavailable(error)
    if why:
        return Unavailable("STORE_UNAVAILABLE", why)
    if code in _UNAVAILABLE or isinstance(code, grpc.StatusCode):
        return unavailable("Milvus does not answer just now")
    return hide(error, "Milvus failed", logger)


def _why_unavailable(error: Exception) -> str:
    """Return what an operator has to do; empty if the cause is unknown."""
    if isinstance(error, ConnectionConfigException):
        return (
            "the Milvus Lite file cannot be opened; is another process using it, or its folder "
            "not writable?"
        )
    if _is_refused(error):
        return "Milvus refuses the gateway's user name, password or rights; check --milvus-token"
    if _is_full(error):
        return "Milvus is full: give it disk or memory, or raise its quota, then retry"
    return ""


def _is_refused(error: BaseException) -> bool:
    """Tell whether Milvus denies us access; while connecting, pymilvus hides that in the cause."""
    causes = (error, error.__cause__)
    return any(isinstance(one, _RPC_ERRORS) and one.code() in _DENIED for one in causes)


def _is_full(error: Exception) -> bool:
    """Tell whether Milvus has no space for new rows."""
    if not isinstance(error, MilvusException):
        return False
    text = str(error.message).lower()
    return error.code in _FULL_CODES or any(words in text for words in _FULL)


def unavailable(what: str) -> Unavailable:
    """Return the error for a Milvus that cannot be reached."""
    return Unavailable("STORE_UNAVAILABLE", f"{what}; check that it runs, then retry")


def out_of_time() -> DeadlineExceeded:
    """Return the error for a Milvus that is too slow."""
    return DeadlineExceeded("OUT_OF_TIME", "Milvus did not answer in time", stage="milvus")
