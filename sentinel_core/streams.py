"""Reading a stream of requests that may have to stop before its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

_Request = TypeVar("_Request")


async def next_or_stop(
    requests: AsyncIterator[_Request], stop: asyncio.Future[Any]
) -> tuple[_Request] | None:
    """Return the next request, in a tuple; None at the end, or once `stop` is done.

    After None nothing can be read from `requests` any more.
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
