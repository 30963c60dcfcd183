"""Convert errors of pymilvus to ours."""

from __future__ import annotations

import logging
import re
import time

import grpc
from pymilvus.exceptions import ConnectionConfigException, MilvusException

from sentinel_core.calls import Deadline
from sentinel_core.errors import (
    DeadlineExceeded,
    InvalidArgument,
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
# Codes with which Milvus Lite refuses a call; any failure inside has code 1.
_LITE_REFUSED = {4, 6, 11, 26, 35, _NO_COLLECTION, _NOT_LOADED, 200, 700}
# States of a server that pass, by Milvus's own list (pkg/util/merr). Lite sends none of them.
_UNAVAILABLE = {
    2,  # the connection is refused or lost
    4,  # too many requests
    8,  # rate limit
    9,  # writes are denied, for lack of space (_FULL) or because they come too fast
    11,  # time ticks come late
    12,  # too few resources
    _NOT_LOADED,  # after a restart of the server
    103, 106, 202,  # a collection or a partition is being loaded
    400, 401,  # no replica can be reached
    500, 501, 503, 504,  # no channel can be reached
    600, 601, 602, 604,  # a segment is on its way to another node
    901, 902, 903, 904, 905, 906,  # a node left or joins
    1001, 1002, 1003,  # Milvus's own object store
    1302, 1303,  # its message queue
    10_000,  # it cancelled the call
}  # fmt: skip
_TIMEOUT = 10_001
# What pymilvus writes before the last error of a call whose time is over, whatever that error is.
_TIME_IS_OVER = "Retry timeout: "
# The same states in texts of code 1, and of 65535, in which server 2.3 wraps what its nodes say.
_PASSING = re.compile(
    r"service not ready|service unavailable|not (fully )?loaded|on recovering|no available shard"
    r"|find no available|nodes not enough"
    r"|(node|channel|replica) (not found|not available|not match|offline|lacks?)|segment lacks?"
    r"|rate limit exceeded|request limit exceeded|IO failed|connection refused|transport is closing"
    r"|context (canceled|done|deadline exceeded)|code = (Unavailable|Canceled|DeadlineExceeded)",
    re.IGNORECASE,
)
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

# What servers say when they load a collection between its creation and that of its index: 2.3, and
# later ones.
_NO_INDEX_YET = re.compile(r"there is no vector index on collection|^index not found\[")

# What Milvus 2.3 says about LIKE with a pattern that is not a prefix.
_PREFIXES_ONLY = "only prefix pattern match"
_DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}

# Errors of a failed RPC, called in a thread or on an event loop.
_RPC_ERRORS = (grpc.Call, grpc.aio.AioRpcError)

FOREIGN = (MilvusException, grpc.RpcError)

_REMIND_S = 30.0
# Unknown errors of the last 30 s by their kind, and when each was logged.
_logged: dict[tuple[type[Exception], str], tuple[SentinelError, float]] = {}


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
    if _why_unavailable(error) or _will_pass(error):
        return True
    return getattr(error, "code", 0) in _UNAVAILABLE


def leaves_doubt(error: Exception) -> bool:
    """Tell whether Milvus Lite may have done half of a write that failed with `error`.

    Otherwise it refused the write before it began.
    """
    if not isinstance(error, MilvusException):
        return True
    # pymilvus raises subclasses of its own before it sends anything.
    is_of_lite = type(error) is MilvusException and not error.is_input_error
    return is_of_lite and error.code not in _LITE_REFUSED and "already exists" not in error.message


def converted(error: Exception, deadline: Deadline) -> SentinelError:
    """Return `error` as one of ours; an unknown one becomes Internal and is logged.

    One that repeats within 30 s is logged once, and all of them have the id of that log line.
    """
    if isinstance(error, SentinelError):
        return error
    code: object = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", 0)
    why = _why_unavailable(error)
    is_late = code in (grpc.StatusCode.DEADLINE_EXCEEDED, _TIMEOUT) or deadline.remaining() == 0
    if is_late or (not why and _TIME_IS_OVER in str(error)):
        return out_of_time()
    if (mistake := _mistake(error)) is not None:
        return mistake
    if why:
        return Unavailable("STORE_UNAVAILABLE", why)
    if code in _UNAVAILABLE or isinstance(code, grpc.StatusCode) or _will_pass(error):
        return unavailable("Milvus does not answer just now")
    return _hidden(error)


def _mistake(error: Exception) -> SentinelError | None:
    """Return what the caller can mend; None if Milvus does not complain about that."""
    if getattr(error, "code", 0) == _NO_COLLECTION:
        return NotFound("COLLECTION_NOT_FOUND", "the collection was dropped meanwhile")
    if _PREFIXES_ONLY in str(error):
        return InvalidArgument(
            "FILTER_INVALID",
            "this Milvus finds no text within strings, only at their beginning; use PREFIX, or "
            "Milvus 2.4 or later",
            field="filter",
        )
    return None


def _hidden(error: Exception) -> SentinelError:
    kind, now = (type(error), str(error)), time.monotonic()
    for known, (_, logged_at) in list(_logged.items()):
        if now - logged_at > _REMIND_S:
            del _logged[known]
    if kind not in _logged:
        _logged[kind] = (hide(error, "Milvus failed", logger), now)
    return _logged[kind][0].at(None)


def _why_unavailable(error: Exception) -> str:
    """Return what an operator has to do; empty if the cause is unknown."""
    if isinstance(error, ConnectionConfigException):
        return (
            "the Milvus Lite file cannot be opened; is another process using it, or its folder "
            "not writable?"
        )
    if _is_refused(error):
        return "Milvus refuses the gateway's user name, password or rights; check milvus_token"
    if _is_full(error):
        return "Milvus is full: give it disk or memory, or raise its quota, then retry"
    if isinstance(error, MilvusException) and _NO_INDEX_YET.search(str(error.message)):
        return (
            "another call is creating the collection; retry, and if it stays so, that call was "
            "interrupted: delete the collection and create it again"
        )
    return ""


def _will_pass(error: Exception) -> bool:
    """Tell whether the server says that it starts, moves its data or is overloaded."""
    if not isinstance(error, MilvusException):
        return False
    return error.retriable or _PASSING.search(str(error.message)) is not None


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
