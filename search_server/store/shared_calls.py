"""Several searches by one Milvus call, where they differ in nothing but the vector.

A call costs Milvus and us more than a vector in it: 32 callers at once get about twice as many
answers so (docs/adr/0014). A search that finds few others under way has a call of its own, at
once; only one that would be one too many waits, until a call ends, and takes all that wait along.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from search_server.store import milvus_errors
from search_server.types.values import FloatArray
from sentinel_core.deadlines import Deadline
from sentinel_core.errors import SentinelError

# Calls that are alike and under way at the same time; further searches share the next one.
_AT_ONCE = 2

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(eq=False, slots=True)
class _Waiting(Generic[R]):
    """A search that has no call yet, or shares one."""

    vector: FloatArray
    deadline: Deadline
    answer: asyncio.Future[R]


@dataclass(slots=True)
class _Line(Generic[R]):
    """The searches that are alike."""

    most: int
    under_way: int = 0
    waiting: deque[_Waiting[R]] = field(default_factory=deque)


class SharedCalls(Generic[K, R]):
    """Use from one event loop.

    Args:
        call: Searches for several vectors; returns one answer for each, in order.
    """

    def __init__(
        self, call: Callable[[K, list[FloatArray], Deadline], Awaitable[Sequence[R]]]
    ) -> None:
        self._call = call
        self._lines: dict[K, _Line[R]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def search(self, key: K, vector: FloatArray, deadline: Deadline, *, most: int) -> R:
        """Return the answer to one search.

        Args:
            key: What it must have in common with others to share a call.
            vector: The query's.
            deadline: When its answer is of no use any more.
            most: Vectors that a call of this key may have.

        Raises:
            SentinelError: As `call` raises it; DeadlineExceeded, too, if the time is over sooner.
        """
        line = self._lines.setdefault(key, _Line(most))
        if line.under_way >= _AT_ONCE:
            return await _share(line, vector, deadline)
        line.under_way += 1
        try:
            [answer] = await self._call(key, [vector], deadline)
        finally:
            self._end(key, line)
        return answer

    def _end(self, key: K, line: _Line[R]) -> None:
        """Let the searches that wait have the place of a call that has ended."""
        line.under_way -= 1
        while line.waiting and line.under_way < _AT_ONCE:
            together: list[_Waiting[R]] = []
            while line.waiting and len(together) < line.most:
                waiting = line.waiting.popleft()
                if not waiting.answer.done():
                    together.append(waiting)
            if together:
                line.under_way += 1
                self._begin(key, line, together)
        if not line.under_way:
            self._lines.pop(key, None)

    def _begin(self, key: K, line: _Line[R], together: Sequence[_Waiting[R]]) -> None:
        task = asyncio.create_task(self._run(key, together))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:  # even if it was cancelled before it began
            self._tasks.discard(task)
            self._end(key, line)

        task.add_done_callback(ended)
        _cancel_when_all_leave(task, together)

    async def _run(self, key: K, together: Sequence[_Waiting[R]]) -> None:
        latest = max((one.deadline for one in together), key=lambda deadline: deadline.at)
        try:
            answers = await self._call(key, [one.vector for one in together], latest)
            pairs = list(zip(together, answers, strict=True))
        except Exception as error:
            for one in together:
                if not one.answer.done():
                    one.answer.set_exception(error)
        else:
            for one, answer in pairs:
                if not one.answer.done():
                    one.answer.set_result(answer)


async def _share(line: _Line[R], vector: FloatArray, deadline: Deadline) -> R:
    patience = deadline.for_next_hop("milvus")
    answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    line.waiting.append(_Waiting(vector, deadline, answer))
    try:
        async with asyncio.timeout(patience):
            return await answer  # cancelled with us, which says that nobody waits for it
    except TimeoutError as error:
        raise milvus_errors.out_of_time() from error
    except SentinelError as error:
        raise error.at(error.field) from error  # each caller its own


def _cancel_when_all_leave(task: asyncio.Task[None], together: Sequence[_Waiting[R]]) -> None:
    left = len(together)

    def done(answer: asyncio.Future[R]) -> None:
        nonlocal left
        left -= 1
        if not left and answer.cancelled():
            task.cancel()  # nothing where it has ended, as it has unless all of them were cancelled

    for one in together:
        one.answer.add_done_callback(done)
