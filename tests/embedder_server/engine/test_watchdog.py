from __future__ import annotations

import asyncio

import pytest

from embedder_server.engine.device_loop import watch_for_stalls
from tests.waiting import eventually


async def test_it_tells_once_that_the_device_stalls_and_once_that_it_moves() -> None:
    busy, changes = 0.0, []

    async def on_change(stalled: bool) -> None:
        changes.append(stalled)

    task = asyncio.create_task(watch_for_stalls(lambda: busy, 0.5, on_change))
    await asyncio.sleep(0.15)
    assert changes == []
    busy = 0.6
    await eventually(lambda: changes)
    busy = 1.0
    await asyncio.sleep(0.15)
    assert changes == [True]
    busy = 0.0
    await eventually(lambda: len(changes) > 1)
    await asyncio.sleep(0.15)
    assert changes == [True, False]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
