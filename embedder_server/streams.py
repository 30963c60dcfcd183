"""Answers the messages of one stream concurrently, and reads no faster than it answers.

Knows neither grpc nor protobuf.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from sentinel_core.streams import next_or_stop

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class StreamPump(Generic[_Request, _Response]):
    """One stream's way from its requests to its responses, in the order they are done.

    A message counts from before it is begun until its response is taken, so that neither
    requests nor responses pile up, whichever side is slow. Use it once, inside one event loop.

    Args:
        answer: Makes the response to one request. It must not raise: what a message can fail
            with belongs into its response; anything else ends the stream.
        weigh: Size of a request, in items; it counts as 1 at least.
        max_items: Most items in work. A larger message goes alone.
        stopping: Once set, nothing more is read; what was read is answered.
    """

    def __init__(
        self,
        answer: Callable[[_Request], Awaitable[_Response]],
        weigh: Callable[[_Request], int],
        max_items: int,
        stopping: asyncio.Event,
    ) -> None:
        self._answer = answer
        self._weigh = weigh
        self._max_items = max_items
        self._stopping = stopping
        self._items = 0
        self._room = asyncio.Event()
        # Bounded by `max_items`, since each of its elements still counts.
        self._done: asyncio.Queue[tuple[_Response, int] | None] = asyncio.Queue()

    async def run(self, requests: AsyncIterator[_Request]) -> AsyncGenerator[_Response]:
        """Yield a response for every request; end after the last one.

        Raises:
            Exception: What reading, or `answer`, raised; as it is.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            while (done := await self._done.get()) is not None:
                response, items = done
                yield response
                # Here the response has been sent: gRPC asks for the next one only then.
                self._items -= items
                self._room.set()
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[_Request]) -> None:
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        try:
            async with asyncio.TaskGroup() as group:
                while (read := await next_or_stop(requests, stop)) is not None:
                    [request] = read
                    items = max(1, self._weigh(request))
                    await self._until_room(items)
                    self._items += items
                    group.create_task(self._work(request, items))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            stop.cancel()
            self._done.put_nowait(None)

    async def _until_room(self, items: int) -> None:
        while self._items and self._items + items > self._max_items:
            self._room.clear()
            await self._room.wait()

    async def _work(self, request: _Request, items: int) -> None:
        self._done.put_nowait((await self._answer(request), items))
