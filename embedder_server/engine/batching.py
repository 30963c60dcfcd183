"""Choose which waiting contents run together, and which of them run next.

Pure: no clock, no thread. A queue holds one modality. A batch always contains the item that has
waited longest in its priority class, so nothing starves. The rest are the items nearest to that
one in length, so little is computed on padding.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedder_server.types import FloatArray, Priority
from sentinel_core.errors import SentinelError

# The longest text of a batch has at most twice the tokens of the shortest, plus this. On any
# device, one more call costs about as much as that much padding.
_PADDING_RATIO = 2
_PADDING_SLACK = 32
# How many batches behind the oldest item to look for others of similar length. Keeps the choice
# below 0.1 ms however long the queue is.
_WINDOW = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one batch."""

    max_items: int
    max_cost: int  # most `longest item x number of items`
    # A larger batch leaves at least as many items waiting as it takes. The device works on those
    # while the callers of this batch read their answers and send more.
    eager_items: int

    def items_of(self, waiting: int) -> int:
        """Return how many of `waiting` items may run together."""
        return min(self.max_items, max(self.eager_items, waiting // 2))


@dataclass(slots=True)
class DeviceResult:
    """What the device computed for one item: float32, of length 1, or why there is none."""

    vector: FloatArray | SentinelError
    norm: float = 1.0  # the vector's length as the model made it
    queue_s: float = 0.0  # from queueing to the start of the forward pass
    inference_s: float = 0.0
    batch_size: int = 0


class WorkGroup:
    """Items that one caller waits for together.

    Args:
        payloads: The network's input for each item, and its length as in `WorkItem`.
        future: Set when the last item has its result. Cancelled: the caller left.
        queued_at: On the monotonic clock.
        deadline_at: When a result is no longer useful, on the same clock.

    Attributes:
        items: In the order of the payloads.
    """

    __slots__ = ("_left", "deadline_at", "future", "items", "queued_at")

    def __init__(
        self,
        payloads: Sequence[tuple[Any, int]],
        future: asyncio.Future[None],
        queued_at: float,
        deadline_at: float,
    ) -> None:
        self.future = future
        self.queued_at = queued_at
        self.deadline_at = deadline_at
        self.items = [WorkItem(payload, length, self) for payload, length in payloads]
        self._left = len(self.items)

    def finish(self, item: WorkItem, result: DeviceResult) -> None:
        """Store an item's result. Call it in the event loop."""
        item.result = result
        self._left -= 1
        if self._left == 0 and not self.future.done():
            self.future.set_result(None)

    async def results(self) -> list[DeviceResult]:
        """Wait for all results. If cancelled, items that have not started cost no compute."""
        await self.future
        return [item.result for item in self.items if item.result is not None]


@dataclass(slots=True, eq=False)
class WorkItem:
    """One prepared content that waits for the device."""

    payload: Any  # the network's input
    length: int  # tokens of a text; 1 for an image
    group: WorkGroup
    running: bool = False  # taken to the device
    result: DeviceResult | None = None  # set by `WorkGroup.finish`


@dataclass(slots=True)
class NextBatch:
    """A batch, and the items that were dropped while it was chosen."""

    items: list[WorkItem] = field(default_factory=list)
    caller_left: list[WorkItem] = field(default_factory=list)
    expired: list[WorkItem] = field(default_factory=list)


class BatchQueue:
    """Items of one modality, in order of arrival within each priority class."""

    def __init__(self, budgets: Mapping[Priority, Budget]) -> None:
        self._budgets = dict(budgets)
        self._waiting: dict[Priority, deque[WorkItem]] = {
            priority: deque() for priority in Priority
        }

    def put(self, priority: Priority, items: Iterable[WorkItem]) -> None:
        """Append items."""
        self._waiting[priority].extend(items)

    def oldest(self, priority: Priority) -> float | None:
        """Return when the item that has waited longest was queued, or None."""
        waiting = self._waiting[priority]
        return waiting[0].group.queued_at if waiting else None

    def take(self, priority: Priority, now: float) -> NextBatch:
        """Remove and return the next batch. It is empty if no caller waits any more."""
        waiting, budget = self._waiting[priority], self._budgets[priority]
        batch = NextBatch()
        alive: list[WorkItem] = []
        while waiting and len(alive) < _WINDOW * budget.max_items:
            item = waiting.popleft()
            if item.group.future.cancelled():
                batch.caller_left.append(item)
            elif item.group.deadline_at <= now:
                batch.expired.append(item)
            else:
                alive.append(item)
        if alive:
            count = budget.items_of(len(alive) + len(waiting))
            batch.items = _choose(alive, count, budget.max_cost)
            for item in batch.items:
                item.running = True
            waiting.extendleft(item for item in reversed(alive) if not item.running)
        return batch

    def clear(self) -> list[WorkItem]:
        """Remove and return everything."""
        items = [item for waiting in self._waiting.values() for item in waiting]
        for waiting in self._waiting.values():
            waiting.clear()
        return items


def _choose(alive: list[WorkItem], max_items: int, max_cost: int) -> list[WorkItem]:
    """Return the first item and those nearest to it in length that fit into a batch with it."""
    first = alive[0]
    batch = [first]
    shortest = longest = first.length
    # Stable, so that among equals the older one comes first.
    for item in sorted(alive[1:], key=lambda item: abs(item.length - first.length)):
        if len(batch) >= max_items:
            break
        low, high = min(shortest, item.length), max(longest, item.length)
        fits = high * (len(batch) + 1) <= max_cost
        if fits and high <= _PADDING_RATIO * low + _PADDING_SLACK:
            batch.append(item)
            shortest, longest = low, high
    return batch


def next_queue(queues: Mapping[Any, BatchQueue]) -> tuple[Any, Priority] | None:
    """Return the key of the queue that runs next and the priority class to take from it.

    Interactive runs before bulk, whatever the modality. Within a class, the longest wait decides.
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
