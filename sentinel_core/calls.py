"""Track one call: access-line fields, deadline, request stream; refuse lists of a wrong size.

`current_call` reaches the call in progress from anywhere below its handler.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sentinel_core.access.scopes import ANYBODY, Caller, Scope
from sentinel_core.errors import DeadlineExceeded, InvalidArgument, first_error

if TYPE_CHECKING:
    from sentinel_core.access.quotas import Slot
    from sentinel_core.memory import Share

REQUEST_ID_KEY = "x-request-id"
# 3.5 MiB: gRPC clients take 4 MiB unless they are told otherwise.
MAX_RESPONSE_BYTES = 3_670_016
# What a stage keeps for itself, to answer with its own error instead of being cut off.
_MARGIN_S = 0.02
# The parts of a caller's time that a server keeps to say that it is over. gRPC cuts the call off at
# the deadline itself, and its caller would not even see that it is the deadline.
_ANSWER_SHARE = 0.1
_MOST_ANSWER_S = 0.2

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


@dataclass(slots=True, eq=False)
class Call:
    """One call, for its access line.

    Attributes:
        method: Full name, for example `/sentinel.search.v1.SearchService/Search`.
        request_id: The caller's `x-request-id`, or a random one; sent to the next hop, and back.
        items: Items in the request; the handler sets it.
        reason: ErrorReason of a failed call.
        started_at: On `perf_counter`'s clock.
        ends_at: When its time is over, on that clock.
        answer_by: When gRPC must have done with it; else its caller does not read the answer.
        peer: Address of the caller.
        share: The memory of the message that the handler has got last.
        taken: That of earlier messages; see `take_share`.
        header_bytes: Size of its metadata.
        caller: Who calls; until it is known, and without access control, anybody.
        scope: What the method needs; None: nothing, or it is not known yet.
        collections: Those that the request names.
        slot: Its place among the running calls that a quota counts.
        asks_for_bytes: What the caller wrote into `x-max-response-bytes`; mostly nothing.
        max_response_bytes: How large each of its responses may be.
    """

    method: str
    request_id: str = field(default_factory=lambda: f"{random.getrandbits(128):032x}")
    items: int = 1
    reason: str = ""
    started_at: float = 0.0
    ends_at: float = math.inf
    answer_by: float = math.inf
    peer: str = ""
    share: Share | None = None
    taken: set[Share] = field(default_factory=set)
    header_bytes: int = 0
    caller: Caller = ANYBODY
    scope: Scope | None = None
    collections: tuple[str, ...] = ()
    slot: Slot | None = None
    asks_for_bytes: str = ""
    max_response_bytes: int = MAX_RESPONSE_BYTES


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def current_caller() -> Caller:
    """Return who makes the current call; outside a call, anybody."""
    call = current_call.get()
    return ANYBODY if call is None else call.caller


def note_items(count: int) -> None:
    """Record how many items the current call carries; outside a call, do nothing."""
    call = current_call.get()
    if call is not None:
        call.items = count


def take_share() -> Callable[[], None]:
    """Return the function that gives back the memory of the current call's last message.

    Without it, that memory is given back when the call ends or the handler reads the next message.
    A handler that works on several messages of a stream at once calls it for each. What it has not
    given back by then, the end of the call gives back.
    """
    call = current_call.get()
    if call is None or call.share is None:
        return _nothing
    share, call.share = call.share, None
    call.taken.add(share)
    return partial(_give_back, call, share)


def _give_back(call: Call, share: Share) -> None:
    call.taken.discard(share)
    share.release()


def _nothing() -> None: ...


def check_count(count: int, most: int, field: str) -> None:
    """Raise InvalidArgument unless `count` is 1 to `most`; `field` names the list."""
    if count == 0:
        raise InvalidArgument("BATCH_EMPTY", f"{field} is empty; send at least one", field=field)
    if count > most:
        raise InvalidArgument(
            "BATCH_TOO_LARGE",
            f"{count} {field} in one request, at most {most}; split it",
            field=field,
            limit=most,
        )


def time_to_answer(seconds: float) -> float:
    """Return what a server keeps of a caller's `seconds` to answer when they are over."""
    return min(_ANSWER_SHARE * seconds, _MOST_ANSWER_S)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float | None, *, default_s: float) -> Deadline:
        """Return the deadline of work on a call with `seconds` left, somewhat earlier.

        None or longer becomes the default.
        """
        if seconds is None:
            return cls.within(default_s)
        return cls.within(min(seconds - time_to_answer(seconds), default_s))

    @classmethod
    def within(cls, seconds: float) -> Deadline:
        """Return the deadline that is `seconds` away."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    def for_next_hop(self, stage: str) -> float:
        """Return the seconds that `stage` may take; raise DeadlineExceeded if none are left."""
        left = self.remaining() - _MARGIN_S
        if left <= 0:
            raise DeadlineExceeded(
                "OUT_OF_TIME", f"no time left for {stage}; use a longer deadline", stage=stage
            )
        return left


async def together(jobs: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Await all jobs; return their results in order.

    The first error cancels the others and is raised itself.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


async def next_or_stop(
    requests: AsyncIterator[_Request], stop: asyncio.Future[Any]
) -> tuple[_Request] | None:
    """Return the next request, in a tuple; None at the end, or once `stop` is done.

    Do not read from `requests` after None.
    """
    if stop.done():
        return None
    following: asyncio.Future[Any] = asyncio.ensure_future(anext(requests))
    try:
        await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
        return (following.result(),) if following.done() else None
    except StopAsyncIteration:
        return None
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
