"""Threads for CPU work that must not run on the event loop, interactive work first."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from embedder_server.types import Priority

_Result = TypeVar("_Result")
_Job = tuple[int, int, Callable[[], Any] | None, asyncio.Future[Any] | None]

_STOP = len(Priority)  # sorts behind all work


class WorkerPool:
    """A thread pool whose queue is ordered by priority, then by arrival.

    Unlike `ThreadPoolExecutor` its threads are daemons: work that never returns cannot keep the
    process from ending. Make and use it inside one event loop.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._order = itertools.count()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, priority: Priority, work: Callable[[], _Result]) -> _Result:
        """Return what `work` returns; cancelled before it begins, it never runs."""
        future: asyncio.Future[_Result] = self._loop.create_future()
        self._jobs.put((priority, next(self._order), work, future))
        return await future

    def close(self) -> None:
        """Let the threads end once the queue is empty; wait for none of them."""
        for _ in self._threads:
            self._jobs.put((_STOP, next(self._order), None, None))

    def _work(self) -> None:
        while True:
            _, _, work, future = self._jobs.get()
            if work is None or future is None:
                return
            if not future.cancelled() and not self._settle(future, work):
                return
            # Held while waiting for work, they would keep decoded images alive.
            del work, future

    def _settle(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> bool:
        """Run `work` and hand over what came of it; False once the event loop is closed."""
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        try:
            self._loop.call_soon_threadsafe(_set, future, result, error)
        except RuntimeError:
            return False
        return True


def _set(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
