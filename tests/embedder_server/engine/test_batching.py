"""The choice of batches: pure, without thread, model or clock."""

from __future__ import annotations

import asyncio

import pytest

from embedder_server.engine.batching import BatchQueue, Budget, WorkGroup, WorkItem, next_queue
from embedder_server.types import Modality, Priority

NOW = 1000.0


def make_queue(
    max_items: int = 4, max_cost: int = 100, bulk_items: int = 2, eager_items: int | None = None
) -> BatchQueue:
    eager = max_items if eager_items is None else eager_items
    return BatchQueue(
        {
            Priority.INTERACTIVE: Budget(max_items, max_cost, eager),
            Priority.BULK: Budget(bulk_items, max_cost, bulk_items),
        }
    )


def item(length: int = 1, *, queued_at: float = NOW, deadline_at: float = NOW + 60) -> WorkItem:
    [item] = WorkGroup([(object(), length)], asyncio.Future(), queued_at, deadline_at).items
    return item


def take(queue: BatchQueue, priority: Priority = Priority.INTERACTIVE) -> list[int]:
    return [one.length for one in queue.take(priority, NOW).items]


@pytest.fixture(autouse=True)
async def _loop() -> None:
    """Futures need a running loop."""


async def test_an_empty_queue_gives_an_empty_batch() -> None:
    queue = make_queue()
    assert queue.oldest(Priority.INTERACTIVE) is None
    assert take(queue) == []
    assert next_queue({Modality.TEXT: queue}) is None


async def test_takes_what_is_there_up_to_the_item_budget_in_order_of_arrival() -> None:
    queue = make_queue(max_items=4)
    items = [item() for _ in range(6)]
    queue.put(Priority.INTERACTIVE, items)
    assert queue.take(Priority.INTERACTIVE, NOW).items == items[:4]
    assert queue.take(Priority.INTERACTIVE, NOW).items == items[4:]
    assert queue.clear() == []


async def test_a_batch_beyond_the_eager_size_leaves_as_many_waiting_as_it_takes() -> None:
    queue = make_queue(max_items=8, eager_items=2)
    queue.put(Priority.INTERACTIVE, [item() for _ in range(30)])
    assert [len(take(queue)) for _ in range(8)] == [8, 8, 7, 3, 2, 2, 0, 0]


async def test_cost_counts_padding() -> None:
    queue = make_queue(max_items=9, max_cost=100)
    queue.put(Priority.INTERACTIVE, [item(n) for n in (30, 40, 30, 30)])
    assert take(queue) == [30, 30, 30]  # with the 40 it would be 160
    assert take(queue) == [40]


async def test_an_item_above_the_budget_runs_alone() -> None:
    queue = make_queue(max_cost=100)
    queue.put(Priority.INTERACTIVE, [item(500), item(500)])
    assert take(queue) == [500]
    assert take(queue) == [500]


async def test_like_lengths_run_together() -> None:
    queue = make_queue(max_items=3, max_cost=10_000)
    queue.put(Priority.INTERACTIVE, [item(n) for n in (5, 200, 6, 210, 7, 190)])
    assert take(queue) == [5, 6, 7]
    assert take(queue) == [200, 210, 190]


async def test_very_different_lengths_do_not_share_a_batch_even_if_there_is_room() -> None:
    queue = make_queue(max_items=9, max_cost=10_000)
    queue.put(Priority.INTERACTIVE, [item(5), item(250)])
    assert take(queue) == [5]
    assert take(queue) == [250]


async def test_the_oldest_always_goes_however_many_of_another_length_arrive() -> None:
    queue = make_queue(max_items=2, max_cost=10_000)
    queue.put(Priority.INTERACTIVE, [item(5), item(250), *(item(5) for _ in range(50))])
    take(queue)
    queue.put(Priority.INTERACTIVE, [item(5) for _ in range(50)])
    assert take(queue) == [250]


async def test_order_of_arrival_survives_a_choice() -> None:
    queue = make_queue(max_items=1, max_cost=10_000)
    queue.put(Priority.INTERACTIVE, [item(n) for n in (9, 1, 5, 3)])
    assert [take(queue) for _ in range(4)] == [[9], [1], [5], [3]]


async def test_bulk_has_its_own_smaller_budget_and_never_mixes_with_interactive() -> None:
    queue = make_queue(max_items=4, bulk_items=2)
    queue.put(Priority.BULK, [item(1), item(1), item(1)])
    queue.put(Priority.INTERACTIVE, [item(2)])
    assert take(queue) == [2]
    assert take(queue, Priority.BULK) == [1, 1]
    assert take(queue, Priority.BULK) == [1]


async def test_who_left_and_who_is_late_is_dropped_and_told_apart() -> None:
    queue = make_queue()
    left, late, good = item(), item(deadline_at=NOW), item()
    left.group.future.cancel()
    queue.put(Priority.INTERACTIVE, [left, late, good])
    taken = queue.take(Priority.INTERACTIVE, NOW)
    assert (taken.items, taken.caller_left, taken.expired) == ([good], [left], [late])
    assert (good.running, late.running) == (True, False)


async def test_interactive_of_any_modality_runs_before_bulk() -> None:
    queues = {Modality.TEXT: make_queue(), Modality.IMAGE: make_queue()}
    queues[Modality.IMAGE].put(Priority.BULK, [item(queued_at=NOW - 50)])
    assert next_queue(queues) == (Modality.IMAGE, Priority.BULK)
    queues[Modality.TEXT].put(Priority.INTERACTIVE, [item(queued_at=NOW)])
    assert next_queue(queues) == (Modality.TEXT, Priority.INTERACTIVE)


async def test_within_a_class_the_longest_wait_decides() -> None:
    queues = {Modality.TEXT: make_queue(), Modality.IMAGE: make_queue()}
    queues[Modality.TEXT].put(Priority.INTERACTIVE, [item(queued_at=NOW)])
    queues[Modality.IMAGE].put(Priority.INTERACTIVE, [item(queued_at=NOW - 1)])
    assert next_queue(queues) == (Modality.IMAGE, Priority.INTERACTIVE)


async def test_clear_returns_everything() -> None:
    queue = make_queue()
    queue.put(Priority.INTERACTIVE, [item()])
    queue.put(Priority.BULK, [item()])
    assert len(queue.clear()) == 2
    assert queue.clear() == []
