"""The pump of a stream: bounded whichever side is slow, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from embedder_server.api.embedding_service import StreamPump
from tests.waiting import eventually


class Source:
    """Numbers as requests; knows how many were read."""

    def __init__(self, count: int, *, endless: bool = False) -> None:
        self.read = 0
        self._count = count
        self._endless = endless

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self._count):
            self.read += 1
            yield number
        if self._endless:
            await asyncio.Event().wait()


def weight_one(_: int) -> int:
    return 1


async def test_answers_come_as_they_are_done_and_none_is_missing() -> None:
    async def answer(number: int) -> int:
        await asyncio.sleep(0.001 * (10 - number))
        return number

    pump = StreamPump(answer, weight_one, 10, asyncio.Event())
    got = [one async for one in pump.run(aiter(Source(10)))]
    assert sorted(got) == list(range(10))
    assert got != sorted(got)


async def test_it_reads_no_faster_than_the_work_is_done() -> None:
    gate, source = asyncio.Event(), Source(100)

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    pump = StreamPump(answer, weight_one, 4, asyncio.Event())
    task = asyncio.create_task(_collect(pump, source))
    await eventually(lambda: source.read == 5)
    await asyncio.sleep(0.02)
    assert source.read == 5  # four at work, one in hand
    gate.set()
    assert len(await task) == 100


async def test_it_reads_no_faster_than_answers_are_taken() -> None:
    source = Source(100)

    async def answer(number: int) -> int:
        return number

    pump = StreamPump(answer, weight_one, 4, asyncio.Event())
    responses = pump.run(aiter(source))
    await anext(responses)
    await asyncio.sleep(0.02)
    assert source.read <= 6
    assert len([one async for one in responses]) == 99


async def test_a_message_larger_than_the_bound_goes_alone() -> None:
    at_work = most = 0

    async def answer(number: int) -> int:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.001)
        at_work -= 1
        return number

    pump = StreamPump(answer, lambda _: 50, 4, asyncio.Event())
    assert len(await _collect(pump, Source(5))) == 5
    assert most == 1


async def test_stopping_answers_what_was_read_and_ends() -> None:
    stopping, gate, source = asyncio.Event(), asyncio.Event(), Source(3, endless=True)

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    task = asyncio.create_task(_collect(StreamPump(answer, weight_one, 10, stopping), source))
    await eventually(lambda: source.read == 3)
    await asyncio.sleep(0.01)
    stopping.set()
    await asyncio.sleep(0.01)
    gate.set()
    assert sorted(await asyncio.wait_for(task, 30)) == [0, 1, 2]


async def test_who_leaves_cancels_the_work() -> None:
    begun = cancelled = 0

    async def answer(number: int) -> int:
        nonlocal begun, cancelled
        begun += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return number

    task = asyncio.create_task(
        _collect(StreamPump(answer, weight_one, 10, asyncio.Event()), Source(3))
    )
    await eventually(lambda: begun == 3)
    task.cancel()
    await asyncio.wait({task})
    assert cancelled == 3


async def test_a_reader_that_fails_ends_the_stream_with_its_error() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("gone")

    async def answer(number: int) -> int:
        return number

    pump = StreamPump(answer, weight_one, 10, asyncio.Event())
    with pytest.raises(OSError, match="gone"):
        async for _ in pump.run(broken()):
            pass


async def _collect(pump: StreamPump[int, int], source: Source) -> list[int]:
    return [one async for one in pump.run(aiter(source))]
