"""What one call in progress knows of itself, reachable from anywhere below its handler."""

from __future__ import annotations

import math
import random
from contextvars import ContextVar
from dataclasses import dataclass, field

REQUEST_ID_KEY = "x-request-id"


@dataclass(slots=True)
class Call:
    """One call, for its access line.

    Attributes:
        method: Full name, for example `/sentinel.search.v1.SearchService/Search`.
        request_id: The caller's `x-request-id`, or one made here; handed on to the next hop.
        items: Items in the request; the handler sets it.
        reason: ErrorReason of a failed call.
        started_at: On `perf_counter`'s clock.
        ends_at: When its caller stops waiting, on that clock; infinite if never.
        peer: Where the caller is.
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
