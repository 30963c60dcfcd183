"""Cutting work into requests of a bounded size, and keeping a bounded number in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cut(
    things: Iterable[T], size: Callable[[T], int], *, max_items: int, max_bytes: int
) -> Iterator[list[T]]:
    """Yield runs of `things` of at most `max_items` and `max_bytes`; a larger one goes alone."""
    batch: list[T] = []
    batch_bytes = 0
    for thing in things:
        thing_bytes = size(thing)
        if batch and (len(batch) >= max_items or batch_bytes + thing_bytes > max_bytes):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(thing)
        batch_bytes += thing_bytes
    if batch:
        yield batch


async def gather_bounded(
    work: Callable[[T], Coroutine[Any, Any, R]], things: Sequence[T], limit: int
) -> list[R]:
    """Return `work` of each thing in order, at most `limit` at a time; the first error ends all."""
    slots = asyncio.Semaphore(limit)

    async def one(thing: T) -> R:
        async with slots:
            return await work(thing)

    tasks = [asyncio.create_task(one(thing)) for thing in things]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
