"""What the fake sends back beside its answers, and how large an answer may be."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from sentinel_client._errors import InvalidArgument, ResourceExhausted

REQUEST_ID_KEY = "x-request-id"
_MAX_RESPONSE_KEY = "x-max-response-bytes"
_MAX_RESPONSE_BYTES = 3_670_016
_MAX_ASKED_BYTES = 64 * 1024 * 1024
# What a response has besides its rows: names, durations, and the longest page token.
_REST_BYTES = 128 * 1024
_TAG_BYTES = 8  # tag and length of a row
_MAX_REQUEST_ID = 128

_Row = TypeVar("_Row", bound=Message)


def request_id(context: grpc.ServicerContext) -> str:
    """Return the id that the caller chose for this call, or a new one."""
    given = _sent(context, REQUEST_ID_KEY)
    usable = given.isprintable() and given.isascii()
    return given[:_MAX_REQUEST_ID] if given and usable else uuid.uuid4().hex


def max_bytes(context: grpc.ServicerContext) -> int:
    """Return the most bytes that a response may have: 3.5 MiB, or what the caller asks for."""
    asked = _sent(context, _MAX_RESPONSE_KEY)
    if not asked:
        return _MAX_RESPONSE_BYTES
    if not (asked.isascii() and asked.isdigit() and len(asked) < 20):
        raise InvalidArgument(
            "PARAMETER_OUT_OF_RANGE",
            f"{_MAX_RESPONSE_KEY}: send a whole number of bytes, not {asked[:100]!r}",
            field=_MAX_RESPONSE_KEY,
        )
    return max(_MAX_RESPONSE_BYTES, min(int(asked), _MAX_ASKED_BYTES))


def room_for_rows(context: grpc.ServicerContext) -> int:
    """Return the bytes that the rows of a response may have."""
    return max_bytes(context) - _REST_BYTES


def fitting(rows: Iterable[_Row], room: int) -> list[_Row]:
    """Return the first rows that have `room` bytes together, but at least one."""
    taken: list[_Row] = []
    for row in rows:
        room -= row.ByteSize() + _TAG_BYTES
        if room < 0 and taken:
            break
        taken.append(row)
    return taken


def check_size(response: Message, most: int) -> None:
    """Raise ResourceExhausted if a response has more than `most` bytes."""
    size = response.ByteSize()
    if size > most:
        raise ResourceExhausted(
            "RESPONSE_TOO_LARGE",
            f"the response has {size} bytes, and there is room for {most}; request less at once, "
            f"or raise the receive limit of your client and send it as {_MAX_RESPONSE_KEY}",
            metadata={"size": str(size), "limit": str(most)},
        )


def _sent(context: grpc.ServicerContext, key: str) -> str:
    """Return the last text that the caller sent under a key; empty if there is none."""
    found = ""
    for name, value in context.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            found = value
    return found
