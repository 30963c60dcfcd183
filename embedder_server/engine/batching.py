"""Which waiting contents run together, and which of them run next. Pure: no clock, no thread.

A queue holds one modality. A batch always contains the entry that has waited longest in its
priority class, so nothing starves; the rest of it are the entries nearest in length to that one,
so little is computed on padding.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedder_server.types import FloatArray, Priority
from sentinel_core.errors import SentinelError

# Texts of one batch: the longest has at most twice the tokens of the shortest, plus this. On any
# device one more call costs about as much as that much padding.
_PADDING_RATIO = 2
_PADDING_SLACK = 32
# How far behind the oldest entry a batch looks for others of like length, in batches. Keeps the
# choice below 0.1 ms however long the queue is.
_WINDOW = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one batch.

    Attributes:
        max_items: Most entries.
        max_cost: Most `longest entry x number of entries`.
        eager_items: A batch of more leaves at least as many waiting as it takes, so that the
            device has those while the callers of this one read their answers and ask again.
    """

    max_items: int
    max_cost: int
    eager_items: int

    def items_of(self, waiting: int) -> int:
        """Return how many of those that wait may run together."""
        return min(self.max_items, max(self.eager_items, waiting // 2))


@dataclass(slots=True)
class Embedded:
    """What the device made of one entry.

    Attributes:
        vector: Float32, of length 1; or why there is none.
        norm: The length it had as the model made it.
        queue_s: Seconds from queueing to the start of the forward pass.
        inference_s: Seconds of the forward pass.
        batch_size: Entries in that pass.
    """

    vector: FloatArray | SentinelError
    norm: float = 1.0
    queue_s: float = 0.0
    inference_s: float = 0.0
    batch_size: int = 0


class Submission:
    """Entries that one caller waits for together, with one future between them.

    Attributes:
        entries: In the order they were given.
        future: Done when the last entry is answered. Cancelled means that the caller left.
    """

    __slots__ = ("_left", "entries", "future")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future
        self.entries: list[Entry] = []
        self._left = 0

    def add(self, payload: Any, length: int, queued_at: float, deadline_at: float) -> None:
        """Append an entry; only before the submission is queued."""
        self.entries.append(Entry(payload, length, queued_at, deadline_at, self))
        self._left += 1

    def answer(self, entry: Entry, embedded: Embedded) -> None:
        """Note an entry's answer; only in the event loop."""
        entry.embedded = embedded
        self._left -= 1
        if self._left == 0 and not self.future.done():
            self.future.set_result(None)

    async def results(self) -> list[Embedded]:
        """Wait for all answers; cancelled, what has not begun costs no compute."""
        await self.future
        return [entry.embedded for entry in self.entries if entry.embedded is not None]


@dataclass(slots=True, eq=False)
class Entry:
    """One prepared content that waits for the device.

    Attributes:
        payload: What the model's tower takes.
        length: Tokens of a text; 1 for an image.
        queued_at: When it came, on the monotonic clock.
        deadline_at: When an answer is no longer of use, on the same clock.
        submission: Who waits for it.
        running: Whether it has been taken to the device.
        embedded: The answer, once it is there.
    """

    payload: Any
    length: int
    queued_at: float
    deadline_at: float
    submission: Submission
    running: bool = False
    embedded: Embedded | None = None


@dataclass(slots=True)
class Taken:
    """A batch, and the entries that were dropped on the way to it."""

    batch: list[Entry] = field(default_factory=list)
    caller_left: list[Entry] = field(default_factory=list)
    expired: list[Entry] = field(default_factory=list)


class BatchQueue:
    """Entries of one modality, in order of arrival within each priority class."""

    def __init__(self, budgets: Mapping[Priority, Budget]) -> None:
        self._budgets = dict(budgets)
        self._waiting: dict[Priority, deque[Entry]] = {priority: deque() for priority in Priority}

    def put(self, priority: Priority, entries: Iterable[Entry]) -> None:
        """Append entries."""
        self._waiting[priority].extend(entries)

    def oldest(self, priority: Priority) -> float | None:
        """Return when the entry that has waited longest came, or None."""
        waiting = self._waiting[priority]
        return waiting[0].queued_at if waiting else None

    def take(self, priority: Priority, now: float) -> Taken:
        """Remove and return the next batch; it is empty if nobody waits for anything any more."""
        waiting, budget = self._waiting[priority], self._budgets[priority]
        taken = Taken()
        alive: list[Entry] = []
        while waiting and len(alive) < _WINDOW * budget.max_items:
            entry = waiting.popleft()
            if entry.submission.future.cancelled():
                taken.caller_left.append(entry)
            elif entry.deadline_at <= now:
                taken.expired.append(entry)
            else:
                alive.append(entry)
        if alive:
            items = budget.items_of(len(alive) + len(waiting))
            taken.batch = _choose(alive, items, budget.max_cost)
            for entry in taken.batch:
                entry.running = True
            waiting.extendleft(entry for entry in reversed(alive) if not entry.running)
        return taken

    def clear(self) -> list[Entry]:
        """Remove and return everything."""
        entries = [entry for waiting in self._waiting.values() for entry in waiting]
        for waiting in self._waiting.values():
            waiting.clear()
        return entries


def _choose(alive: list[Entry], max_items: int, max_cost: int) -> list[Entry]:
    """Return the first entry and those nearest to it in length that fit into a batch with it."""
    first = alive[0]
    batch = [first]
    shortest = longest = first.length
    # Stable, so that among equals the older one goes first.
    for entry in sorted(alive[1:], key=lambda entry: abs(entry.length - first.length)):
        if len(batch) >= max_items:
            break
        low, high = min(shortest, entry.length), max(longest, entry.length)
        fits = high * (len(batch) + 1) <= max_cost
        if fits and high <= _PADDING_RATIO * low + _PADDING_SLACK:
            batch.append(entry)
            shortest, longest = low, high
    return batch


def next_queue(queues: Mapping[Any, BatchQueue]) -> tuple[Any, Priority] | None:
    """Return the key of the queue that runs next and the class to take from it.

    Interactive before bulk, whatever the modality; within a class, who has waited longest.
    """
    for priority in Priority:
        waiting = [
            (since, key)
            for key, queue in queues.items()
            if (since := queue.oldest(priority)) is not None
        ]
        if waiting:
            return min(waiting)[1], priority
    return None
