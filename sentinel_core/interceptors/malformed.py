"""Bytes that are no message of the method, or one nested too deep to be read.

grpc answers them with INTERNAL and a traceback in the log, as if the fault were ours. Here reading
them gives `MALFORMED`, and the handler's wrapper refuses the call like any other bad input.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import DecodeError

from sentinel_core.errors import InvalidArgument

MALFORMED = object()


def reading(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Return a deserializer that returns `MALFORMED` where `deserialize` fails."""
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return MALFORMED

    return read


def checked(request: Any) -> Any:
    """Return `request`.

    Raises:
        InvalidArgument: It could not be read.
    """
    if request is MALFORMED:
        raise InvalidArgument(
            "REQUEST_MALFORMED",
            "the request is not a message of this method, or is nested more than 100 deep; "
            "compare the client's stubs with the server's protos",
        )
    return request


async def each_checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the requests of a stream.

    Raises:
        InvalidArgument: One of them could not be read.
    """
    async for request in requests:
        yield checked(request)
