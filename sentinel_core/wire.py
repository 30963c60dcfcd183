"""Count the parts of a message in its bytes, before they are parsed.

Two bytes of a request can become a hundred bytes of memory: an empty message in a repeated field.
So a message of 64 MB could take gigabytes and seconds to parse. Counting is a walk over the fields,
as deep as the method's messages go. Texts, image bytes and vectors are one step each.
"""

from __future__ import annotations

from functools import cached_property

from google.protobuf.descriptor import Descriptor

# Up to this size, parsing costs a few megabytes and milliseconds at most, whatever the bytes are.
SMALL_BYTES = 64 * 1024

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class MessagePlan:
    """Which fields of a message hold messages, and of which type; made level by level on demand."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor

    @cached_property
    def inner(self) -> dict[int, MessagePlan]:
        """Plans of the messages inside, by field number; entries of maps are messages, too."""
        return {
            field.number: MessagePlan(field.message_type)
            for field in self._descriptor.fields
            if field.message_type is not None
        }


def has_more_parts(data: bytes, plan: MessagePlan, most: int) -> bool:
    """Tell whether a message has more than `most` fields and elements, messages inside included.

    Stops where the bytes are not a message; parsing will say so.
    """
    # The messages that the walk is inside of: where each ends, and the messages in its fields.
    outer: list[tuple[int, dict[int, MessagePlan]]] = []
    at, end, inner = 0, len(data), plan.inner
    for _ in range(most + 1):
        while at >= end:
            if at > end or not outer:
                return False
            end, inner = outer.pop()
        tag, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at, end)
        kind = tag & 7
        if kind == _LENGTH and at < end:
            length, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at, end)
            found = inner.get(tag >> 3)
            if found is None or at + length > end:
                at += length
            else:
                outer.append((end, inner))
                end, inner = at + length, found.inner
        elif kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind == _FIXED32:
            at += 4
        elif kind == _FIXED64:
            at += 8
        # Else the start or end of a group, which is no more than its tag.
    return True


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number at `at` and where it ends; past `end` if it is cut off."""
    number = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    return 0, end + 1
