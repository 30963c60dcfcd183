"""The memory budget: shares wait, in order, and never hold more than the limit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sentinel_core.calls import Deadline
from sentinel_core.errors import ResourceExhausted
from sentinel_core.memory import MemoryBudget, default_limit
from sentinel_core.metrics import ServerMetrics
from tests.waiting import eventually

LIMIT = 6400  # a share of more than 100 is large, and large ones have 4800


def new_budget() -> tuple[MemoryBudget, CollectorRegistry]:
    registry = CollectorRegistry()
    return MemoryBudget(LIMIT, ServerMetrics("gateway", registry)), registry


def soon() -> Deadline:
    return Deadline.within(0.05)


def late() -> Deadline:
    return Deadline.within(30)


async def test_what_does_not_fit_fails_when_its_time_is_over() -> None:
    budget, registry = new_budget()
    async with budget.share(4800, late()):
        with pytest.raises(ResourceExhausted) as caught:
            async with budget.share(101, soon()):
                pass
        assert caught.value.reason == "MEMORY_EXHAUSTED"
        assert caught.value.retry_after_s
        assert registry.get_sample_value("sentinel_gateway_memory_in_use_bytes") == 4800
    assert budget.used == 0
    assert registry.get_sample_value("sentinel_gateway_memory_budget_bytes") == LIMIT


async def test_a_share_above_the_largest_fails_at_once() -> None:
    budget, _ = new_budget()
    with pytest.raises(ResourceExhausted) as caught:
        async with budget.share(4801, late()):
            pass
    assert caught.value.reason == "MEMORY_EXHAUSTED"
    assert caught.value.retry_after_s is None


async def test_small_work_has_room_while_large_work_waits() -> None:
    budget, registry = new_budget()
    async with budget.share(4800, late()):
        waiting = asyncio.create_task(budget.share(200, late()).__aenter__())
        name = "sentinel_gateway_memory_waiting"
        await eventually(lambda: registry.get_sample_value(name) == 1)
        async with budget.share(100, soon()):
            assert budget.used == 4900
    await waiting
    assert budget.used == 200


async def test_shares_come_in_the_order_in_which_they_were_asked_for() -> None:
    budget, _ = new_budget()
    order: list[int] = []

    async def work(number: int, size: int) -> None:
        async with budget.share(size, late()):
            order.append(number)

    async with asyncio.TaskGroup() as group, budget.share(4000, late()) as first:
        for number, size in enumerate((4000, 200, 4000, 200)):
            group.create_task(work(number, size))
            await asyncio.sleep(0)
        assert order == []  # the second would fit, but the first came first
        first.resize(0)
    assert order == [0, 1, 2, 3]
    assert budget.used == 0


async def test_bytes_given_back_early_go_to_who_waits() -> None:
    budget, _ = new_budget()
    async with budget.share(4800, late()) as share:
        waiting = asyncio.create_task(budget.share(4000, late()).__aenter__())
        await asyncio.sleep(0)
        share.resize(800)
        second = await waiting
        share.resize(4000)  # never takes more
        assert budget.used == 4800
        second.resize(0)
    assert budget.used == 0


@pytest.mark.parametrize("granted", [False, True])
async def test_who_leaves_while_waiting_holds_nothing(granted: bool) -> None:
    budget, _ = new_budget()
    async with budget.share(4800, late()) as share:
        leaving = asyncio.create_task(budget.share(4800, late()).__aenter__())
        staying = asyncio.create_task(budget.share(200, late()).__aenter__())
        await asyncio.sleep(0)
        if granted:
            share.resize(0)  # and before it can run, it is cancelled
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
    await staying
    assert budget.used == 200


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        (  # version 2, as a program on the machine sees it; the outer group is smaller
            "0::/pod/worker\n",
            {"pod/worker/memory.max": "max\n", "pod/memory.max": "1073741824\n"},
            1 << 30,
        ),
        ("0::/\n", {"memory.max": "2147483648\n"}, 2 << 30),  # version 2, in a container
        (  # version 1, in a container: the group's name does not exist inside
            "5:cpu:/docker/x\n4:memory:/docker/x\n",
            {"memory/memory.limit_in_bytes": "1073741824\n"},
            1 << 30,
        ),
    ],
)
def test_the_default_is_a_part_of_the_container(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert default_limit(tmp_path) == int(0.6 * limit)


def test_without_a_container_the_default_is_less_than_half_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    assert default_limit(tmp_path) == default_limit(tmp_path / "nothing")
    assert default_limit(tmp_path) > 0
