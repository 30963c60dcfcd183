"""Track one call: access-line fields, deadline, request stream; refuse lists of a wrong size.

`current_call` reaches the call in progress from anywhere below its handler.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sentinel_core.errors import DeadlineExceeded, InvalidArgument

REQUEST_ID_KEY = "x-request-id"
# What a hop keeps for itself, to answer with its own error instead of being cut off.
_MARGIN_S = 0.02

_Request = TypeVar("_Request")


@dataclass(slots=True)
class Call:
    """One call, for its access line.

    Attributes:
        method: Full name, for example `/sentinel.search.v1.SearchService/Search`.
        request_id: The caller's `x-request-id`, or a random one; sent to the next hop.
        items: Items in the request; the handler sets it.
        reason: ErrorReason of a failed call.
        started_at: On `perf_counter`'s clock.
        ends_at: When its caller stops waiting, on that clock; infinite if never.
        peer: Address of the caller.
    """

    method: str
    request_id: str = field(default_factory=lambda: f"{random.getrandbits(128):032x}")
    items: int = 1
    reason: str = ""
    started_at: float = 0.0
    ends_at: float = math.inf
    peer: str = ""


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def note_items(count: int) -> None:
    """Record how many items the current call carries; outside a call, do nothing."""
    call = current_call.get()
    if call is not None:
        call.items = count


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


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float | None, *, default_s: float) -> Deadline:
        """Return the deadline of a call with `seconds` left; None or longer becomes the default."""
        return cls.within(default_s if seconds is None else min(seconds, default_s))

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
