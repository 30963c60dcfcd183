"""How large responses may be: small enough for the default limit of every gRPC client.

That limit is 4 MiB. Lists, pages and streams are cut before they reach ours. A response that cannot
be cut is refused with a reason; gRPC itself would end the call without one. Callers that receive
more say so in the metadata of a call.
"""

from __future__ import annotations

from sentinel_core.calls import MAX_RESPONSE_BYTES, Call, current_call
from sentinel_core.errors import InvalidArgument, ResourceExhausted

MAX_RESPONSE_KEY = "x-max-response-bytes"
# What a response has besides its rows: names, timings, and the longest page token.
_REST_BYTES = 128 * 1024


def max_response_bytes() -> int:
    """Return the most bytes that a response of the current call may have."""
    call = current_call.get()
    return MAX_RESPONSE_BYTES if call is None else call.max_response_bytes


def room_for_rows() -> int:
    """Return the bytes that the rows of a response may have in the current call."""
    return max_response_bytes() - _REST_BYTES


def allow_what_it_asks(call: Call, largest: int) -> int:
    """Let the responses of `call` be as large as it asks, at most `largest`.

    Returns by how many bytes they may exceed the default.

    Raises:
        InvalidArgument: PARAMETER_OUT_OF_RANGE: it asks for something that is no number.
    """
    asked = call.asks_for_bytes
    if not (asked.isascii() and asked.isdigit() and len(asked) < 20):
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"{MAX_RESPONSE_KEY}: send a whole number of bytes, not {asked[:100]!r}",
            field=MAX_RESPONSE_KEY,
        )
    call.max_response_bytes = max(MAX_RESPONSE_BYTES, min(int(asked), largest))
    return call.max_response_bytes - MAX_RESPONSE_BYTES


def too_large(size: int, most: int) -> ResourceExhausted:
    """Return the error of a response that has more than `most` bytes."""
    return ResourceExhausted(
        "RESPONSE_TOO_LARGE",
        f"the response has {size} bytes, and there is room for {most}; request less at once, or "
        f"raise the receive limit of your client and send it as {MAX_RESPONSE_KEY}",
        size=size,
        limit=most,
    )
