"""Work on any number of values: read them in chunks, a few batches at once, results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from sentinel_client._processes import in_thread

T = TypeVar("T")
R = TypeVar("R")


async def chunks(
    source: Iterable[T] | AsyncIterable[T], most: int
) -> AsyncGenerator[list[T], None]:
    """Yield the values in lists of at most `most`; then raise what reading them raised.

    A plain iterable is read in a worker thread.
    """
    if isinstance(source, AsyncIterable):
        values = aiter(source)
        while True:
            pulled, error = await _pull_async(values, most)
            if pulled:
                yield pulled
            if error is not None:
                raise error
            if len(pulled) < most:
                return
    iterator = iter(source)
    while True:
        # One switch to a thread for many values, because each has a cost.
        pulled, error = await in_thread(partial(_pull, iterator, most))
        if pulled:
            yield pulled
        if error is not None:
            raise error
        if len(pulled) < most:
            return


async def in_order(
    work: Callable[[T], Coroutine[Any, Any, R]], batches: AsyncGenerator[T, None], limit: int
) -> AsyncGenerator[R, None]:
    """Yield `work(batch)` for each batch, in order; at most `limit` at once, and one is read ahead.

    A result that is there is yielded even while the next batch is still read. An error of `batches`
    is raised after the results of what they yielded before it.
    """
    running: deque[asyncio.Task[R]] = deque()
    reading: asyncio.Task[list[T]] | None = asyncio.create_task(_next(batches))
    failure: BaseException | None = None
    try:
        while running or reading is not None:
            awaited: set[asyncio.Task[Any]] = {running[0]} if running else set()
            if reading is not None and len(running) < limit:
                awaited.add(reading)
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if running and running[0].done():
                yield running.popleft().result()
            elif reading is not None and reading.done():
                failure = reading.exception()
                found = [] if failure is not None else reading.result()
                reading = None
                if found:
                    running.append(asyncio.create_task(work(found[0])))
                    reading = asyncio.create_task(_next(batches))
        if failure is not None:
            raise failure
    finally:
        left: list[asyncio.Task[Any]] = [*running, *([] if reading is None else [reading])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await batches.aclose()


async def _next(batches: AsyncGenerator[T, None]) -> list[T]:
    """Return the next batch, in a list; an empty one at the end."""
    async for batch in batches:
        return [batch]
    return []


def _pull(iterator: Iterator[T], most: int) -> tuple[list[T], Exception | None]:
    """Read up to `most` values; return them, and the error that ended the reading."""
    pulled: list[T] = []
    try:
        pulled.extend(islice(iterator, most))
    except Exception as error:
        return pulled, error
    return pulled, None


async def _pull_async(values: AsyncIterator[T], most: int) -> tuple[list[T], Exception | None]:
    pulled: list[T] = []
    try:
        while len(pulled) < most:
            pulled.append(await anext(values))
    except StopAsyncIteration:
        return pulled, None
    except Exception as error:
        return pulled, error
    return pulled, None
